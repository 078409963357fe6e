"""Embeddings for several tasks in one pass over a dataset: the vision tower, half of the work, runs once for all."""

from typing import TYPE_CHECKING

import fiftyone as fo
import fiftyone.core.validation as fov
from fiftyone.core.collections import SampleCollection

from .failures import FailedImage
from .loading import load_with_samples

if TYPE_CHECKING:
    from ..zoo import JinaV4


def compute_task_embeddings(
    model: "JinaV4",
    samples: SampleCollection,
    fields: dict[str, str],
    batch_size: int = 16,
    num_workers: int | None = None,
    skip_failures: bool = True,
    progress: bool | None = None,
    skip_existing: bool = False,
    overwrite: bool = False,
) -> None:
    """Embeds images for several tasks, each into a field of its own.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        fields: a dict of the fields to write, by task, eg ``{"retrieval": "retrieval", "code": "code"}``
        batch_size (16): the number of images that are prepared together
        num_workers (None): the number of processes that load and resize images
        skip_failures (True): whether to leave the fields of an image that cannot be read as they are, and warn, in
            place of raising an error
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        skip_existing (False): whether to leave out images that have a vector in all of the fields, as those do that a
            call embedded before it was interrupted
        overwrite (False): whether to write into a field whose vectors have another number of dimensions

    Raises:
        ValueError: if a field holds vectors of another number of dimensions, on which an index may live
    """
    fov.validate_image_collection(samples)
    if not overwrite:
        _check_widths(model, samples, fields)
    if skip_existing:
        existing = [field for field in fields.values() if samples.has_field(field)]
        if len(existing) == len(fields):
            samples = samples.match(fo.ViewExpression.any([~fo.ViewField(field).exists() for field in existing]))
    loading = batch_size, num_workers, skip_failures, progress
    for images, of_images in load_with_samples(model, samples, fields.values(), *loading):
        images, vectors = model.embed_for_tasks(images, list(fields), skip_failures)
        rows = {task: iter(of_task) for task, of_task in vectors.items()}
        for image, sample in zip(images, of_images, strict=True):
            if isinstance(image, FailedImage):
                continue
            for task, field in fields.items():
                sample[field] = next(rows[task])


def _check_widths(model, samples, fields):
    width = model.embed_prompts([""]).shape[1]
    for field in fields.values():
        if not samples.has_field(field):
            continue

        # Of the whole dataset, on which an index lives, not of the view's samples alone.
        first = samples._dataset.exists(field).limit(1).values(field)
        if first and len(first[0]) != width:
            raise ValueError(
                f"Field {field!r} holds vectors of {len(first[0])} dimensions, and the model now gives {width}: set "
                "the model's pooling_strategy and truncate_dim as they were, choose another field, or pass "
                "overwrite=True"
            )
