"""Measures the embedding space that images and texts share, as the paper does (arXiv 2506.18902).

With unit vectors ``x_i`` of N images and ``y_i`` of their texts:

- **alignment**: the mean of the cosines ``x_i y_i`` (table 4 there), with a percentile bootstrap interval of 95%;
- **matched texts**: the mean cosine of the texts and their paraphrases (figure 2: without a modality gap, they have the
  same distribution as the cosines of images and texts);
- **AUC**: the area under the ROC curve, which is the probability that an image has a higher cosine with its own text
  than with another image's (figure 3);
- **modality gap**: the distance ``|mean(x) - mean(y)|`` of the modalities' centroids (Liang et al. 2022,
  arXiv 2203.02053). 0 if the centroids are equal, 2 if they are opposite unit vectors;
- **cone effect**: the mean cosine of different images, and of different texts (the same paper). 0 if the vectors fill
  all directions, 1 if they are all equal.
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
    """The measures of one model's vectors.

    Args:
        name: the model's name, and how its vectors were truncated or pooled
        dim: the vectors' dimensions
        matched: a float32 array ``(N,)``, the cosines of images with their texts
        negatives: a float32 array, the cosines of images with other images' texts
        paraphrased: a float32 array ``(N,)``, the cosines of texts with their paraphrases, or ``None``
        interval: the 95% interval of the mean of ``matched``, a tuple
        auc: the area under the ROC curve of ``matched`` against ``negatives``, in [0, 1]
        modality_gap: in [0, 2]
        image_cone: in [-1, 1]
        text_cone: in [-1, 1]
        points: a float32 array ``(2, N, 2)``, the images and the texts projected to a plane
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
    """The result of :func:`measure_space`.

    Args:
        spaces: a list of :class:`Space`, one for each model and each way of truncating or pooling its vectors
        models: the names of the spaces of the models' own vectors
        ids: the ids of the measured samples
        skipped: a dict of reasons by the ids of the skipped samples
        seed: the random seed of the sample and the negatives
    """

    spaces: list[Space]
    models: list[str]
    ids: list[str]
    skipped: dict[str, str]
    seed: int

    def __getitem__(self, name: str) -> Space:
        """Returns the space of a name."""
        return {space.name: space for space in self.spaces}[name]

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table, a list of dicts, one per space."""
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
        skipped = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"{len(self.ids)} pairs of image and text{skipped}, seed {self.seed}\n{table}"

    def save(self, folder: str | os.PathLike) -> dict[str, Path]:
        """Writes the table as CSV, and the figures as PNG and interactive HTML.

        Args:
            folder: the folder, which is created

        Returns:
            a dict of the paths of the PNG files by the figures' names, ``"similarities"``, ``"separation"`` and
            ``"projection"``
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
        """Makes FiftyOne visualizations of the images and of their texts, in the same plane.

        The App's Embeddings panel shows them: ``<brain_key>_images`` and ``<brain_key>_texts``.

        Args:
            samples: the measured dataset or view
            brain_key: the prefix of the runs' brain keys
            name (None): the name of the space, by default the first model's
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

    A model with Matryoshka vectors is measured at each of their dimensions, and a model with multi-vectors also with
    these pooled. A pair whose image or text cannot be embedded by one model is skipped for all.

    Args:
        samples: a dataset or view of images
        models: a dict of models by the names to show: FiftyOne models that embed images and prompts, or names of such
            models in the zoo
        text_field: the field with the text of each image, such as a caption
        paraphrase_field (None): a field with a paraphrase of each text
        sample_size (1000): the number of samples to measure, drawn at random if there are more. The paper's is 1,000
        negatives (10): the number of other images' texts to compare each image with. Texts that equal its own are
            skipped
        projection ("pca"): the projection of images and texts to one plane, ``"pca"`` or ``"umap"``
        seed (51): the random seed of the sample, the negatives and the bootstrap
        batch_size (None): the number of images to embed at a time
        num_workers (None): the number of processes that load images
        progress (None): whether to show progress bars; by default as FiftyOne's configuration says

    Returns:
        a :class:`Report`

    Raises:
        ImportError: if the projection is ``"umap"``, and umap-learn is not installed
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
        reason = f": {next(iter(skipped.values()))}" if skipped else ""
        raise ValueError(
            f"Measuring takes at least three pairs of image and text, and {len(ids)} are left of {len(chosen)}{reason}"
        )

    texts = dict(zip(*chosen.values(["id", text_field]), strict=True))
    others = _draw_negatives([texts[sample_id] for sample_id in ids], negatives, seed)
    spaces = []
    for model_pairs in pairs:
        spaces.append(_measure(model_pairs, others, projection, seed))
        for dim in _matryoshka_dims(models.get(model_pairs.name)):
            spaces.append(_measure(model_pairs.truncated(dim), others, projection, seed))
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
    """Draws other images' texts for each image.

    Each image and each text is drawn equally often, before pairs of equal texts are removed.

    Returns:
        a tuple of two arrays of indexes, of the images and of the texts
    """
    n = len(texts)
    shifts = np.random.default_rng(seed).choice(np.arange(1, n), size=min(count, n - 1), replace=False)
    rows = np.tile(np.arange(n), len(shifts))
    columns = (rows + np.repeat(shifts, n)) % n
    # Pages with the same caption are not negatives of each other.
    other = np.array(texts)[rows] != np.array(texts)[columns]
    if not other.any():
        raise ValueError("All texts are the same, so there are no negatives")

    return rows[other], columns[other]


def _mean_pairwise_cosine(vectors):
    """Returns the mean cosine of different rows: the squared norm of their sum minus N has each pair twice."""
    n = len(vectors)
    return float((np.square(vectors.sum(axis=0, dtype=np.float64)).sum() - n) / (n * (n - 1)))


def _project(vectors, projection, seed):
    if projection == "umap":
        umap = import_optional("umap", "umap", "projection='umap'")
        return umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors)

    return PCA(2, random_state=seed).fit_transform(vectors)


def _matryoshka_dims(model):
    """Returns the dimensions below the full one that vectors can be truncated to, largest first; none for ``None``."""
    encoder = getattr(model, "encoder", None)
    return sorted(getattr(encoder, "matryoshka_dims", ()), reverse=True)[1:]
