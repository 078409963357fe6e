"""The embedding space that images and texts share, measured on a dataset as the paper does (arXiv 2506.18902).

With unit vectors ``x_i`` of N images and ``y_i`` of the texts that belong to them:

- **alignment**: the mean of the cosines ``x_i y_i`` (table 4 there), with a percentile bootstrap interval of 95%;
- **matched texts**: the mean cosine of the texts with paraphrases of theirs (figure 2: in a space without a gap between
  modalities, these are distributed as the former are);
- **AUC**: the chance that a matched pair has a higher cosine than an image with a text of another (figure 3), the area
  under the ROC curve;
- **modality gap**: the distance ``|mean(x) - mean(y)|`` of the modalities' centroids (Liang et al. 2022,
  arXiv 2203.02053). 0 if they lie in the same place, 2 if they are opposite points;
- **cone effect**: the mean cosine of different images, and of different texts (the same paper). 0 if they fill all
  directions, 1 if they all point in one.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone.brain as fob
import fiftyone.core.models as fom
import numpy as np
from fiftyone.core.collections import SampleCollection
from scipy.stats import bootstrap
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

from ..engine.arguments import check_choice, check_integer
from ..integration.optional import import_optional
from . import figures
from .pairs import check_model, embed_pairs

_RESAMPLES = 2000


@dataclass(frozen=True)
class Space:
    """What was measured of one model's vectors.

    Args:
        name: the model's name, and what was done with its vectors
        dim: their dimensions
        matched: a float32 array ``(N,)``, the cosines of images with their texts
        negatives: a float32 array, the cosines of images with texts of others
        paraphrased: a float32 array ``(N,)``, the cosines of texts with their paraphrases, or ``None``
        interval: the 95% interval of the mean of ``matched``, a tuple
        auc: the area under the ROC curve of ``matched`` against ``negatives``, in [0, 1]
        modality_gap: in [0, 2]
        image_cone: in [-1, 1]
        text_cone: in [-1, 1]
        points: a float32 array ``(2, N, 2)``, where images and texts lie in a plane
    """

    name: str
    dim: int
    matched: np.ndarray
    negatives: np.ndarray
    paraphrased: np.ndarray | None
    interval: tuple[float, float]
    auc: float
    modality_gap: float
    image_cone: float
    text_cone: float
    points: np.ndarray

    @property
    def alignment(self) -> float:
        """The mean cosine of images with their texts, in [-1, 1]."""
        return float(self.matched.mean())


@dataclass(frozen=True)
class Report:
    """What :func:`measure_space` found.

    Args:
        spaces: a list of :class:`Space`, for each model and each way of reducing its vectors
        models: the names of those among them that are a model's own vectors
        ids: the ids of the samples that were measured
        skipped: a dict of reasons by the ids of the samples that were left out
        seed: what the sample and the negatives were drawn with
    """

    spaces: list[Space]
    models: list[str]
    ids: list[str]
    skipped: dict[str, str]
    seed: int

    def __getitem__(self, name: str) -> Space:
        return {space.name: space for space in self.spaces}[name]

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table, a list of dicts."""
        rows = []
        for space in self.spaces:
            low, high = space.interval
            rows.append(
                {
                    "vectors": space.name,
                    "dim": space.dim,
                    "alignment": space.alignment,
                    "from": low,
                    "to": high,
                    "matched texts": None if space.paraphrased is None else float(space.paraphrased.mean()),
                    "negatives": float(space.negatives.mean()),
                    "AUC": space.auc,
                    "modality gap": space.modality_gap,
                    "image cone": space.image_cone,
                    "text cone": space.text_cone,
                }
            )
        return rows

    def __str__(self) -> str:
        table = tabulate(self.rows(), headers="keys", floatfmt=".3f", missingval="")
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"{len(self.ids)} pairs of image and text{left_out}, seed {self.seed}\n{table}"

    def save(self, folder: str | os.PathLike) -> dict[str, Path]:
        """Writes the table and the figures, as PNG and, to look into, as HTML.

        Args:
            folder: the folder, which is made

        Returns:
            a dict of the figures' paths by their names: ``"similarities"``, ``"separation"`` and ``"projection"``
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        with open(folder / "space.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

        return figures.save([self[name] for name in self.models], self.ids, folder)

    def visualize(self, samples: SampleCollection, brain_key: str, name: str | None = None) -> None:
        """Makes two of FiftyOne's visualizations, of images and of their texts, in the same plane.

        The App's Embeddings panel shows them: ``<brain_key>_images`` and ``<brain_key>_texts``.

        Args:
            samples: the dataset or view that was measured
            brain_key: what the names of the runs begin with
            name (None): the name of the vectors, by default the first
        """
        view = samples.select(self.ids)
        space = self[name or self.models[0]]
        for modality, points in zip(("images", "texts"), space.points, strict=True):
            points = dict(zip(self.ids, points, strict=True))
            fob.compute_visualization(view, points=points, brain_key=f"{brain_key}_{modality}")


def measure_space(
    samples: SampleCollection,
    models: dict[str, fom.Model | str],
    text_field: str,
    paraphrase_field: str | None = None,
    sample_size: int = 1000,
    negatives: int = 10,
    projection: str = "pca",
    seed: int = 51,
    batch_size: int | None = None,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> Report:
    """Measures the spaces that models embed a dataset's images and texts into.

    Of a model with Matryoshka vectors, each of its dimensions is measured, and of one with multi-vectors, these pooled.
    An image or a text that cannot be embedded costs its pair alone, in all models.

    Args:
        samples: a dataset or view of images
        models: a dict of models by the names to call them: FiftyOne models that embed images and prompts, or names of
            such models in the zoo
        text_field: a field with a text for each image, such as a caption
        paraphrase_field (None): a field with another text that says the same
        sample_size (1000): the number of samples to measure, drawn at random where there are more. The paper's is 1,000
        negatives (10): the number of texts of others to compare each image with. Those with the same words as its own
            are left out
        projection ("pca"): how to bring vectors into a plane, for images and texts together: ``"pca"`` or ``"umap"``
        seed (51): what decides the sample, the negatives and the resamples
        batch_size (None): the number of images to embed at a time
        num_workers (None): the number of processes that load images
        progress (None): whether to show progress bars; by default as FiftyOne's configuration says

    Returns:
        a :class:`Report`

    Raises:
        ValueError: if a model does not embed images and prompts, an argument is not allowed, or fewer than three pairs
            are left
    """
    check_integer("sample_size", sample_size, 3)
    check_integer("negatives", negatives, 1)
    check_choice("projection", projection, ("pca", "umap"))
    models = {name: check_model(name, model) for name, model in models.items()}
    chosen = samples.take(sample_size, seed=seed) if len(samples) > sample_size else samples
    fields = [field for field in (text_field, paraphrase_field) if field is not None]
    ids, pairs, skipped = embed_pairs(
        chosen, models, *fields, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    if len(ids) < 3:
        why = f": {next(iter(skipped.values()))}" if skipped else ""
        raise ValueError(
            f"To measure takes three pairs of image and text, and {len(ids)} are left of {len(chosen)}{why}"
        )

    texts = dict(zip(*chosen.values(["id", text_field]), strict=True))
    others = _draw_negatives([texts[sample_id] for sample_id in ids], negatives, seed)
    spaces = []
    for of_model in pairs:
        spaces.append(_measure(of_model, others, projection, seed))
        for dim in _matryoshka_dims(models.get(of_model.name)):
            spaces.append(_measure(of_model.truncated(dim), others, projection, seed))
    return Report(spaces, list(models), ids, skipped, seed)


def _measure(pairs, others, projection, seed):
    matched = (pairs.images * pairs.texts).sum(axis=1)
    rows, columns = others
    negatives = (pairs.images[rows] * pairs.texts[columns]).sum(axis=1)
    interval = bootstrap(
        (matched,), np.mean, n_resamples=_RESAMPLES, method="percentile", batch=100, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Space(
        name=pairs.name,
        dim=pairs.images.shape[1],
        matched=matched,
        negatives=negatives,
        paraphrased=None if pairs.paraphrases is None else (pairs.texts * pairs.paraphrases).sum(axis=1),
        interval=(float(interval.low), float(interval.high)),
        auc=float(roc_auc_score(np.repeat([1, 0], [len(matched), len(negatives)]), np.append(matched, negatives))),
        modality_gap=float(np.linalg.norm(pairs.images.mean(axis=0) - pairs.texts.mean(axis=0))),
        image_cone=_mean_pairwise_cosine(pairs.images),
        text_cone=_mean_pairwise_cosine(pairs.texts),
        points=_project(np.concatenate([pairs.images, pairs.texts]), projection, seed).reshape(2, -1, 2),
    )


def _draw_negatives(texts, count, seed):
    """Draws texts of others for each image, every image and every text as often: two arrays of indexes."""
    n = len(texts)
    shifts = np.random.default_rng(seed).choice(np.arange(1, n), size=min(count, n - 1), replace=False)
    rows = np.tile(np.arange(n), len(shifts))
    columns = (rows + np.repeat(shifts, n)) % n
    # Of two pages with the same caption, neither is a negative of the other.
    other = np.array(texts)[rows] != np.array(texts)[columns]
    if not other.any():
        raise ValueError("All texts are the same: there is nothing to tell apart")

    return rows[other], columns[other]


def _mean_pairwise_cosine(vectors):
    """The mean cosine of different rows: the square of their sum has each pair twice, and each row's own, 1."""
    n = len(vectors)
    return float((np.square(vectors.sum(axis=0, dtype=np.float64)).sum() - n) / (n * (n - 1)))


def _project(vectors, projection, seed):
    if projection == "umap":
        umap = import_optional("umap", "umap", "projection='umap'")
        return umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors)

    return PCA(2, random_state=seed).fit_transform(vectors)


def _matryoshka_dims(model):
    """The dimensions, but for all, that a model can be truncated to, largest first. ``None`` is of no model."""
    encoder = getattr(model, "encoder", None)
    return sorted(getattr(encoder, "matryoshka_dims", ()), reverse=True)[1:]
