"""Jina Embeddings v4 as a FiftyOne model: embeddings, prompts and zero-shot classification."""

import logging

import fiftyone.core.models as fom
import fiftyone.utils.torch as fout
import numpy as np
import torch

from .engine.checkpoint import resolve
from .engine.embeddings import join
from .engine.encoder import Encoder
from .engine.image_batch import ImageBatch
from .engine.image_files import ImageError
from .engine.image_loading import describe
from .engine.images import is_one_image
from .engine.pooling import pool_multi_vectors
from .engine.scoring import TokenSet, class_logits, maxsim
from .integration.config import LOADING_ONLY, Setting, check_filter, is_nearly_a_setting, unknown
from .integration.failures import FailedImage, spread
from .integration.loading import ImageLoader, PatchTransform, load_or_fail
from .integration.seams import (
    MISSING,
    EmbeddingRows,
    StackedRow,
    extend_path,
    fiftyone_argument,
    leave_model_cache,
    restore_path,
)
from .integration.task_embeddings import compute_task_embeddings
from .late_interaction.heatmaps import write_heatmaps
from .late_interaction.similarity import register_backend

# The functions of FiftyOne whose variables say what the call being served was asked to do.
_APPLY = ("fiftyone.core.models.apply_model",)
_OF_PATCHES = ("fiftyone.core.models.compute_patch_embeddings",)
_EMBED = ("fiftyone.core.models.compute_embeddings", *_OF_PATCHES)

# Images that are loaded at a time.
_BATCH = 64

logger = logging.getLogger(__name__)

# Once the model is loaded, which compute_similarity() does before it looks for the backend.
register_backend()


class JinaV4(fout.TorchImageModel, fom.PromptMixin):
    """Jina Embeddings v4 (arXiv 2506.18902).

    Images and texts become vectors of one space. Each has a single vector, for similarity search, and a multi-vector of
    128 dimensions per token, for late interaction: the zero-shot classifier here.

    The settings below can be changed on a loaded model. What was cached for other values is computed anew.

    Args:
        config: a :class:`jina_embeddings_v4.integration.config.JinaV4Config`
    """

    classes = Setting(
        "The class names for zero-shot classification, a list of strings, or ``None``.",
        lambda model, value: check_filter(value, model.filter_classes),
    )
    text_prompt = Setting("What to put before each class name.")
    pooling_strategy = Setting("``None`` for single vectors, ``'mean'`` or ``'max'`` for pooled multi-vectors.")
    temperature = Setting("The softmax temperature of the class probabilities.")
    score = Setting("How images and classes are compared: ``'maxsim'``, ``'maxsim-sum'`` or ``'pooled'``.")
    confidence_thresh = Setting("The confidence below which a prediction is dropped, or ``None``.")
    filter_classes = Setting(
        "The classes to which predictions are restricted, or ``None`` for all.",
        lambda model, value: check_filter(model.classes, value),
    )
    query_prompt_name = Setting("The prefix of prompts and class texts: ``'query'`` or ``'passage'``.")
    passage_prompt_name = Setting("The prefix of texts that are documents: ``'query'`` or ``'passage'``.")
    truncate_dim = Setting(
        "The number of dimensions of single vectors, ``None`` for all.",
        lambda model, value: model.encoder.check_truncate_dim(value),
    )
    max_pixels = Setting(
        "The area in pixels down to which larger images are resized, ``None`` for the checkpoint's own.",
        lambda model, value: model.encoder.processor.image_settings.check_max_pixels(value),
    )

    # What else is set on an instance.
    config, encoder = None, None

    def __init__(self, config):
        self._last_embeddings = None
        # What the class vectors depend on, and these: one tuple, since threads may share the model.
        self._cached_classes = None, None
        super().__init__(config)

    def __setattr__(self, name, value):
        if name in LOADING_ONLY:
            raise AttributeError(f"{name!r} cannot be changed on a loaded model: pass it to load_zoo_model()")
        # Python would take any name, and what a person meant to set would stay as it was. FiftyOne may set what it
        # likes.
        if not name.startswith("_") and not hasattr(type(self), name) and is_nearly_a_setting(name):
            raise AttributeError(unknown(name))

        super().__setattr__(name, value)

    def _load_model(self, config):
        self.encoder = Encoder(resolve(config.checkpoint), config.task, self._device, config.precision, config.adapter)

        # What needs a checkpoint to be checked against, before its weights take their time to load.
        self.truncate_dim, self.max_pixels = config.truncate_dim, config.max_pixels
        return self.encoder.load()

    def _build_transforms(self, config):
        return None, config.ragged_batches

    def __enter__(self):
        # FiftyOne would report the missing classes once per batch, and go on.
        if fiftyone_argument(_APPLY, "label_field") is not None:
            self._require_classes()

        leave_model_cache(self)
        extend_path()
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        restore_path()

    @property
    def task(self):
        """The task whose adapter is applied. Switching loads nothing."""
        return self.encoder.task

    @task.setter
    def task(self, task):
        self.encoder.task = task
        leave_model_cache(self)

    #
    # What FiftyOne asks
    #

    @property
    def num_classes(self):
        """The number of classes, or ``None``."""
        return None if self.classes is None else len(self.classes)

    @property
    def has_collate_fn(self):
        return True

    # Images of a batch differ in size, so they stay a list.
    collate_fn = ImageBatch

    def build_get_item(self, field_mapping=None):
        return ImageLoader(self.encoder.processor.image_settings, self.max_pixels, field_mapping)

    @property
    def transforms(self):
        """Prepares the patches of ``compute_patch_embeddings``."""
        return PatchTransform(self.encoder.processor.image_settings, self.max_pixels)

    @property
    def has_embeddings(self):
        return True

    @property
    def can_embed_prompts(self):
        return True

    @property
    def has_logits(self):
        return True

    #
    # Embeddings
    #

    def embed(self, image):
        """Embeds an image.

        Args:
            image: a PIL image, a uint8 array (HWC), a tensor (CHW), a path or an http(s) URL

        Returns:
            a float32 array ``(dim,)`` of length 1
        """
        return self.embed_all([image])[0]

    def embed_images(self, images):
        """Embeds images.

        Args:
            images: a list of any number of images, see :meth:`embed`

        Returns:
            a float32 array ``(images, dim)``, rows of length 1: single vectors, or multi-vectors pooled by
            :attr:`pooling_strategy`

        Raises:
            engine.image_files.ImageError: if an image cannot be read, naming it
        """
        images = _as_list(images)
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)] or [[]]
        # A local, since another thread may embed meanwhile.
        vectors = self._last_embeddings = np.concatenate([self.embed_all(batch) for batch in batches])
        return vectors

    def embed_all(self, images):
        """Embeds a batch of images for FiftyOne, as :meth:`embed_images` does.

        Where FiftyOne was asked to skip failures, an image that cannot be read is reported, and its row is empty in the
        way that FiftyOne expects of the call.

        Args:
            images: a list of images, see :meth:`embed`

        Returns:
            a float32 array ``(images, dim)``; if images failed, or FiftyOne puts the embeddings of several batches
            together, what :mod:`integration.seams` has for it

        Raises:
            engine.image_files.ImageError: if an image cannot be read, and failures are not to be skipped
        """
        images = _as_list(images)
        in_memory = fiftyone_argument(_EMBED, "embeddings_field", default="") is None
        of_patches = fiftyone_argument(_OF_PATCHES, "patches_field") is not None
        if not in_memory or of_patches:
            images, vectors = self._embed_all(images)
            if len(vectors) == len(images):
                return vectors
            # In memory, FiftyOne knows of samples that failed, but not of single patches.
            return MISSING if in_memory else EmbeddingRows(spread(vectors, images, MISSING if of_patches else None))

        try:
            images, vectors = self._embed_all(images)
        except Exception as error:
            if not fiftyone_argument(_EMBED, "skip_failures", default=False):
                raise
            # FiftyOne would skip it, too, but then returns what stands for failures in other batches as it is.
            logger.warning("Skipping %d images, the first of them %s: %s", len(images), describe(images[0]), error)
            return [MISSING] * len(images)

        return spread([StackedRow.of(vector) for vector in vectors], images, None if len(vectors) else MISSING)

    def _embed_all(self, images):
        images, embeddings = self.encode_images(images)
        vectors = self._last_embeddings = self._vectors(embeddings)
        return images, vectors

    def compute_task_embeddings(self, samples, fields, **kwargs):
        """Embeds the images of a dataset for several tasks at little more than the price of one.

        See :func:`jina_embeddings_v4.integration.task_embeddings.compute_task_embeddings`.

        Args:
            samples: a dataset or view of images
            fields: a dict of the fields to write, by task, eg ``{"retrieval": "retrieval", "code": "code"}``
            **kwargs: ``batch_size``, ``num_workers``, ``skip_failures`` and ``progress``, as in
                ``dataset.compute_embeddings``; ``skip_existing`` and ``overwrite``
        """
        compute_task_embeddings(self, samples, fields, **kwargs)

    def heatmaps(self, samples, query, label_field="heatmap", **kwargs):
        """Writes where on each image a text query is met, as :class:`fiftyone.core.labels.Heatmap` labels.

        See :func:`jina_embeddings_v4.late_interaction.heatmaps.write_heatmaps`.

        Args:
            samples: a dataset or view of images
            query: a string
            label_field ("heatmap"): the field to write
            **kwargs: the function's other arguments

        Returns:
            the list of the names of the fields
        """
        return write_heatmaps(self, samples, query, label_field, **kwargs)

    def embed_for_tasks(self, images, tasks, skip_failures=False):
        """Embeds images for several tasks.

        Args:
            images: a list of images, see :meth:`embed`
            tasks: a list of tasks
            skip_failures (False): whether to warn of an image that cannot be read, in place of raising an error

        Returns:
            a tuple of the images, those that failed replaced by :class:`integration.failures.FailedImage`, and
            the dict of the others' embeddings by task, float32 arrays ``(images, dim)``
        """
        images, embeddings = self.encode_images(_as_list(images), tasks, skip_failures)
        return images, {task: self._vectors(of_task) for task, of_task in embeddings.items()}

    def embed_prompt(self, prompt):
        """Embeds a text query.

        Args:
            prompt: a string

        Returns:
            a float32 array ``(dim,)`` of length 1
        """
        return self.embed_prompts([prompt])[0]

    def embed_prompts(self, prompts):
        """Embeds text queries, with the prefix :attr:`query_prompt_name`.

        Args:
            prompts: a list of strings

        Returns:
            a float32 array ``(prompts, dim)``, rows of length 1, comparable with :meth:`embed_images`
        """
        return self._vectors(self.encode_prompts(prompts))

    def embed_passages(self, texts):
        """Embeds texts that are documents to be searched, with the prefix :attr:`passage_prompt_name`.

        Args:
            texts: a list of strings

        Returns:
            a float32 array ``(texts, dim)``, rows of length 1, comparable with :meth:`embed_prompts`
        """
        return self._vectors(self._encode_texts(texts, self.passage_prompt_name))

    def get_embeddings(self):
        """Returns the vectors of the images of the last call.

        Returns:
            a float32 array ``(images, dim)``, without the images that failed: after an embedding, what it returned;
            after a prediction, ``(images, 128)``, the multi-vectors pooled by :attr:`pooling_strategy`, or by their
            mean where that is ``None``
        """
        if self._last_embeddings is None:
            raise ValueError("There are no embeddings yet: embed or classify images first")

        return self._last_embeddings

    def encode_images(self, images, tasks=None, skip_failures=None):
        """Loads and encodes images, both vectors of each.

        Args:
            images: a list of images, see :meth:`embed`
            tasks (None): a list of tasks, by default the model's own
            skip_failures (None): whether to warn of an image that cannot be read, in place of raising an error; by
                default what the running FiftyOne call was asked to do

        Returns:
            a tuple of the images, each that failed replaced by a :class:`integration.failures.FailedImage`, and
            the :class:`engine.embeddings.Embeddings` of the others, or with ``tasks`` a dict of them by task
        """
        leave_model_cache(self)
        settings = self.encoder.processor.image_settings
        if skip_failures is None:
            skip_failures = fiftyone_argument(_EMBED + _APPLY, "skip_failures", default=False)
        images = [load_or_fail(image, settings, self.max_pixels) for image in images]
        failures = [image for image in images if isinstance(image, FailedImage)]
        if failures and not skip_failures:
            raise ImageError(failures[0].reason)

        for failure in failures:
            logger.warning("Skipping an image that cannot be read: %s", failure.reason)

        try:
            return images, self._encode_loaded(images, tasks)
        except (MemoryError, FloatingPointError):
            if not skip_failures:
                raise

        return self._encode_each(images, tasks)

    def _encode_loaded(self, images, tasks=None):
        loaded = [image for image in images if not isinstance(image, FailedImage)]
        return self.encoder.encode_images(loaded, truncate_dim=self.truncate_dim, tasks=tasks)

    def _encode_each(self, images, tasks):
        """Encodes images one at a time, where one is too much for the model, and must not take the others with it."""
        images, encoded = list(images), []
        for i, image in enumerate(images):
            if isinstance(image, FailedImage):
                continue
            try:
                encoded.append(self._encode_loaded([image], tasks))
            except (MemoryError, FloatingPointError) as error:
                logger.warning("Skipping an image that the model cannot take: %s: %s", image.name, error)
                images[i] = FailedImage(str(error))

        if not encoded:
            return images, self._encode_loaded([], tasks)
        if tasks is None:
            return images, join(encoded)
        return images, {task: join([of_image[task] for of_image in encoded]) for task in tasks}

    def encode_prompts(self, prompts):
        """Encodes text queries, with the prefix :attr:`query_prompt_name`, both vectors of each.

        Args:
            prompts: a list of strings

        Returns:
            :class:`engine.embeddings.Embeddings`
        """
        return self._encode_texts(prompts, self.query_prompt_name)

    def _encode_texts(self, texts, prompt_name):
        leave_model_cache(self)
        return self.encoder.encode_texts(texts, prompt_name=prompt_name, truncate_dim=self.truncate_dim)

    def _vectors(self, embeddings):
        if self.pooling_strategy is None:
            return embeddings.single

        return self._pool(embeddings)

    def _pool(self, embeddings):
        return pool_multi_vectors(embeddings.multi, self.pooling_strategy or "mean", self.encoder.multi_vector_dim)

    #
    # Zero-shot classification
    #

    def _predict_all(self, images):
        self._require_classes()
        images, embeddings = self.encode_images(_as_list(images))
        pooled = self._last_embeddings = self._pool(embeddings)
        if not len(embeddings):
            return [None] * len(images)

        # Once, since another thread may set others meanwhile.
        classes = self.classes
        logits = class_logits(self._score(embeddings, pooled, classes), self.temperature)
        classify = fout.ClassifierOutputProcessor(classes, store_logits=self.store_logits)
        labels = classify(logits, None, confidence_thresh=self.confidence_thresh, classes=self.filter_classes)
        return spread(labels, images, None)

    def _score(self, embeddings, pooled, classes):
        """Compares images with all classes: a float32 tensor ``(images, classes)``."""
        if self.score == "pooled":
            return torch.from_numpy(pooled @ self._class_vectors(classes, "pooled", self._pool).T)

        tokens = self._class_vectors(classes, "tokens", lambda texts: TokenSet(texts.multi, self.encoder.device))
        return maxsim(embeddings.multi, tokens, normalize=self.score == "maxsim")

    def _class_vectors(self, classes, kind, prepare):
        """Embeds the class texts and prepares them for scoring, once for as long as all that they depend on stays."""
        texts = [f"{self.text_prompt} {name}".strip() for name in classes]
        key = (kind, self.pooling_strategy if kind == "pooled" else None, self.task, self.query_prompt_name, texts)
        cached_key, vectors = self._cached_classes
        if key != cached_key:
            vectors = prepare(self._encode_texts(texts, self.query_prompt_name))
            self._cached_classes = key, vectors

        return vectors

    def _require_classes(self):
        if self.classes is None:
            raise ValueError(
                "Zero-shot classification needs classes: set model.classes = ['invoice', 'letter', ...], or pass "
                "classes=[...] to load_zoo_model()"
            )


def _as_list(images):
    return [images] if is_one_image(images) else list(images)
