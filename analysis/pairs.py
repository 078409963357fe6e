"""Images and their texts -> vectors, by any FiftyOne model that embeds both."""

import logging
from dataclasses import dataclass, replace

import fiftyone.core.models as fom
import fiftyone.zoo as foz
import numpy as np
from fiftyone.core.collections import SampleCollection

from ..engine.encoder import Embeddings
from ..engine.pooling import POOLING_STRATEGIES, pool_multi_vectors, unit
from ..integration.failures import FailedImage
from ..integration.loading import load_images

_TEXTS_AT_ONCE = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """The vectors of N images and of what is said of them, by one model. All rows are of length 1.

    Args:
        name: what to call the model, and what was done with its vectors
        images: a float32 array ``(N, dim)``
        texts: a float32 array ``(N, dim)``
        paraphrases (None): a float32 array ``(N, dim)`` of other texts that say the same, or ``None``
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
    """Embeds the images of samples, and texts of theirs, by several models.

    An image or a text that cannot be embedded, by one of the models, costs its pair alone: a warning names the sample
    and the reason.

    Args:
        samples: a dataset or view of images
        models: a dict of models by the names to call them, each as :func:`check_model` returns it
        *text_fields: one field of strings, or two
        batch_size (None): the number of images to embed at a time, by default 16
        num_workers (None): the number of processes that load images
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Returns:
        a tuple of the ids of the samples whose pairs are good, a list of :class:`Pairs`, one a model or, of a model
        with multi-vectors, also one for each way of pooling them, and a dict of the reasons by the ids of the others
    """
    ids, *columns = samples.values(["id", *text_fields])
    skipped: dict[str, str] = {}
    for sample_id, *texts in zip(ids, *columns, strict=True):
        for field, text in zip(text_fields, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                skipped.setdefault(sample_id, f"{field} is no text: {text!r:.80}")

    embedded = {}
    for name, model in models.items():
        wanted = [sample_id for sample_id in ids if sample_id not in skipped]
        of_images, failed = _embed_images(samples, wanted, name, model, batch_size, num_workers, progress)
        skipped |= failed
        rows = {}
        for field, texts in zip(text_fields, columns, strict=True):
            text_of = {sample_id: text for sample_id, text in zip(ids, texts, strict=True) if sample_id not in skipped}
            rows[field], failed = _embed_texts(model, text_of, field)
            skipped |= failed
        embedded[name] = of_images, rows

    for sample_id, reason in skipped.items():
        logger.warning("Leaving out sample %s: %s", sample_id, reason)

    good = [sample_id for sample_id in ids if sample_id not in skipped]
    pairs: list[Pairs] = []
    if not good:
        return good, pairs, skipped

    for name, (of_images, rows) in embedded.items():
        for way in of_images:
            of_texts = [unit(np.array([rows[field][way][sample_id] for sample_id in good])) for field in text_fields]
            images = unit(np.array([of_images[way][sample_id] for sample_id in good]))
            pairs.append(Pairs(f"{name}, {way}" if way else name, images, *of_texts))
    return good, pairs, skipped


def check_model(name: str, model: fom.Model | str) -> fom.Model:
    """Returns a model, loaded where it is a name.

    Raises:
        ValueError: if it does not embed images and prompts
    """
    model = foz.load_zoo_model(model) if isinstance(model, str) else model
    if not (getattr(model, "has_embeddings", False) and getattr(model, "can_embed_prompts", False)):
        raise ValueError(f"{name!r} must embed images and prompts, and {type(model).__name__} does not do both")

    return model


def ways_of(embeddings: Embeddings) -> dict[str, np.ndarray]:
    """The vectors that one encoding gives: single ones, and pooled multi-vectors, a dict of arrays ``(N, dim)``."""
    pooled = {f"multi-vectors {how}-pooled": pool_multi_vectors(embeddings.multi, how) for how in POOLING_STRATEGIES}
    return {"": embeddings.single} | pooled


def _embed_images(samples, ids, name, model, batch_size, num_workers, progress):
    """Embeds images: vectors by sample, in a dict by the way of pooling, and the reasons of those left out."""
    if not ids:
        return {}, {}

    view = samples.select(ids, ordered=True)
    if not hasattr(model, "encode_images"):
        return _embed_by_fiftyone(view, ids, name, model, batch_size, num_workers, progress)

    found, failed, rest = {}, {}, iter(ids)
    with model:
        for images in load_images(model, view, batch_size, num_workers):
            images, embeddings = model.encode_images(images, skip_failures=True)
            of_batch = [next(rest) for _ in images]
            failed |= {
                sample_id: image.reason
                for sample_id, image in zip(of_batch, images, strict=True)
                if isinstance(image, FailedImage)
            }
            good = [sample_id for sample_id in of_batch if sample_id not in failed]
            if good:
                for way, rows in ways_of(embeddings).items():
                    found.setdefault(way, {}).update(zip(good, rows, strict=True))
    return found, failed


def _embed_by_fiftyone(view, ids, name, model, batch_size, num_workers, progress):
    options = {"num_workers": num_workers, "skip_failures": True, "progress": progress}
    vectors = view.compute_embeddings(model, batch_size=batch_size or 16, **options)
    found = dict(zip(ids, vectors if vectors is not None else [None] * len(ids), strict=True))
    # FiftyOne gives up a whole batch for one image.
    for sample_id in [sample_id for sample_id, vector in found.items() if vector is None]:
        alone = view.select(sample_id).compute_embeddings(model, **options)
        found[sample_id] = alone[0] if alone is not None and len(alone) else None
    failed = {sample_id: f"{name} cannot embed its image" for sample_id, vector in found.items() if vector is None}
    return {"": {sample_id: np.ravel(vector) for sample_id, vector in found.items() if vector is not None}}, failed


def _embed_texts(model, texts, field):
    """Embeds texts, given by sample, as :func:`_embed_images` does images."""
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
                    # Whatever it is, it is one text's.
                    except Exception as error:
                        failed[sample_id] = f"{field}: {type(error).__name__}: {error}"
    return found, failed


def _embed(model, texts):
    if hasattr(model, "encode_prompts"):
        return ways_of(model.encode_prompts(texts))

    rows = model.embed_prompts(texts)
    return {"": rows.detach().cpu().numpy() if hasattr(rows, "detach") else np.asarray(rows)}


def _add(found, ids, ways):
    for way, rows in ways.items():
        found.setdefault(way, {}).update(zip(ids, rows, strict=True))
