"""Embeds images and their texts by any FiftyOne model that embeds both."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import fiftyone.core.models as fom
import fiftyone.zoo as foz
import numpy as np
from fiftyone.core.collections import SampleCollection

from ..engine.pooling import POOLING_STRATEGIES, pool_multi_vectors, unit
from ..integration.failures import FailedImage
from ..integration.loading import load_images

if TYPE_CHECKING:
    from ..engine.embeddings import Embeddings

_TEXTS_AT_ONCE = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """The vectors of N images and their texts by one model. All rows have length 1.

    Args:
        name: the model's name, and how its vectors were truncated or pooled
        images: a float32 array ``(N, dim)``
        texts: a float32 array ``(N, dim)``
        paraphrases (None): a float32 array ``(N, dim)`` of the texts' paraphrases, or ``None``
    """

    name: str
    images: np.ndarray
    texts: np.ndarray
    paraphrases: np.ndarray | None = None

    def truncated(self, dim: int) -> "Pairs":
        """Returns the pairs with the first ``dim`` dimensions of each vector (Matryoshka, arXiv 2205.13147)."""
        rows = {
            kind: unit(vectors[:, :dim])
            for kind in ("images", "texts", "paraphrases")
            if (vectors := getattr(self, kind)) is not None
        }
        return replace(self, name=f"{self.name}, {dim}-d", **rows)


def embed_pairs(
    samples: SampleCollection,
    models: dict[str, fom.Model],
    *text_fields: str,
    batch_size: int | None = None,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> tuple[list[str], list[Pairs], dict[str, str]]:
    """Embeds the images and texts of samples by several models.

    A sample whose image or texts cannot be embedded by one of the models is skipped, with a warning that names it and
    the reason.

    Args:
        samples: a dataset or view of images
        models: a dict of models by their names, each as returned by :func:`check_model`
        *text_fields: the field of texts and, optionally, the field of their paraphrases
        batch_size (None): the number of images to embed at a time, by default 16
        num_workers (None): the number of processes that load images
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Returns:
        a tuple of the ids of the embedded samples, a list of :class:`Pairs`, one per model and, for a model with
        multi-vectors, one more per pooling strategy, and a dict of reasons by the ids of the skipped samples
    """
    ids, *columns = samples.values(["id", *text_fields])
    skipped: dict[str, str] = {}
    for sample_id, *texts in zip(ids, *columns, strict=True):
        for field, text in zip(text_fields, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                skipped.setdefault(sample_id, f"{field} is not a text: {text!r:.80}")

    embedded = {}
    for name, model in models.items():
        wanted = [sample_id for sample_id in ids if sample_id not in skipped]
        image_vectors, failed = _embed_images(samples, wanted, name, model, batch_size, num_workers, progress)
        skipped |= failed
        text_vectors = {}
        for field, texts in zip(text_fields, columns, strict=True):
            text_of = {sample_id: text for sample_id, text in zip(ids, texts, strict=True) if sample_id not in skipped}
            text_vectors[field], failed = _embed_texts(model, text_of, field)
            skipped |= failed
        embedded[name] = image_vectors, text_vectors

    for sample_id, reason in skipped.items():
        logger.warning("Leaving out sample %s: %s", sample_id, reason)

    kept = [sample_id for sample_id in ids if sample_id not in skipped]
    pairs: list[Pairs] = []
    if not kept:
        return kept, pairs, skipped

    for name, (image_vectors, text_vectors) in embedded.items():
        for kind, images in image_vectors.items():
            by_sample = [images, *(text_vectors[field][kind] for field in text_fields)]
            rows = [unit(np.array([vectors[sample_id] for sample_id in kept])) for vectors in by_sample]
            pairs.append(Pairs(f"{name}, {kind}" if kind else name, *rows))
    return kept, pairs, skipped


def check_model(name: str, model: fom.Model | str) -> fom.Model:
    """Returns a model, which is loaded if it is given by its name in the zoo.

    Raises:
        ValueError: if it does not embed images and prompts
    """
    model = foz.load_zoo_model(model) if isinstance(model, str) else model
    if not (getattr(model, "has_embeddings", False) and getattr(model, "can_embed_prompts", False)):
        raise ValueError(f"{name!r} must embed images and prompts, and {type(model).__name__} does not do both")

    return model


def vectors_by_kind(embeddings: "Embeddings") -> dict[str, np.ndarray]:
    """Returns the single vectors, under ``""``, and the pooled multi-vectors, a dict of arrays ``(N, dim)``."""
    vectors = {"": embeddings.single}
    for strategy in POOLING_STRATEGIES:
        vectors[f"multi-vectors {strategy}-pooled"] = pool_multi_vectors(embeddings.multi, strategy)
    return vectors


def _embed_images(samples, ids, name, model, batch_size, num_workers, progress):
    """Embeds images.

    Returns:
        a tuple of the vectors, a dict of dicts by kind and sample ID, and a dict of reasons by the ids of the samples
        that failed
    """
    if not ids:
        return {}, {}

    view = samples.select(ids, ordered=True)
    if not hasattr(model, "encode_images"):
        return _embed_by_fiftyone(view, ids, name, model, batch_size, num_workers, progress)

    found, failed, remaining = {}, {}, iter(ids)
    with model:
        for images in load_images(model, view, batch_size, num_workers):
            images, embeddings = model.encode_images(images, skip_failures=True)
            batch = [next(remaining) for _ in images]
            failed |= {
                sample_id: image.reason
                for sample_id, image in zip(batch, images, strict=True)
                if isinstance(image, FailedImage)
            }
            readable = [sample_id for sample_id in batch if sample_id not in failed]
            if readable:
                _add(found, readable, vectors_by_kind(embeddings))
    return found, failed


def _embed_by_fiftyone(view, ids, name, model, batch_size, num_workers, progress):
    options = {"num_workers": num_workers, "skip_failures": True, "progress": progress}
    vectors = view.compute_embeddings(model, batch_size=batch_size or 16, **options)
    found = dict(zip(ids, vectors if vectors is not None else [None] * len(ids), strict=True))
    # FiftyOne skips the whole batch of an image that fails.
    for sample_id in [sample_id for sample_id, vector in found.items() if vector is None]:
        vectors = view.select(sample_id).compute_embeddings(model, **options)
        found[sample_id] = vectors[0] if vectors is not None and len(vectors) else None
    failed = {sample_id: f"{name} cannot embed its image" for sample_id, vector in found.items() if vector is None}
    return {"": {sample_id: np.ravel(vector) for sample_id, vector in found.items() if vector is not None}}, failed


def _embed_texts(model, texts, field):
    """Embeds texts, a dict by sample ID, and returns the same as :func:`_embed_images`."""
    found, failed = {}, {}
    ids = list(texts)
    with model:
        for start in range(0, len(ids), _TEXTS_AT_ONCE):
            batch = ids[start : start + _TEXTS_AT_ONCE]
            try:
                _add(found, batch, _embed(model, [texts[sample_id] for sample_id in batch]))
            except Exception:
                for sample_id in batch:
                    try:
                        _add(found, [sample_id], _embed(model, [texts[sample_id]]))
                    # Models raise errors of any type, and this one is due to a single text.
                    except Exception as error:
                        failed[sample_id] = f"{field}: {type(error).__name__}: {error}"
    return found, failed


def _embed(model, texts):
    if hasattr(model, "encode_prompts"):
        return vectors_by_kind(model.encode_prompts(texts))

    rows = model.embed_prompts(texts)
    return {"": rows.detach().cpu().numpy() if hasattr(rows, "detach") else np.asarray(rows)}


def _add(found, ids, vectors):
    for kind, rows in vectors.items():
        found.setdefault(kind, {}).update(zip(ids, rows, strict=True))
