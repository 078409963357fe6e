"""What FiftyOne's data loader hands to the model, and what the model hands back.

A worker loads and resizes images, and ships them as uint8. One that it cannot read becomes a :class:`FailedImage`, not
an exception, because FiftyOne gives up a whole batch for one exception.
"""

import itertools
import os
import sys
from dataclasses import dataclass

import fiftyone.utils.torch as fout
import numpy as np
import torch

from .call_context import fiftyone_argument
from .engine.image_files import check_dataset_path
from .engine.images import ImageBatch, ImageError, describe, resize_image

# A source of the model zoo is imported by its path. A data loader's worker that is spawned, rather than forked, imports
# what it is sent by name, along the ``sys.path`` that it inherits: while workers start, this folder is on it.
_SOURCE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The function of FiftyOne that crops patches.
_READ_PATCHES = ("fiftyone.utils.torch.TorchImagePatchesDataset.__getitem__",)


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be loaded, or not be embedded.

    Args:
        reason: which image it is, and what is wrong with it
    """

    reason: str


def load_or_fail(source, settings, max_pixels):
    """Loads and resizes an image.

    Args:
        source: an image as :func:`engine.images.load_image` takes it, or the result of an earlier call
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``

    Returns:
        a :class:`engine.images.ResizedImage`, or a :class:`FailedImage`
    """
    if isinstance(source, FailedImage):
        return source

    try:
        return resize_image(source, settings, max_pixels)
    except ImageError as error:
        return FailedImage(str(error))
    # Any other, too: FiftyOne would give up the batch, and return what stands for failures in others as it is.
    except Exception as error:
        return FailedImage(f"{describe(source)}: {type(error).__name__}: {error}")


class ImageLoader(fout.GetItem):
    """Loads a sample's image, in a data loader's worker.

    Args:
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``
        field_mapping (None): the user's mapping of ``"filepath"`` to another field
    """

    def __init__(self, settings, max_pixels, field_mapping=None):
        super().__init__(field_mapping=field_mapping)
        self.settings = settings
        self.max_pixels = max_pixels

    def __call__(self, values):
        try:
            path = check_dataset_path(values["filepath"])
        except ImageError as error:
            return FailedImage(str(error))

        return load_or_fail(path, self.settings, self.max_pixels)

    @property
    def required_keys(self):
        return ["filepath"]


def load_images(model, samples, batch_size=None, num_workers=None, skip_failures=True):
    """Loads and resizes the images of a dataset, in worker processes, in the dataset's order.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        batch_size (None): the number of images that are prepared together, by default 16
        num_workers (None): the number of worker processes, by default as many as FiftyOne recommends
        skip_failures (True): whether an image that FiftyOne cannot hand over is left to the model to report

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


def start_workers(loader):
    """Returns a data loader's iterator. Its workers start here, and import what they are sent."""
    extend_path()
    try:
        return iter(loader)
    finally:
        restore_path()


def extend_path():
    """Puts the source's folder on the path, until :func:`restore_path`."""
    sys.path.append(_SOURCE_FOLDER)


def restore_path():
    """Undoes :func:`extend_path`."""
    if _SOURCE_FOLDER in sys.path:
        # The last of them, since a person may have it there, too.
        del sys.path[-1 - sys.path[::-1].index(_SOURCE_FOLDER)]


def load_with_samples(model, samples, fields, batch_size=None, num_workers=None, skip_failures=True, progress=None):
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

    def __init__(self, settings, max_pixels):
        self.settings = settings
        self.max_pixels = max_pixels

    def __call__(self, patch):
        # What names an image in messages. FiftyOne tells the crop alone, but has the file at hand.
        patch.filename = f"a patch of {fiftyone_argument(_READ_PATCHES, 'image_path')}"
        return _Patch(load_or_fail(patch, self.settings, self.max_pixels))


class _Patch:
    """A patch of any size. FiftyOne stacks a sample's patches with ``torch.stack``, which makes a list of these."""

    def __init__(self, image):
        self.image = image

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.stack:
            return ImageBatch(patch.image for patch in args[0])

        return NotImplemented


class EmbeddingRows(list):
    """The embeddings of a batch in which an image failed: a vector per image, ``None`` or ``MISSING`` for that one.

    FiftyOne concatenates the batches of a sample's patches, which joins lists of these into one.
    """

    def __array_function__(self, function, types, args, kwargs):
        if function is np.concatenate:
            return [None if row is MISSING else row for batch in args[0] for row in batch]

        return NotImplemented


class _Missing:
    """The embedding of an image that failed, where FiftyOne puts embeddings together.

    FiftyOne stacks the embeddings of images. With this among them, that gives the list that it documents for
    collections with failures: a vector or ``None`` per image. It concatenates the batches of a sample's patches. With
    this for one of them, that gives the ``None`` that it documents for samples with failures.
    """

    def __array_function__(self, function, types, args, kwargs):
        if function is np.stack:
            return [None if row is self else row for row in args[0]]
        if function is np.concatenate:
            return None

        return NotImplemented

    def __getitem__(self, index):
        return self  # where a patch is embedded alone


MISSING = _Missing()


class StackedRow(np.ndarray):
    """An embedding that stands beside ``None`` where others failed.

    FiftyOne stacks the embeddings of images. With this among them, that gives the list that it documents for
    collections with failures: a vector or ``None`` per image. In all else it is an array like any other.
    """

    @classmethod
    def of(cls, vector):
        return vector.view(cls)

    def __array_function__(self, function, types, args, kwargs):
        if function is np.stack:
            rows = [np.asarray(row) if isinstance(row, np.ndarray) else None for row in args[0]]
            return rows if any(row is None for row in rows) else np.stack(rows, *args[1:], **kwargs)

        return super().__array_function__(function, types, args, kwargs)
