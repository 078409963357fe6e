"""Jina Embeddings v4 as a FiftyOne model: embeddings, prompts and zero-shot classification."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import eta.core.video as etav
import fiftyone as fo
import fiftyone.core.models as fom
import fiftyone.utils.torch as fout
import numpy as np
import torch
from fiftyone.core.collections import SampleCollection

from .engine.checkpoint import resolve
from .engine.embeddings import Embeddings
from .engine.encoder import Encoder
from .engine.image_batch import ImageBatch
from .engine.images import is_one_image
from .engine.pooling import pool_multi_vectors
from .engine.scoring import TokenSet, class_logits, maxsim
from .integration.config import JinaV4Config, Settings
from .integration.encoding import embed_for_call, encode_images
from .integration.failures import spread
from .integration.loading import ImageLoader, PatchTransform
from .integration.seams import (
    APPLY_MODEL,
    extend_path,
    fiftyone_argument,
    keep_out_of_model_cache,
    media_of_call,
    restore_path,
)
from .integration.task_embeddings import compute_task_embeddings
from .late_interaction.boxes import iter_boxes, write_boxes
from .late_interaction.heatmaps import iter_heatmaps, write_heatmaps
from .late_interaction.similarity import register_backend
from .videos.embedding import encode_video_readers
from .videos.moments import write_moments

# Images that are loaded at a time.
_BATCH = 64

# Once the model is loaded, which compute_similarity() does before it looks for the backend.
register_backend()


class JinaV4(Settings, fout.TorchImageModel, fom.PromptMixin):
    """Jina Embeddings v4 (arXiv 2506.18902).

    Images and texts become vectors of one space. Each has a single vector, for similarity search, and a multi-vector of
    128 dimensions per token, for late interaction: the zero-shot classifier here.

    The attributes of :class:`jina_embeddings_v4.integration.config.Settings` can be changed on a loaded model. What was
    cached for other values is computed anew.

    Args:
        config: a :class:`jina_embeddings_v4.integration.config.JinaV4Config`
    """

    def __init__(self, config: JinaV4Config):
        self._last_embeddings: np.ndarray | None = None
        # The class vectors and what they depend on: one tuple, since threads may share the model.
        self._cached_classes: tuple[tuple, Any] = (), None
        super().__init__(config)

    def _load_model(self, config):
        self.encoder = Encoder(resolve(config.checkpoint), config.task, self._device, config.precision, config.adapter)

        # They are checked against the checkpoint before its weights are loaded, which takes time.
        self.truncate_dim, self.max_pixels = config.truncate_dim, config.max_pixels
        return self.encoder.load()

    def _build_transforms(self, config):
        return None, config.ragged_batches

    def __enter__(self):
        # FiftyOne would report the missing classes once per batch, and go on.
        if fiftyone_argument(APPLY_MODEL, "label_field") is not None:
            self._require_classes()

        extend_path()
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        restore_path()

    #
    # What FiftyOne asks
    #

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or ``None``."""
        return None if self.classes is None else len(self.classes)

    @property
    def media_type(self) -> str:
        """What FiftyOne hands to the model: ``"image"``, of a video dataset its frames, or ``"video"``."""
        asked = media_of_call()
        return "image" if asked == "image" else self.mode or asked or "image"

    @property
    def has_collate_fn(self) -> bool:
        return True

    # Images of a batch differ in size, so they stay a list.
    collate_fn = ImageBatch

    def build_get_item(self, field_mapping: dict[str, str] | None = None) -> ImageLoader:
        # Before the first batch: FiftyOne would report what is wrong with the vision tower once per batch, and go on.
        self.encoder.load_vision_tower()
        return ImageLoader(self.encoder.processor.image_settings, self.max_pixels, field_mapping)

    @property
    def transforms(self) -> PatchTransform:
        """Prepares the patches of ``compute_patch_embeddings``."""
        self.encoder.load_vision_tower()
        return PatchTransform(self.encoder.processor.image_settings, self.max_pixels)

    @property
    def has_embeddings(self) -> bool:
        return True

    @property
    def can_embed_prompts(self) -> bool:
        return True

    @property
    def has_logits(self) -> bool:
        return True

    #
    # Embeddings
    #

    def embed(self, image: Any) -> np.ndarray:
        """Embeds an image, or a video.

        Args:
            image: a PIL image, a uint8 array (HWC), a tensor (CHW), a path or an http(s) URL; or the
                :class:`eta.core.video.VideoReader` that FiftyOne opens on a video

        Returns:
            a float32 array ``(dim,)`` of length 1
        """
        if isinstance(image, etav.VideoReader):
            # FiftyOne embeds videos one by one, and handles the failure of one itself.
            return self._embed_all([image])[1][0]
        return self.embed_all([image])[0]

    def embed_images(self, images: Sequence) -> np.ndarray:
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

    def embed_all(self, images: Sequence) -> Any:
        """Embeds a batch of images for FiftyOne, as :meth:`embed_images` does.

        Where FiftyOne was asked to skip failures, an image that cannot be read is reported, and its row is empty in the
        way that FiftyOne expects of the call.

        Args:
            images: a list of images, see :meth:`embed`

        Returns:
            see :func:`jina_embeddings_v4.integration.encoding.embed_for_call`

        Raises:
            engine.image_files.ImageError: if an image cannot be read, and failures are not to be skipped
        """
        return embed_for_call(self._embed_all, _as_list(images))

    def _embed_all(self, images):
        images, embeddings = self.encode_images(images)
        vectors = self._last_embeddings = self._vectors(embeddings)
        return images, vectors

    def embed_for_tasks(
        self, images: Sequence, tasks: Sequence[str], skip_failures: bool = False
    ) -> tuple[list, dict[str, np.ndarray]]:
        """Embeds images for several tasks.

        Args:
            images: a list of images, see :meth:`embed`
            tasks: a list of tasks
            skip_failures (False): whether to warn of an image that cannot be read, in place of raising an error

        Returns:
            a tuple of the images, those that failed replaced by :class:`integration.failures.FailedImage`, and
            the dict of the others' embeddings by task, float32 arrays ``(images, dim)``
        """
        images, embeddings = self.encode_images(images, tasks, skip_failures)
        return images, {task: self._vectors(of_task) for task, of_task in embeddings.items()}

    def compute_task_embeddings(self, samples: SampleCollection, fields: dict[str, str], **kwargs: Any) -> None:
        """Embeds the images of a dataset for several tasks at little more than the price of one.

        See :func:`jina_embeddings_v4.integration.task_embeddings.compute_task_embeddings`.

        Args:
            samples: a dataset or view of images
            fields: a dict of the fields to write, by task, eg ``{"retrieval": "retrieval", "code": "code"}``
            **kwargs: ``batch_size``, ``num_workers``, ``skip_failures`` and ``progress``, as in
                ``dataset.compute_embeddings``; ``skip_existing`` and ``overwrite``
        """
        compute_task_embeddings(self, samples, fields, **kwargs)

    def heatmaps(self, samples: SampleCollection, query: str, label_field: str = "heatmap", **kwargs: Any) -> list[str]:
        """Writes where each image matches a text query, as :class:`fiftyone.core.labels.Heatmap` labels.

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

    def moments(self, samples: SampleCollection, query: str, label_field: str = "moments", **kwargs: Any) -> None:
        """Writes when each video matches a text query, as :class:`fiftyone.core.labels.TemporalDetections`.

        See :func:`jina_embeddings_v4.videos.moments.write_moments`.

        Args:
            samples: a dataset or view of videos
            query: a string
            label_field ("moments"): the field to write
            **kwargs: the function's other arguments
        """
        write_moments(self, samples, query, label_field, **kwargs)

    def iter_heatmaps(
        self, samples: SampleCollection, query: str, label_field: str = "heatmap", **kwargs: Any
    ) -> Iterator[tuple[int, int]]:
        """Does what :meth:`heatmaps` does, and reports its progress.

        See :func:`jina_embeddings_v4.late_interaction.heatmaps.iter_heatmaps`.

        Args:
            samples: see :meth:`heatmaps`
            query: see there
            label_field ("heatmap"): see there
            **kwargs: see there

        Returns:
            an iterator over tuples of the number of images done so far and of all, before the first and after each
        """
        return iter_heatmaps(self, samples, query, label_field, **kwargs)

    def boxes(self, samples: SampleCollection, query: str, label_field: str = "boxes", **kwargs: Any) -> None:
        """Writes the best places of each image for a text query, as :class:`fiftyone.core.labels.Detections`.

        See :func:`jina_embeddings_v4.late_interaction.boxes.write_boxes`.

        Args:
            samples: a dataset or view of images
            query: a string
            label_field ("boxes"): the field to write
            **kwargs: the function's other arguments
        """
        write_boxes(self, samples, query, label_field, **kwargs)

    def iter_boxes(
        self, samples: SampleCollection, query: str, label_field: str = "boxes", **kwargs: Any
    ) -> Iterator[tuple[int, int]]:
        """Does what :meth:`boxes` does, and reports its progress.

        Args:
            samples: see :meth:`boxes`
            query: see there
            label_field ("boxes"): see there
            **kwargs: see there

        Returns:
            an iterator over tuples of the number of images done so far and of all, before the first and after each
        """
        return iter_boxes(self, samples, query, label_field, **kwargs)

    def embed_prompt(self, prompt: str) -> np.ndarray:
        """Embeds a text query.

        Args:
            prompt: a string

        Returns:
            a float32 array ``(dim,)`` of length 1
        """
        return self.embed_prompts([prompt])[0]

    def embed_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Embeds text queries, with the prefix :attr:`query_prompt_name`.

        Args:
            prompts: a list of strings

        Returns:
            a float32 array ``(prompts, dim)``, rows of length 1, comparable with :meth:`embed_images`
        """
        return self._vectors(self.encode_prompts(prompts))

    def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts that are documents to be searched, with the prefix :attr:`passage_prompt_name`.

        Args:
            texts: a list of strings

        Returns:
            a float32 array ``(texts, dim)``, rows of length 1, comparable with :meth:`embed_prompts`
        """
        return self._vectors(self._encode_texts(texts, self.passage_prompt_name))

    def get_embeddings(self) -> np.ndarray:
        """Returns the vectors of the images of the last call.

        Returns:
            a float32 array ``(images, dim)``, without the images that failed: after an embedding, what it returned;
            after a prediction, ``(images, 128)``, the multi-vectors pooled by :attr:`pooling_strategy`, or by their
            mean where that is ``None``
        """
        if self._last_embeddings is None:
            raise ValueError("There are no embeddings yet: embed or classify images first")

        return self._last_embeddings

    def encode_images(
        self, images: Sequence, tasks: Sequence[str] | None = None, skip_failures: bool | None = None
    ) -> tuple[list, Any]:
        """Loads and encodes images, both vectors of each.

        Args:
            images: a list of images, or of videos, see :meth:`embed`
            tasks (None): a list of tasks, by default the model's own
            skip_failures (None): whether to warn of an image that cannot be read, in place of raising an error; by
                default what the running FiftyOne call was asked to do

        Returns:
            a tuple of the images, each that failed replaced by a :class:`integration.failures.FailedImage`, and
            the :class:`engine.embeddings.Embeddings` of the others, or with ``tasks`` a dict of them by task
        """
        images = _as_list(images)
        if images and isinstance(images[0], etav.VideoReader):
            return list(images), encode_video_readers(self, images)
        return encode_images(self.encoder, images, self.max_pixels, self.truncate_dim, tasks, skip_failures)

    def encode_prompts(self, prompts: Sequence[str]) -> Embeddings:
        """Encodes text queries, with the prefix :attr:`query_prompt_name`, both vectors of each.

        Args:
            prompts: a list of strings

        Returns:
            :class:`engine.embeddings.Embeddings`
        """
        return self._encode_texts(prompts, self.query_prompt_name)

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

    def _predict_all(self, images: Sequence) -> list[fo.Classification | None]:
        self._require_classes()
        images, embeddings = self.encode_images(images)
        pooled = self._last_embeddings = self._pool(embeddings)
        if not len(embeddings):
            return [None] * len(images)

        # Read once, since another thread may set others meanwhile.
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
        return maxsim(embeddings.multi, tokens)

    def _class_vectors(self, classes: Sequence[str], kind: str, prepare: Callable[[Embeddings], Any]) -> Any:
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


keep_out_of_model_cache(JinaV4)


def _as_list(images):
    return [images] if is_one_image(images) else list(images)
