"""Images, of which some may be unreadable, to embeddings, in the form that the running FiftyOne call expects."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.embeddings import Embeddings, join
from ..engine.encoder import Encoder
from ..engine.image_files import ImageError
from ..engine.image_loading import describe
from .failures import FailedImage, load_or_fail, spread
from .seams import (
    APPLY_MODEL,
    COMPUTE_EMBEDDINGS,
    COMPUTE_PATCH_EMBEDDINGS,
    MISSING,
    EmbeddingRows,
    StackedRow,
    fiftyone_argument,
)

logger = logging.getLogger(__name__)


def encode_images(
    encoder: Encoder,
    images: Sequence,
    max_pixels: int | None = None,
    truncate_dim: int | None = None,
    tasks: Sequence[str] | None = None,
    skip_failures: bool | None = None,
) -> tuple[list, Embeddings | dict[str, Embeddings]]:
    """Loads and encodes images, both vectors of each.

    Args:
        encoder: the encoder
        images: images as :func:`engine.image_loading.load_image` takes them, or a data loader's results
        max_pixels (None): see :meth:`engine.encoder.Encoder.encode_images`
        truncate_dim (None): see there
        tasks (None): a list of tasks, by default the encoder's own
        skip_failures (None): whether to warn of an image that cannot be read, in place of raising an error; by default
            what the running FiftyOne call was asked to do

    Returns:
        a tuple of the images, each that failed replaced by a :class:`FailedImage`, and the embeddings of the others, or
        with ``tasks`` a dict of them by task

    Raises:
        engine.image_files.ImageError: if an image cannot be read, and failures are not to be skipped
    """
    if skip_failures is None:
        skip_failures = fiftyone_argument((*COMPUTE_EMBEDDINGS, *APPLY_MODEL), "skip_failures", default=False)
    images = [load_or_fail(image, encoder.processor.image_settings, max_pixels) for image in images]
    failures = [image for image in images if isinstance(image, FailedImage)]
    if failures and not skip_failures:
        raise ImageError(failures[0].reason)

    for failure in failures:
        logger.warning("Skipping an image that cannot be read: %s", failure.reason)

    def encode(images):
        readable = [image for image in images if not isinstance(image, FailedImage)]
        return encoder.encode_images(readable, truncate_dim=truncate_dim, tasks=tasks)

    try:
        return images, encode(images)
    except (MemoryError, FloatingPointError):
        if not skip_failures:
            raise

    return _encode_each(images, encode, tasks)


def _encode_each(images, encode, tasks):
    """Encodes images one at a time, so that one that is too much for the model does not take the others with it."""
    images, encoded = list(images), []
    for i, image in enumerate(images):
        if isinstance(image, FailedImage):
            continue
        try:
            encoded.append(encode([image]))
        except (MemoryError, FloatingPointError) as error:
            logger.warning("Skipping an image that the model cannot take: %s: %s", image.name, error)
            images[i] = FailedImage(str(error))

    if not encoded:
        return images, encode([])
    if tasks is None:
        return images, join(encoded)
    return images, {task: join([of_image[task] for of_image in encoded]) for task in tasks}


def embed_for_call(embed: Callable[[list], tuple[list, np.ndarray]], images: list) -> Any:
    """Embeds a batch for the running FiftyOne call, whose way of putting batches together decides the result's form.

    Args:
        embed: a function of images that returns them, failed ones replaced by :class:`FailedImage`, and a float32 array
            ``(readable images, dim)``
        images: the batch

    Returns:
        a float32 array ``(images, dim)``; if images failed, or FiftyOne stacks the embeddings of several batches, what
        :mod:`integration.seams` has for it

    Raises:
        engine.image_files.ImageError: if an image cannot be read, and failures are not to be skipped
    """
    in_memory = fiftyone_argument(COMPUTE_EMBEDDINGS, "embeddings_field", default="") is None
    of_patches = fiftyone_argument(COMPUTE_PATCH_EMBEDDINGS, "patches_field") is not None
    if not in_memory or of_patches:
        images, vectors = embed(images)
        if len(vectors) == len(images):
            return vectors
        # In memory, FiftyOne knows of samples that failed, but not of single patches.
        return MISSING if in_memory else EmbeddingRows(spread(vectors, images, MISSING if of_patches else None))

    try:
        images, vectors = embed(images)
    except Exception as error:
        if not fiftyone_argument(COMPUTE_EMBEDDINGS, "skip_failures", default=False):
            raise
        # FiftyOne would skip the batch, too, but then it returns the placeholders of failures in other batches.
        logger.warning("Skipping %d images, the first of them %s: %s", len(images), describe(images[0]), error)
        return [MISSING] * len(images)

    return spread([StackedRow.of(vector) for vector in vectors], images, None if len(vectors) else MISSING)
