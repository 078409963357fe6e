"""Resized images, and batches of them, as a data loader's worker sends them to the model."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ResizedImage:
    """An image that is resized to the model's grid.

    Args:
        pixels: a uint8 tensor ``(3, height, width)``, both sides multiples of a visual token's side
        name: what to call the image in messages
    """

    pixels: torch.Tensor
    name: str


class ImageBatch(list):
    """A list of :class:`ResizedImage`, and of placeholders for failed images, that a data loader's worker sends.

    All pixels leave the worker as one tensor, through shared memory. One tensor per image would need one file
    descriptor per image, which may be more than a process can have. A worker that writes pixels to its pipe notices
    neither that its parent is gone nor that another worker was killed.
    """

    def __reduce__(self) -> tuple[Callable, tuple]:
        images = [item for item in self if isinstance(item, ResizedImage)]
        pixels: torch.Tensor | np.ndarray | None = None
        if images:
            pixels = torch.cat([image.pixels.flatten() for image in images])
            if not _fits_into_shared_memory(pixels.numel()):
                # A worker that writes more than /dev/shm holds, 64 MB in some containers, is killed.
                pixels = pixels.numpy()
        sizes = [tuple(image.pixels.shape) for image in images]
        items = [image.name if isinstance(image, ResizedImage) else _Placeholder(image) for image in self]
        return _unpack_batch, (pixels, sizes, items)


def _fits_into_shared_memory(size):
    try:
        return shutil.disk_usage("/dev/shm").free > 4 * size
    except OSError:  # not on Linux
        return True


@dataclass(frozen=True)
class _Placeholder:
    """An item of a batch that is not a :class:`ResizedImage`."""

    item: object


def _unpack_batch(pixels, sizes, items):
    lengths = [math.prod(size) for size in sizes]
    parts = iter(() if pixels is None else torch.as_tensor(pixels).split(lengths))
    sizes = iter(sizes)
    return ImageBatch(
        item.item if isinstance(item, _Placeholder) else ResizedImage(next(parts).view(next(sizes)), item)
        for item in items
    )
