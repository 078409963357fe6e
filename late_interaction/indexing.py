"""Embeds the images, patches or videos of a dataset in batches, in one pass."""

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import fiftyone.core.labels as fol
import fiftyone.core.media as fom
import fiftyone.core.utils as fou
import fiftyone.core.validation as fov
import fiftyone.utils.torch as fout
import torch
from fiftyone.core.collections import SampleCollection

from ..engine.embeddings import Embeddings, join
from ..integration.failures import FailedImage
from ..integration.loading import load_images, start_workers
from ..videos.embedding import VideoEmbeddings, encode_videos
from ..videos.loading import VideoPart
from .token_pooling import pool_tokens

if TYPE_CHECKING:
    from ..zoo import JinaV4

# Samples that are selected at a time: MongoDB limits a query to 16 MB.
_SELECTED_AT_ONCE = 100_000
_PATCHES_AT_ONCE = 5000


def embed_missing(
    model: "JinaV4",
    samples: SampleCollection,
    missing: Callable[[list[str]], list[str]],
    patches_field: str | None = None,
    pool_factor: int = 1,
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
    force_square: bool = False,
    alpha: float | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[Embeddings, list[str], list[str] | None]]:
    """Embeds the images, patches or videos of a dataset that an index lacks.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images, or of videos
        missing: a function that takes a list of the ids of samples or patches, and returns a list of those to embed
        patches_field (None): the label field whose patches to embed, instead of images
        pool_factor (1): see :func:`late_interaction.token_pooling.pool_tokens`. Of videos, for the tokens of each frame
        batch_size (None): the number of images, or frames, that are prepared together, by default 16. For patches, the
            minimum
        num_workers (None): the number of worker processes that load images
        skip_failures (True): whether to log a warning for an image that cannot be read, instead of raising an error
        force_square (False): whether to expand patches to squares
        alpha (None): the fraction by which to expand patches
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Yields:
        for each batch, a tuple of :class:`engine.embeddings.Embeddings`, a list of the sample ids, and a list of the
        patches' ids or ``None``
    """
    samples = indexable(samples, patches_field)
    if samples.media_type == fom.VIDEO:
        yield from _videos(model, samples, missing, pool_factor, batch_size, num_workers, skip_failures, progress)
        return

    if patches_field is None:
        ids = missing(samples.values("id"))
        batches = _images(model, samples, ids, batch_size, num_workers, skip_failures)
    else:
        ids = missing([label_id for labels in _patch_ids(samples, patches_field)[1] for label_id in labels])
        views = _patch_views(samples, patches_field, ids)
        batches = _patches(model, views, patches_field, batch_size, num_workers, skip_failures, force_square, alpha)

    if not ids:
        return

    with fou.ProgressBar(total=len(ids), progress=progress) as bar:
        for images, sample_ids, label_ids in batches:
            encoded, embeddings = model.encode_images(images, skip_failures=skip_failures)
            readable = [i for i, image in enumerate(encoded) if not isinstance(image, FailedImage)]
            if readable:
                embeddings = Embeddings(
                    embeddings.single, [pool_tokens(multi, pool_factor) for multi in embeddings.multi]
                )
                yield (
                    embeddings,
                    [sample_ids[i] for i in readable],
                    None if label_ids is None else [label_ids[i] for i in readable],
                )
            bar.update(len(images))


def _videos(model, samples, missing, pool_factor, batch_size, num_workers, skip_failures, progress):
    ids = missing(samples.values("id"))
    with fou.ProgressBar(total=len(ids), progress=progress) as bar:
        for view in _selected(samples, ids):
            view_ids, paths = view.values(["id", "filepath"])
            parts = [VideoPart(path) for path in paths]
            for batch in encode_videos(model, parts, batch_size, num_workers, skip_failures):
                readable = [(view_ids[i], video) for i, video in batch if isinstance(video, VideoEmbeddings)]
                if readable:
                    joined = [video.joined(lambda rows: pool_tokens(rows, pool_factor)) for _, video in readable]
                    yield join(joined), [sample_id for sample_id, _ in readable], None
                bar.update(len(batch))


def _check_videos(samples, patches_field):
    if patches_field is not None:
        raise ValueError("Patches of videos cannot be indexed: pass the view dataset.to_frames(sample_frames=True)")
    if samples._is_clips:
        raise ValueError("Clips cannot be indexed: pass the dataset or a view of whole videos")


def _images(model, samples, ids, batch_size, num_workers, skip_failures):
    for view in _selected(samples, ids):
        view_ids = iter(view.values("id"))
        for images in load_images(model, view, batch_size, num_workers, skip_failures):
            yield images, [next(view_ids) for _ in images], None


def _patches(model, views, patches_field, batch_size, num_workers, skip_failures, force_square, alpha):
    images, sample_ids, label_ids = [], [], []
    for view in views:
        loader = torch.utils.data.DataLoader(
            fout.TorchImagePatchesDataset(
                samples=view,
                patches_field=patches_field,
                transform=model.transforms,
                force_rgb=True,
                force_square=force_square,
                alpha=alpha,
                skip_failures=True,
            ),
            batch_size=1,
            num_workers=fout.recommend_num_workers(num_workers),
            # A spawned worker can import this function, but not a lambda.
            collate_fn=operator.itemgetter(0),
        )
        for patches, sample_id, patch_ids in zip(start_workers(loader), *_patch_ids(view, patches_field), strict=True):
            if isinstance(patches, Exception):
                patches = [FailedImage(f"the patches of sample {sample_id}: {patches}")] * len(patch_ids)
            images += patches or []
            sample_ids += [sample_id] * len(patch_ids)
            label_ids += patch_ids
            if len(images) >= (batch_size or 16):
                yield images, sample_ids, label_ids
                images, sample_ids, label_ids = [], [], []
    if images:
        yield images, sample_ids, label_ids


def _patch_views(samples, patches_field, label_ids):
    """Yields views of exactly the patches to embed, some thousands at a time."""
    wanted = set(label_ids)
    ids, view_labels = [], []
    for sample_id, sample_labels in zip(samples.values("id"), _patch_ids(samples, patches_field)[1], strict=True):
        if wanted.isdisjoint(sample_labels):
            continue

        ids.append(sample_id)
        view_labels += sample_labels
        if len(view_labels) >= _PATCHES_AT_ONCE:
            yield _patch_view(samples, patches_field, ids, view_labels, wanted)
            ids, view_labels = [], []
    if ids:
        yield _patch_view(samples, patches_field, ids, view_labels, wanted)


def _patch_view(samples, patches_field, ids, label_ids, wanted):
    view = samples.select(ids)
    if wanted.issuperset(label_ids):
        return view

    return view.select_labels(ids=[label_id for label_id in label_ids if label_id in wanted], fields=patches_field)


def indexable(samples: SampleCollection, patches_field: str | None = None) -> SampleCollection:
    """Returns a collection whose samples are the images or videos to index, see :func:`flat`.

    Raises:
        ValueError: if they are neither images nor videos
    """
    if samples.media_type != fom.VIDEO:
        return flat(samples, patches_field)

    _check_videos(samples, patches_field)
    return samples


def flat(samples: SampleCollection, patches_field: str | None = None) -> SampleCollection:
    """Returns a collection whose samples are the images to index, with groups flattened.

    Args:
        samples: a dataset or view
        patches_field (None): the label field whose patches to index, instead of images

    Raises:
        ValueError: if they are not images
    """
    if samples._is_dynamic_groups:
        # FiftyOne's data loaders cannot read the flattened view itself.
        samples = samples._root_dataset.select(samples.flatten().values("id"))
    fov.validate_image_collection(samples)
    if samples._is_patches and patches_field is None:
        raise ValueError("The view is of patches: pass their field as patches_field, or a view of whole images")

    return samples


def _selected(samples, ids):
    for start in range(0, len(ids), _SELECTED_AT_ONCE):
        yield samples.select(ids[start : start + _SELECTED_AT_ONCE])


def _patch_ids(samples, patches_field):
    """Returns the ids of samples, and for each the list of the ids of its patches."""
    label_type, path = samples._get_label_field_path(patches_field, "id")
    sample_ids, label_ids = samples.values(["sample_id" if samples._is_patches else "id", path])
    if issubclass(label_type, fol._HasLabelList):
        return sample_ids, [sample_labels or [] for sample_labels in label_ids]

    return sample_ids, [[] if label_id is None else [label_id] for label_id in label_ids]
