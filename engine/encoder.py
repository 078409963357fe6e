"""The engine's interface: texts and images in, embeddings out.

The encoder plans the batches that the backbone runs, so memory use does not depend on how many inputs a call has. If a
batch does not fit into memory, it runs smaller ones.
"""

import functools
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
import torch

from .adapter_files import adapter_tasks
from .arguments import check_choice
from .backbone import Backbone
from .batches import plan_batches
from .checkpoint import read_config, resolve
from .devices import resolve_device, resolve_dtype
from .embeddings import Embeddings
from .image_batch import ResizedImage
from .images import ImageSource, is_one_image, resize_image
from .look_ahead import windows
from .memory import in_halves
from .pooling import multi_vectors, single_vectors, truncate
from .processing import Processor
from .sharing import shared_adapters, shared_backbone
from .text_cache import TextCache
from .transfers import to_host

# Inputs that are prepared, and sorted by length, at a time. Fewer for images that threads prepare ahead: two such
# windows are in memory, and the GPU waits for the first.
_WINDOW = 256
_AHEAD = 64


class Encoder:
    """Encodes texts and images with one checkpoint.

    Repeated short texts are encoded once.

    All encoders of one checkpoint, device and precision share one copy of the weights. Each has its own default task.

    The weights are loaded when they are first needed, so wrong arguments fail before the loading. The vision tower is
    loaded with the first image, and an adapter of the checkpoint when its task is first asked for.

    Args:
        directory: the checkpoint's directory
        task ("retrieval"): the default task
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. ``None`` takes the first available
        precision ("auto"): ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or, on a CPU, ``"int8"``
        adapter (None): a directory with ``adapter_config.json`` and ``adapter_model.safetensors``, whose adapters
            replace the checkpoint's for their tasks

    Raises:
        engine.checkpoint.CheckpointError: if the checkpoint or the adapter is damaged
        ValueError: if an argument is not allowed
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        task: str = "retrieval",
        device: str | torch.device | None = None,
        precision: str = "auto",
        adapter: str | os.PathLike | None = None,
    ) -> None:
        config = read_config(directory)
        self.directory = directory
        self.tasks = tuple(config["task_names"])
        self.task = task
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(precision, self.device)
        self.processor = Processor(directory)
        self.adapter = adapter
        self._cache = TextCache()
        if adapter is not None:
            for adapter_task in adapter_tasks(adapter):
                check_choice(f"the task of {adapter}", adapter_task, self.tasks)

        hidden_size = config["text_config"]["hidden_size"]
        self.matryoshka_dims = tuple(dim for dim in config["matryoshka_dims"] if dim <= hidden_size)

    @classmethod
    def from_checkpoint(cls, checkpoint: str | os.PathLike, **kwargs: Any) -> "Encoder":
        """Finds or downloads a checkpoint, and loads its language model, unless the process holds it already.

        Args:
            checkpoint: a local directory, ``"org/name"`` or ``"org/name@revision"``
            **kwargs: the other arguments of :class:`Encoder`

        Returns:
            an :class:`Encoder`

        Raises:
            engine.checkpoint.CheckpointError: if the checkpoint cannot be found or downloaded, or is damaged
            ValueError: if an argument is not allowed
        """
        encoder = cls(resolve(checkpoint), **kwargs)
        encoder.load()
        return encoder

    @functools.cached_property
    def backbone(self) -> Backbone:
        """The process's one copy of the weights, a :class:`engine.backbone.Backbone`."""
        return shared_backbone(self.directory, self.device, self.dtype)

    @functools.cached_property
    def _adapters(self):
        """The names of the adapters in the backbone, by task."""
        # Kept as an attribute: the backbone deletes adapters that are no longer referenced.
        self._own_adapters = {} if self.adapter is None else shared_adapters(self.backbone, self.adapter)
        return {task: task for task in self.tasks} | self._own_adapters

    def load(self) -> Backbone:
        """Loads the language model and the adapters of :attr:`adapter`, unless they are loaded.

        Returns:
            the :class:`engine.backbone.Backbone`
        """
        self._adapters  # noqa: B018, a cached property that loads
        return self.backbone

    def load_vision_tower(self) -> None:
        """Loads the vision tower, as the first image does."""
        self.backbone.load_vision_tower()

    @property
    def task(self) -> str:
        """The default task."""
        return self._task

    @task.setter
    def task(self, task: str) -> None:
        check_choice("task", task, self.tasks)
        self._task = task

    @property
    def multi_vector_dim(self) -> int:
        """The dimensions of each row of a multi-vector."""
        return self.backbone.multi_vector_dim

    def check_truncate_dim(self, truncate_dim: int | None) -> None:
        """Checks a number of dimensions to truncate single vectors to.

        Raises:
            ValueError: if the model was not trained for it
        """
        if truncate_dim is not None:
            check_choice("truncate_dim", truncate_dim, (*self.matryoshka_dims, None))

    def encode_texts(
        self,
        texts: str | Iterable[str],
        task: str | None = None,
        prompt_name: str | None = "query",
        max_length: int | None = None,
        truncate_dim: int | None = None,
    ) -> Embeddings:
        """Encodes texts.

        Args:
            texts: strings, or one string
            task (None): one of :attr:`tasks`. ``None`` means :attr:`task`
            prompt_name ("query"): ``"query"`` or ``"passage"``. With the task ``"text-matching"`` all texts are queries
            max_length (None): the number of tokens to keep, prefix included, at most 32768
            truncate_dim (None): one of the checkpoint's Matryoshka dimensions. ``None`` keeps them all

        Returns:
            :class:`Embeddings`

        Raises:
            TypeError: if an input is not a string
            ValueError: if an argument is not allowed
        """
        task = self._check_task(task)
        self.check_truncate_dim(truncate_dim)
        texts = [texts] if isinstance(texts, str) else texts
        tokens = [self.processor.text_tokens(text, task, prompt_name, max_length) for text in texts]

        def encode(indexes):
            (embeddings,) = self._encode(
                [tokens[i] for i in indexes], lambda text_tokens: text_tokens, [task], truncate_dim
            )
            return embeddings.single, embeddings.multi

        if not tokens:
            return Embeddings(*encode([]))

        keys = [(task, truncate_dim, text_tokens.ids.numpy().tobytes()) for text_tokens in tokens]
        return Embeddings(*self._cache.encode(keys, encode))

    @overload
    def encode_images(
        self,
        images: ImageSource | Iterable[ImageSource],
        task: str | None = None,
        max_pixels: int | None = None,
        truncate_dim: int | None = None,
        tasks: None = None,
    ) -> Embeddings: ...

    @overload
    def encode_images(
        self,
        images: ImageSource | Iterable[ImageSource],
        task: str | None = None,
        max_pixels: int | None = None,
        truncate_dim: int | None = None,
        *,
        tasks: Sequence[str],
    ) -> dict[str, Embeddings]: ...

    def encode_images(
        self,
        images: ImageSource | Iterable[ImageSource],
        task: str | None = None,
        max_pixels: int | None = None,
        truncate_dim: int | None = None,
        tasks: Sequence[str] | None = None,
    ) -> Embeddings | dict[str, Embeddings]:
        """Encodes images.

        Args:
            images: images, or one image: PIL images, uint8 arrays ``HxWx3``, tensors ``CxHxW``, paths, http(s)
                URLs or :class:`engine.image_batch.ResizedImage`
            task (None): one of :attr:`tasks`. ``None`` means :attr:`task`
            max_pixels (None): larger images are resized down to this area, in pixels. The cost of an image grows with
                it. ``None`` means the checkpoint's own limit, 602112 pixels or 768 visual tokens
            truncate_dim (None): one of the checkpoint's Matryoshka dimensions. ``None`` keeps them all
            tasks (None): a list of tasks, in place of ``task``. The vision tower, half of the work, runs once for all

        Returns:
            :class:`Embeddings`, or with ``tasks`` a dict of them by task

        Raises:
            engine.image_files.ImageError: if an image cannot be read, naming it
            ValueError: if an argument is not allowed
        """
        checked_tasks = [self._check_task(name) for name in ([task] if tasks is None else tasks)]
        self.check_truncate_dim(truncate_dim)
        settings = self.processor.image_settings
        settings.check_max_pixels(max_pixels)
        sources = _as_list(images)
        if sources:
            # Here, as with adapters, and not within a batch that is split where the memory does not suffice.
            self.load_vision_tower()
        embeddings = self._encode(
            sources,
            lambda image: self.processor.image_tokens(resize_image(image, settings, max_pixels)),
            checked_tasks,
            truncate_dim,
            # On a CPU, the threads would compete with the model.
            ahead=self.device.type != "cpu" and not all(isinstance(source, ResizedImage) for source in sources),
        )
        return embeddings[0] if tasks is None else dict(zip(checked_tasks, embeddings, strict=True))

    def _check_task(self, task):
        if task is None:
            return self.task

        check_choice("task", task, self.tasks)
        return task

    def _encode(self, inputs, tokenize, tasks, truncate_dim, ahead=False):
        """Encodes inputs for each of several tasks.

        With ``ahead``, threads prepare the next inputs at the same time.

        Returns:
            a list of :class:`Embeddings`, one per task
        """
        inputs = list(inputs)
        for task in tasks if inputs else ():
            self.backbone.load_adapter(self._adapters[task])
        dim = truncate_dim or self.backbone.hidden_size
        embeddings = [Embeddings(np.empty((len(inputs), dim), dtype=np.float32), [None] * len(inputs)) for _ in tasks]

        def collect(batch, fetch):
            for result, (single, multi) in zip(embeddings, fetch(), strict=True):
                result.single[batch] = single
                for i, vectors in zip(batch, multi, strict=True):
                    # A copy: a view would keep the whole batch's memory.
                    result.multi[i] = vectors.copy()

        # A GPU computes a batch while the next is prepared, and the results of the last are copied.
        pending = None
        for start, prepared in windows(tokenize, inputs, _AHEAD if ahead else _WINDOW, ahead):
            for batch in plan_batches([len(tokens) for tokens in prepared], lambda: self.backbone.token_budget):
                launched = self._launch([prepared[i] for i in batch], tasks, truncate_dim)
                if pending is not None:
                    collect(*pending)
                pending = [start + i for i in batch], launched
        if pending is not None:
            collect(*pending)

        if not all(np.isfinite(rows).all() for result in embeddings for rows in (result.single, *result.multi)):
            if self.dtype == torch.float32:
                raise FloatingPointError(
                    f"The model overflowed in float32: the weights in {self.directory} are damaged, and contain values "
                    "that are not finite or far too large. Download them again"
                )
            raise FloatingPointError(
                f"The model overflowed in {self.dtype}. Load it with precision='float32', or 'bfloat16' where "
                "the GPU has it"
            )

        return embeddings

    def _launch(self, batch, tasks, truncate_dim):
        """Runs a batch, in parts if it does not fit into memory.

        Returns:
            a function that waits for the results and yields, for each task, the single vectors and the list of
            multi-vectors
        """

        def run(batch):
            visual = (
                None if batch[0].image is None else self.backbone.encode_vision(batch, self.processor.image_settings)
            )
            vectors = []
            for task in tasks:
                hidden_states, projected = self.backbone.encode_tokens(batch, self._adapters[task], visual)
                single = truncate(single_vectors(hidden_states, _pooled(batch)), truncate_dim)
                vectors.append((to_host(single), to_host(multi_vectors(projected))))
            return [([len(tokens) for tokens in batch], vectors)]

        parts = in_halves(run, batch, failed=self.backbone.reduce_token_budget)
        copied = None
        if self.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self.device))

        def fetch():
            if copied is not None:
                copied.synchronize()
            for i in range(len(tasks)):
                single = np.concatenate([vectors[i][0].numpy() for _, vectors in parts])
                multi = [rows.numpy() for lengths, vectors in parts for rows in vectors[i][1].split(lengths)]
                yield single, multi

        return fetch


def _as_list(images):
    return [images] if is_one_image(images) else list(images)


def _pooled(batch):
    """Returns the slices of a pack's tokens that are averaged to single vectors."""
    starts = itertools.accumulate((len(tokens) for tokens in batch), initial=0)
    return [
        slice(start + tokens.pooled.start, start + tokens.pooled.stop)
        for start, tokens in zip(starts, batch, strict=False)
    ]
