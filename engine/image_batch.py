"""What crosses from a data loader's worker to the model: resized images, one by one and in batches."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ResizedImage:
    """An image that fits the model's grid: what crosses from a data loader's worker to the model.

    Args:
        pixels: a uint8 tensor ``(3, height, width)``, both sides multiples of a visual token's side
        name: what to call the image in messages
    """

    pixels: torch.Tensor
    name: str


class ImageBatch(list):
    """A batch on its way from a data loader's worker: a list of :class:`ResizedImage`, and of what stands for others.

    All pixels leave the worker as one tensor, through shared memory. A tensor an image would hold a file descriptor an
    image, of which a process may have fewer than a batch has images. Through the worker's pipe, they would keep it busy
    writing, where it notices neither that its parent is gone nor that another worker was killed.
    """

    def __reduce__(self) -> tuple[Callable, tuple]:
        images = [item for item in self if isinstance(item, ResizedImage)]
        pixels: torch.Tensor | np.ndarray | None = None
        if images:
            pixels = torch.cat([image.pixels.flatten() for image in images])
            if not _fits_into_shared_memory(pixels.numel()):
                # As in a container whose /dev/shm has 64 MB, where a worker would be killed for writing beyond it.
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
    """What stands for an image in a batch."""

    item: object


def _unpack_batch(pixels, sizes, items):
    lengths = [math.prod(size) for size in sizes]
    parts = iter(() if pixels is None else torch.as_tensor(pixels).split(lengths))
    sizes = iter(sizes)
    return ImageBatch(
        item.item if isinstance(item, _Placeholder) else ResizedImage(next(parts).view(next(sizes)), item)
        for item in items
    )
