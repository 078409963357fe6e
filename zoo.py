"""Jina Embeddings v4 as a FiftyOne model: embeddings, prompts and zero-shot classification."""

import logging
import os
import sys

import fiftyone.core.models as fom
import fiftyone.utils.torch as fout
import torch

from .batches import (
    MISSING,
    EmbeddingRows,
    FailedImage,
    ImageLoader,
    PatchTransform,
    load_or_fail,
)
from .call_context import fiftyone_argument
from .config import SCORES, Setting, check_classes, check_temperature, check_text_prompt, one_of
from .jina_v4.checkpoint import resolve
from .jina_v4.encoder import Encoder
from .jina_v4.images import ImageError
from .jina_v4.loading import resolve_device
from .jina_v4.pooling import POOLING_STRATEGIES, pool_multi_vectors
from .jina_v4.processing import PROMPT_NAMES
from .jina_v4.scoring import ClassTokens, class_logits, maxsim

# The module whose running functions say what the call being served was asked to do.
_FIFTYONE = "fiftyone.core.models"

# A source of the model zoo is imported by its path. A data loader's worker that is spawned, rather than forked, imports
# what it is sent by name, along the ``sys.path`` that it inherits: for the length of a call, this folder is on it.
_SOURCE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

logger = logging.getLogger(__name__)


class JinaV4(fout.TorchImageModel, fom.PromptMixin):
    """Jina Embeddings v4 (arXiv 2506.18902).

    Images and texts become vectors of one space. Each has a single vector, for similarity search, and a multi-vector of
    128 dimensions per token, for late interaction: the zero-shot classifier here.

    The settings below can be changed on a loaded model. What was cached for other values is computed anew.

    Args:
        config: a :class:`jina_embeddings_v4.config.JinaV4Config`
    """

    text_prompt = Setting("What to put before each class name.", check_text_prompt)
    pooling_strategy = Setting(
        "``None`` for single vectors, ``'mean'`` or ``'max'`` for pooled multi-vectors.",
        one_of("pooling_strategy", (*POOLING_STRATEGIES, None)),
    )
    truncate_dim = Setting(
        "The number of dimensions of single vectors, ``None`` for all.",
        lambda model, value: model.encoder.check_truncate_dim(value),
    )
    max_pixels = Setting(
        "The area in pixels down to which larger images are resized.",
        lambda model, value: model.encoder.processor.image_settings.check_max_pixels(value),
    )
    temperature = Setting("The softmax temperature of the class probabilities.", check_temperature)
    score = Setting("How images and classes are compared.", one_of("score", SCORES))
    query_prompt_name = Setting("The prefix of prompts and class texts.", one_of("query_prompt_name", PROMPT_NAMES))
    passage_prompt_name = Setting(
        "The prefix of texts that are documents.", one_of("passage_prompt_name", PROMPT_NAMES)
    )

    def __init__(self, config):
        self._last_embeddings = None
        self._cached_texts, self._cached_classes = None, None
        config.device = str(resolve_device(config.device))
        super().__init__(config)

    def _load_model(self, config):
        self.encoder = Encoder(resolve(config.checkpoint), config.task, self._device, config.precision)

        # Arguments are checked as settings are, and before the weights take their time to load.
        for name, attribute in vars(JinaV4).items():
            if isinstance(attribute, Setting):
                setattr(self, name, getattr(config, name))

        return self.encoder.backbone

    def _parse_classes(self, config):
        return config.classes

    def _build_transforms(self, config):
        return None, config.ragged_batches

    def __enter__(self):
        # FiftyOne would report the missing classes once per batch, and go on.
        if fiftyone_argument(_FIFTYONE, "label_field") is not None:
            self._require_classes()

        sys.path.append(_SOURCE_FOLDER)
        return super().__enter__()

    def __exit__(self, *args):
        sys.path.remove(_SOURCE_FOLDER)
        super().__exit__(*args)

    #
    # Settings
    #

    @property
    def task(self):
        """The task whose adapter is applied. Switching loads nothing."""
        return self.encoder.task

    @task.setter
    def task(self, task):
        self.encoder.task = task

    @property
    def classes(self):
        """The class names for zero-shot classification, a list of strings, or ``None``."""
        return self._classes

    @classes.setter
    def classes(self, classes):
        self._classes = None if classes is None else check_classes(classes)

    #
    # What FiftyOne asks
    #

    @property
    def has_collate_fn(self):
        return True

    # Images of a batch differ in size, so they stay a list. A worker that is spawned can import ``list``.
    collate_fn = staticmethod(list)

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

    def embed_all(self, images):
        """Embeds images. The vectors are those of :meth:`embed_images`.

        FiftyOne calls this. Where it was asked to skip failures, an image that cannot be read is reported, and its row
        is empty in the way that FiftyOne expects of the call.

        Args:
            images: a list of images, see :meth:`embed`

        Returns:
            a float32 array ``(images, dim)``, or a list of rows if images failed
        """
        images, embeddings = self._encode_images(images)
        vectors = self._vectors(embeddings)
        self._last_embeddings = vectors
        if len(vectors) == len(images):
            return vectors

        into_field = fiftyone_argument(_FIFTYONE, "embeddings_field") is not None
        of_patches = fiftyone_argument(_FIFTYONE, "patches_field") is not None
        if of_patches and not into_field:
            # In memory, FiftyOne knows of samples that failed, but not of single patches.
            return MISSING

        return EmbeddingRows(_spread(vectors, images, None if into_field and not of_patches else MISSING))

    def embed_images(self, images):
        """Embeds images.

        Args:
            images: a list of images, see :meth:`embed`

        Returns:
            a float32 array ``(images, dim)``, rows of length 1: single vectors, or multi-vectors pooled by
            :attr:`pooling_strategy`

        Raises:
            jina_v4.images.ImageError: if an image cannot be read, naming it
        """
        return self.embed_all(images)

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
        return self._vectors(self._encode_texts(prompts, self.query_prompt_name))

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

    def _encode_images(self, images):
        """Loads and encodes images.

        Returns:
            a tuple of the images, each that failed replaced by a :class:`FailedImage`, and the
            :class:`jina_v4.encoder.Embeddings` of the others
        """
        settings = self.encoder.processor.image_settings
        skip_failures = fiftyone_argument(_FIFTYONE, "skip_failures", default=False)
        images = [load_or_fail(image, settings, self.max_pixels) for image in images]
        failures = [image for image in images if isinstance(image, FailedImage)]
        if failures and not skip_failures:
            raise ImageError(failures[0].reason)

        for failure in failures:
            logger.warning("Skipping an image that cannot be read: %s", failure.reason)

        try:
            return images, self._encode_loaded(images)
        except (MemoryError, FloatingPointError):
            if not skip_failures:
                raise

        # One image is too much for the model even alone. The others must not go with it.
        images = [self._encode_or_fail(image) for image in images]
        return images, self._encode_loaded(images)

    def _encode_loaded(self, images):
        loaded = [image for image in images if not isinstance(image, FailedImage)]
        return self.encoder.encode_images(loaded, truncate_dim=self.truncate_dim)

    def _encode_or_fail(self, image):
        try:
            self._encode_loaded([image])
        except (MemoryError, FloatingPointError) as error:
            logger.warning("Skipping an image that the model cannot take: %s: %s", image.name, error)
            return FailedImage(str(error))

        return image

    def _encode_texts(self, texts, prompt_name):
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
        images, embeddings = self._encode_images(images)
        self._last_embeddings = self._pool(embeddings)
        if not len(embeddings):
            return [None] * len(images)

        logits = class_logits(self._score(embeddings), self.temperature)
        classify = fout.ClassifierOutputProcessor(self.classes, store_logits=self.store_logits)
        labels = classify(
            logits, None, confidence_thresh=self.config.confidence_thresh, classes=self.config.filter_classes
        )
        return _spread(labels, images, None)

    def _score(self, embeddings):
        """Compares images with all classes: a float32 tensor ``(images, classes)``."""
        classes, tokens = self._class_embeddings()
        if self.score == "pooled":
            return torch.from_numpy(self._last_embeddings @ self._pool(classes).T)

        return maxsim(embeddings.multi, tokens, normalize=self.score == "maxsim")

    def _class_embeddings(self):
        """Embeds the class texts, once for as long as nothing changes that they depend on.

        Returns:
            the texts' :class:`jina_v4.encoder.Embeddings`, and their :class:`jina_v4.scoring.ClassTokens`
        """
        texts = [f"{self.text_prompt} {name}".strip() for name in self.classes]
        key = (self.task, self.query_prompt_name, texts)
        if key != self._cached_texts:
            classes = self._encode_texts(texts, self.query_prompt_name)
            self._cached_classes = classes, ClassTokens(classes.multi, self.encoder.device)
            self._cached_texts = key

        return self._cached_classes

    def _require_classes(self):
        if self.classes is None:
            raise ValueError(
                "Zero-shot classification needs classes: set model.classes = ['invoice', 'letter', ...], or pass "
                "classes=[...] to load_zoo_model()"
            )


def _spread(values, images, absent):
    """Lays the values of the readable images out over all images, with ``absent`` for those that failed."""
    values = iter(values)
    return [absent if isinstance(image, FailedImage) else next(values) for image in images]
