"""A dataset -> the embeddings of its images or patches, a batch at a time, in one pass."""

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import fiftyone.core.labels as fol
import fiftyone.core.utils as fou
import fiftyone.core.validation as fov
import fiftyone.utils.torch as fout
import torch
from fiftyone.core.collections import SampleCollection

from ..engine.encoder import Embeddings
from ..integration.failures import FailedImage
from ..integration.loading import load_images, start_workers
from .token_pooling import pool_tokens

if TYPE_CHECKING:
    from ..zoo import JinaV4

# Samples that are selected at a time. A query of MongoDB has its limit, 16 MB.
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
    """Embeds those images, or patches, of a dataset that an index lacks.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        missing: a function that takes a list of ids, of samples or of patches, and returns those to embed
        patches_field (None): the label field whose patches to embed, in place of images
        pool_factor (1): see :func:`late_interaction.token_pooling.pool_tokens`
        batch_size (None): the number of images that are prepared together, by default 16. Of patches, the least
        num_workers (None): the number of worker processes that load images
        skip_failures (True): whether to warn of an image that cannot be read, in place of raising an error
        force_square (False): whether to widen patches to squares
        alpha (None): by what share to widen patches
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Yields:
        tuples of :class:`engine.encoder.Embeddings`, a list of the sample ids, and a list of the patches' ids or
        ``None``
    """
    samples = _flat(samples, patches_field)
    if patches_field is None:
        ids = missing(samples.values("id"))
        batches = _images(model, samples, ids, batch_size, num_workers, skip_failures)
    else:
        ids = missing([page_id for of_sample in _patch_ids(samples, patches_field)[1] for page_id in of_sample])
        views = _patch_views(samples, patches_field, ids)
        batches = _patches(model, views, patches_field, batch_size, num_workers, skip_failures, force_square, alpha)

    if not ids:
        return

    with fou.ProgressBar(total=len(ids), progress=progress) as bar:
        for images, sample_ids, label_ids in batches:
            failed, embeddings = model.encode_images(images, skip_failures=skip_failures)
            good = [i for i, image in enumerate(failed) if not isinstance(image, FailedImage)]
            if good:
                embeddings = Embeddings(
                    embeddings.single, [pool_tokens(multi, pool_factor) for multi in embeddings.multi]
                )
                yield (
                    embeddings,
                    [sample_ids[i] for i in good],
                    None if label_ids is None else [label_ids[i] for i in good],
                )
            bar.update(len(images))


def _images(model, samples, ids, batch_size, num_workers, skip_failures):
    for view in _selected(samples, ids):
        of_view = iter(view.values("id"))
        for images in load_images(model, view, batch_size, num_workers, skip_failures):
            yield images, [next(of_view) for _ in images], None


def _patches(model, views, patches_field, batch_size, num_workers, skip_failures, force_square, alpha):
    images, of_samples, of_labels = [], [], []
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
            # A worker that is spawned can import it.
            collate_fn=operator.itemgetter(0),
        )
        for patches, sample_id, label_ids in zip(start_workers(loader), *_patch_ids(view, patches_field), strict=True):
            if isinstance(patches, Exception):
                patches = [FailedImage(f"the patches of sample {sample_id}: {patches}")] * len(label_ids)
            images += patches or []
            of_samples += [sample_id] * len(label_ids)
            of_labels += label_ids
            if len(images) >= (batch_size or 16):
                yield images, of_samples, of_labels
                images, of_samples, of_labels = [], [], []
    if images:
        yield images, of_samples, of_labels


def _patch_views(samples, patches_field, label_ids):
    """Yields views of the patches to embed, and of no others, some thousands at a time."""
    wanted = set(label_ids)
    chosen, labels = [], []
    for page_id, of_sample in zip(samples.values("id"), _patch_ids(samples, patches_field)[1], strict=True):
        if wanted.isdisjoint(of_sample):
            continue

        chosen.append(page_id)
        labels += of_sample
        if len(labels) >= _PATCHES_AT_ONCE:
            yield _patch_view(samples, patches_field, chosen, labels, wanted)
            chosen, labels = [], []
    if chosen:
        yield _patch_view(samples, patches_field, chosen, labels, wanted)


def _patch_view(samples, patches_field, ids, label_ids, wanted):
    view = samples.select(ids)
    if wanted.issuperset(label_ids):
        return view

    return view.select_labels(ids=[page_id for page_id in label_ids if page_id in wanted], fields=patches_field)


def _flat(samples, patches_field):
    """Returns samples each of which is an image to index."""
    if samples._is_dynamic_groups:
        # Data loaders cannot read the flattened view itself.
        samples = samples._root_dataset.select(samples.flatten().values("id"))
    fov.validate_image_collection(samples)
    if samples._is_patches and patches_field is None:
        raise ValueError("The view is of patches: name their field, patches_field=..., or pass a view of whole images")

    return samples


def _selected(samples, ids):
    for start in range(0, len(ids), _SELECTED_AT_ONCE):
        yield samples.select(ids[start : start + _SELECTED_AT_ONCE])


def _patch_ids(samples, patches_field):
    """The ids of samples, and for each the list of the ids of its patches."""
    label_type, path = samples._get_label_field_path(patches_field, "id")
    sample_ids, label_ids = samples.values(["sample_id" if samples._is_patches else "id", path])
    if issubclass(label_type, fol._HasLabelList):
        return sample_ids, [of_sample or [] for of_sample in label_ids]

    return sample_ids, [[] if page_id is None else [page_id] for page_id in label_ids]
