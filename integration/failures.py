"""What stands for an image that could not be loaded, or not be embedded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be loaded, or not be embedded.

    Args:
        reason: which image it is, and what is wrong with it
    """

    reason: str


def spread(values, images, absent):
    """Lays the values of the readable images out over all images, in their order.

    Args:
        values: the values, as many as there are images that did not fail
        images: a list of images, of which some may be a :class:`FailedImage`
        absent: what to put in the place of one that failed

    Returns:
        a list of as many values as images
    """
    values = iter(values)
    return [absent if isinstance(image, FailedImage) else next(values) for image in images]
