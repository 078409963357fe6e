"""The data loader's side: a dataset's images, loaded and resized in worker processes, and sent on as uint8.

An image that a worker cannot read becomes a :class:`integration.failures.FailedImage`, not an exception, because
FiftyOne gives up a whole batch for one exception.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import fiftyone.utils.torch as fout
import torch
from fiftyone.core.collections import SampleCollection

from ..engine.images import ImageSettings
from .failures import load_or_fail, load_path_or_fail
from .seams import READ_PATCHES, StackablePatch, extend_path, fiftyone_argument, restore_path

if TYPE_CHECKING:
    from ..zoo import JinaV4


class ImageLoader(fout.GetItem):
    """Loads a sample's image, in a data loader's worker.

    Args:
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``
        field_mapping (None): the user's mapping of ``"filepath"`` to another field
    """

    def __init__(self, settings: ImageSettings, max_pixels: int | None, field_mapping: dict[str, str] | None = None):
        super().__init__(field_mapping=field_mapping)
        self.settings = settings
        self.max_pixels = max_pixels

    def __call__(self, values):
        return load_path_or_fail(values["filepath"], self.settings, self.max_pixels)

    @property
    def required_keys(self) -> list[str]:
        return ["filepath"]


def load_images(
    model: "JinaV4",
    samples: SampleCollection,
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
) -> Iterator[list]:
    """Loads and resizes the images of a dataset, in worker processes, in the dataset's order.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        batch_size (None): the number of images that are prepared together, by default 16
        num_workers (None): the number of worker processes, by default as many as FiftyOne recommends
        skip_failures (True): whether the model reports an image that FiftyOne cannot load, in place of an error

    Returns:
        an iterator over lists for :meth:`jina_embeddings_v4.zoo.JinaV4.encode_images`
    """
    loader = torch.utils.data.DataLoader(
        samples.to_torch(model.build_get_item(), skip_failures=skip_failures),
        batch_size=batch_size or 16,
        num_workers=fout.recommend_num_workers(num_workers),
        collate_fn=model.collate_fn,
        worker_init_fn=fout.FiftyOneTorchDataset.worker_init,
    )
    return start_workers(loader)


def start_workers(loader: torch.utils.data.DataLoader) -> Iterator:
    """Starts the workers of a data loader, which can import this package by its name, and returns its iterator."""
    extend_path()
    try:
        return iter(loader)
    finally:
        restore_path()


def load_with_samples(
    model: "JinaV4",
    samples: SampleCollection,
    fields: Iterable[str],
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
    progress: bool | None = None,
) -> Iterator[tuple[list, Iterator]]:
    """Loads the images of a dataset beside their samples, in which fields can be set.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        fields: the names of the fields to set. They need not exist
        batch_size (None): see :func:`load_images`
        num_workers (None): see :func:`load_images`
        skip_failures (True): see :func:`load_images`
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Yields:
        tuples of a list of images and an iterator over their samples, which saves each sample when the next is asked
        for
    """
    schema = samples.get_field_schema()
    existing = [field for field in fields if field in schema]
    saving = samples.select_fields(existing).iter_samples(autosave=True, progress=progress)
    for images in load_images(model, samples, batch_size, num_workers, skip_failures):
        yield images, itertools.islice(saving, len(images))

    # Saves the last.
    next(saving, None)


class PatchTransform:
    """Prepares the patches that FiftyOne crops for ``compute_patch_embeddings``.

    Args:
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``
    """

    def __init__(self, settings: ImageSettings, max_pixels: int | None):
        self.settings = settings
        self.max_pixels = max_pixels

    def __call__(self, patch):
        # The name in messages. FiftyOne passes the crop alone, but its call knows the file.
        patch.filename = f"a patch of {fiftyone_argument(READ_PATCHES, 'image_path')}"
        return StackablePatch(load_or_fail(patch, self.settings, self.max_pixels))
