"""The engine's face: texts and images in, embeddings out.

It plans the batches that the backbone runs, so that what a caller hands over at once does not decide how much memory is
used, and it survives running out of memory by running less at a time.
"""

import functools
from dataclasses import dataclass

import numpy as np

from .arguments import check_choice
from .checkpoint import read_config, resolve
from .images import is_one_image, resize_image
from .loading import adapter_tasks, resolve_device, resolve_dtype, shared_adapters, shared_backbone
from .memory import in_halves
from .pooling import multi_vector, single_vector, truncate
from .processing import Processor

# Tokens of a forward pass, padding included. About 20 full pages on a GPU; on a CPU, larger batches win nothing.
_TOKEN_BUDGET = {"cuda": 16384, "mps": 4096, "cpu": 2048}

# Inputs that are held prepared at a time, and sorted by length among each other.
_WINDOW = 256


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of N texts or images, both kinds from one forward pass.

    Args:
        single: a float32 array ``(N, dim)``, rows of length 1 (L2)
        multi: a list of N float32 arrays ``(tokens_i, 128)``, rows of length 1
    """

    single: np.ndarray
    multi: list

    def __len__(self):
        return len(self.multi)


class Encoder:
    """Encodes texts and images with one checkpoint.

    Encoders are light: all those of one checkpoint, device and precision share one copy of the weights. Each has its
    own default task.

    The weights are loaded when they are first needed, so that wrong arguments are told before that takes its time.

    Args:
        directory: the checkpoint's directory
        task ("retrieval"): the task of the calls that name none
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. ``None`` takes the first there is
        precision ("auto"): ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``
        adapter (None): a directory with adapters of one's own, ``adapter_config.json`` and
            ``adapter_model.safetensors``, that are applied in place of the checkpoint's for the tasks that they are for

    Raises:
        jina_v4.checkpoint.CheckpointError: if the checkpoint or the adapter is damaged
        ValueError: if an argument is not allowed
    """

    def __init__(self, directory, task="retrieval", device=None, precision="auto", adapter=None):
        config = read_config(directory)
        self.directory = directory
        self.tasks = tuple(config["task_names"])
        self.task = task
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(precision, self.device)
        self.processor = Processor(directory)
        self.adapter = adapter
        if adapter is not None:
            for added in adapter_tasks(adapter):
                check_choice(f"the task of {adapter}", added, self.tasks)

        hidden_size = config["text_config"]["hidden_size"]
        self.matryoshka_dims = tuple(dim for dim in config["matryoshka_dims"] if dim <= hidden_size)

    @classmethod
    def from_checkpoint(cls, checkpoint, **kwargs):
        """Finds a checkpoint, or downloads it, and loads it, or shares the copy that the process has of it.

        Args:
            checkpoint: a local directory, ``"org/name"`` or ``"org/name@revision"``
            **kwargs: the other arguments of :class:`Encoder`

        Returns:
            an :class:`Encoder`

        Raises:
            jina_v4.checkpoint.CheckpointError: if the checkpoint is not to be had, or damaged
            ValueError: if an argument is not allowed
        """
        encoder = cls(resolve(checkpoint), **kwargs)
        encoder.load()
        return encoder

    @functools.cached_property
    def backbone(self):
        """The process's one copy of the weights, a :class:`jina_v4.backbone.Backbone`."""
        return shared_backbone(self.directory, self.device, self.dtype)

    @functools.cached_property
    def _adapters(self):
        """The names of the adapters in the backbone, by task."""
        added = {} if self.adapter is None else shared_adapters(self.backbone, self.adapter)
        return {task: task for task in self.tasks} | added

    def load(self):
        """Loads the weights, those of the adapters too, unless they are loaded.

        Returns:
            the :class:`jina_v4.backbone.Backbone`
        """
        self._adapters  # noqa: B018, loads when it is first asked for
        return self.backbone

    @property
    def task(self):
        """The task of the calls that name none."""
        return self._task

    @task.setter
    def task(self, task):
        check_choice("task", task, self.tasks)
        self._task = task

    @property
    def multi_vector_dim(self):
        """The dimensions of each row of a multi-vector."""
        return self.backbone.multi_vector_dim

    def check_truncate_dim(self, truncate_dim):
        """Checks a number of dimensions to truncate single vectors to.

        Raises:
            ValueError: if the model was not trained for it
        """
        if truncate_dim is not None:
            check_choice("truncate_dim", truncate_dim, (*self.matryoshka_dims, None))

    def encode_texts(self, texts, task=None, prompt_name="query", max_length=None, truncate_dim=None):
        """Encodes texts.

        Args:
            texts: a list of strings, or one string
            task (None): one of :attr:`tasks`. ``None`` means :attr:`task`
            prompt_name ("query"): ``"query"`` or ``"passage"``: what the text is to its reader. With the task
                ``"text-matching"`` all texts are queries
            max_length (None): the number of tokens to keep, prefix included, at most 32768
            truncate_dim (None): one of the checkpoint's Matryoshka dimensions. ``None`` keeps them all

        Returns:
            :class:`Embeddings`

        Raises:
            TypeError: if an input is no string
            ValueError: if an argument is not allowed
        """
        task = self._check_task(task)
        self.check_truncate_dim(truncate_dim)
        texts = [texts] if isinstance(texts, str) else texts
        return self._encode(
            texts, lambda text: self.processor.text_tokens(text, task, prompt_name, max_length), task, truncate_dim
        )

    def encode_images(self, images, task=None, max_pixels=None, truncate_dim=None):
        """Encodes images.

        Args:
            images: a list of images, or one: PIL images, uint8 arrays ``HxWx3``, tensors ``CxHxW``, paths, http(s)
                URLs or :class:`jina_v4.images.ResizedImage`
            task (None): one of :attr:`tasks`. ``None`` means :attr:`task`
            max_pixels (None): the area in pixels down to which larger images are resized; the cost of an image grows
                with it. ``None`` means the checkpoint's own, 602112 pixels or 768 visual tokens
            truncate_dim (None): one of the checkpoint's Matryoshka dimensions. ``None`` keeps them all

        Returns:
            :class:`Embeddings`

        Raises:
            jina_v4.images.ImageError: if an image cannot be read, naming it
            ValueError: if an argument is not allowed
        """
        task = self._check_task(task)
        self.check_truncate_dim(truncate_dim)
        settings = self.processor.image_settings
        settings.check_max_pixels(max_pixels)
        images = [images] if is_one_image(images) else images
        return self._encode(
            images,
            lambda image: self.processor.image_tokens(resize_image(image, settings, max_pixels)),
            task,
            truncate_dim,
        )

    def _check_task(self, task):
        if task is None:
            return self.task

        check_choice("task", task, self.tasks)
        return task

    def _encode(self, inputs, tokenize, task, truncate_dim):
        inputs = list(inputs)
        single = np.empty((len(inputs), truncate_dim or self.backbone.hidden_size), dtype=np.float32)
        multi = [None] * len(inputs)
        settings = self.processor.image_settings

        def run(batch):
            return self.backbone(batch, self._adapters[task], settings)

        for start in range(0, len(inputs), _WINDOW):
            prepared = [tokenize(item) for item in inputs[start : start + _WINDOW]]
            for batch in plan_batches([len(tokens) for tokens in prepared], _TOKEN_BUDGET[self.device.type]):
                outputs = in_halves(run, [prepared[i] for i in batch])
                for i, (hidden_states, projected) in zip(batch, outputs, strict=True):
                    vector = truncate(single_vector(hidden_states, prepared[i].pooled), truncate_dim)
                    single[start + i] = vector.cpu().numpy()
                    multi[start + i] = multi_vector(projected).cpu().numpy()

        if not np.isfinite(single).all():
            raise FloatingPointError(
                f"The model overflowed in {self.dtype}. Load it with precision='float32', or 'bfloat16' where "
                "the GPU has it"
            )

        return Embeddings(single, multi)


def plan_batches(lengths, token_budget):
    """Groups inputs of similar length, so that little of a batch is padding and no batch exceeds a budget.

    Args:
        lengths: the number of tokens of each input
        token_budget: the number of tokens of a batch, padding included. An input that exceeds it runs alone

    Returns:
        a list of lists of indexes into ``lengths``, which together hold each index once
    """
    batches = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = lengths[i]

        batches[-1].append(i)

    return batches
