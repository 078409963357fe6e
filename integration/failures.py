"""The placeholder of an image that could not be loaded or embedded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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
