"""Loads images, with a placeholder for one that cannot be loaded or embedded. Nothing here imports FiftyOne."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.image_batch import ResizedImage
from ..engine.image_files import ImageError, check_dataset_path
from ..engine.image_loading import describe
from ..engine.images import ImageSettings, resize_image


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be loaded or embedded.

    Args:
        reason: which image it is, and what is wrong with it
    """

    reason: str


def spread(values: Iterable, images: Sequence, absent: Any) -> list:
    """Puts the values of the readable images in the places of all images.

    Args:
        values: the values, as many as there are images that did not fail
        images: a list of images, of which some may be a :class:`FailedImage`
        absent: what to put in the place of one that failed

    Returns:
        a list of as many values as images
    """
    values = iter(values)
    return [absent if isinstance(image, FailedImage) else next(values) for image in images]


def load_or_fail(source: Any, settings: ImageSettings, max_pixels: int | None) -> ResizedImage | FailedImage:
    """Loads and resizes an image.

    Args:
        source: an image as :func:`engine.image_loading.load_image` takes it, or the result of an earlier call
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``

    Returns:
        a :class:`engine.image_batch.ResizedImage`, or a :class:`FailedImage`
    """
    if isinstance(source, FailedImage):
        return source

    try:
        return resize_image(source, settings, max_pixels)
    except ImageError as error:
        return FailedImage(str(error))
    # Any other error, too: for one exception FiftyOne gives up the whole batch.
    except Exception as error:
        return FailedImage(f"{describe(source)}: {type(error).__name__}: {error}")


def load_path_or_fail(path: str, settings: ImageSettings, max_pixels: int | None) -> ResizedImage | FailedImage:
    """Loads and resizes an image of a dataset, whose URLs need the person's leave.

    Args:
        path: the sample's path
        settings: see :func:`load_or_fail`
        max_pixels: see :func:`load_or_fail`

    Returns:
        see :func:`load_or_fail`
    """
    try:
        check_dataset_path(path)
    except ImageError as error:
        return FailedImage(str(error))

    return load_or_fail(path, settings, max_pixels)
