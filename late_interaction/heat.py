"""The heat of a page: where a text query matches it, which heatmaps and boxes show.

Each query token has a cosine with each visual token of the page. The cosines alone locate a match poorly: a token such
as "a" or "page" has high cosines all over the page, which would hide the word that matches in one spot. So what counts
is the part of a cosine above the mean and one standard deviation of its query token's cosines on this page::

    excess[token, cell] = max(0, cosine[token, cell] - mean[token] - deviation[token])

A token that matches everywhere, or half of the page, has a low excess. A token that matches a small spot has a high one
there: nearly all of its cosine above the rest of the page.

With an index, a query token counts by how much it tells apart the pages that are nearest to the query: by the variance,
over these pages, of its best cosine on a page. "An invoice with a blue stamp" is nearest to invoices. All of them look
like invoices, and some have a blue stamp, so the words for the stamp have the say. Nearer pages count more, falling off
with the score, so that it matters little how many invoices there are::

    share[page]   ~ exp((score[page] - best score) / (0.3 * deviation of the scores of the 100 nearest pages))
    weight[token] ~ variance, over pages by their shares, of the token's best cosine on a page
    heat[cell]    = sum over tokens of weight[token] * excess[token, cell]

Shares and weights add up to 1 each.

Without an index, there is nothing to compare with, and ``heat[cell] = max over tokens of excess[token, cell]``. That
shows the match of each part of the query.

The heat is a difference of cosines and is not scaled per page. So pages are comparable, also between calls, and a page
that does not match has little heat.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.core.patches as fop
import fiftyone.core.validation as fov
import numpy as np
from fiftyone.core.collections import SampleCollection

from ..engine.image_files import check_dataset_path
from ..engine.images import grid_of_file
from ..integration.failures import FailedImage
from ..integration.loading import load_with_samples

if TYPE_CHECKING:
    from ..zoo import JinaV4
    from .index import LateInteractionSimilarityIndex

# The pages nearest to a query by which its tokens are weighed, and the least with which that is better than a maximum.
_NEAREST, _FEWEST = 100, 5

# By how many standard deviations of their scores a page's share in that falls to 1/e. On the demo model's pages, 0.1 to
# 0.5 find as much, in indexes of 70 to 700 pages. A fixed number of nearest pages, each with the same share, does not.
_FALL = 0.3

# Pages whose vectors are read from an index at a time. Full pages take 0.4 MB each.
_PAGES_AT_ONCE = 32


def iter_heat(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    fields: Sequence[str],
    per_token: bool = False,
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
    progress: bool | None = None,
    index: "LateInteractionSimilarityIndex | None" = None,
) -> Iterator[tuple[fo.Sample, np.ndarray]]:
    """Computes where a text query matches each image.

    The query is embedded and weighed once. Images whose vectors the index holds come first.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        query: a string
        fields: the names of the samples' fields that the caller reads or sets. They need not exist
        per_token (False): whether to compute the heat of each token of the query, not weighed
        batch_size (None): see :func:`late_interaction.heatmaps.write_heatmaps`, as for what follows
        num_workers (None): see there
        skip_failures (True): whether to log a warning for an image that cannot be read, and leave it out
        progress (None): see there
        index (None): see there

    Yields:
        tuples of a sample and its heat, a float32 array ``(1, rows, columns)`` with a value for each visual token of
        the upright image, or with ``per_token`` ``(query tokens, rows, columns)``. The sample is saved when the next is
        asked for

    Raises:
        engine.image_files.ImageError: if an image cannot be read and ``skip_failures`` is False
    """
    tokens = query_tokens(model, samples, query)
    processor = model.encoder.processor
    embedded = model.encode_prompts([query])
    # Without the prefix, which is the same in every query.
    vectors = embedded.multi[0][tokens.own]
    if index is not None and not index.serves(model):
        index = None
    weights = None if index is None or per_token else _weights(index, model, embedded, vectors)

    def heat(visual, grid):
        maps = excess(vectors @ visual.T)
        if not per_token:
            maps = maps.max(axis=0, keepdims=True) if weights is None else weights @ maps
        return maps.reshape(-1, *grid)

    if index is not None and index.config.pool_factor == 1:
        done = []
        for sample, visual, grid in _from_index(model, samples, index, fields):
            yield sample, heat(visual, grid)
            done.append(sample.id)
        samples = samples.exclude(done)

    options = batch_size, num_workers, skip_failures, progress
    for images, batch_samples in load_with_samples(model, samples, fields, *options):
        images, embeddings = model.encode_images(images, skip_failures=skip_failures)
        multi_vectors = iter(embeddings.multi)
        for image, sample in zip(images, batch_samples, strict=True):
            if isinstance(image, FailedImage):
                continue

            # Without the prompt's tokens. The visual tokens are the grid in row-major order.
            yield sample, heat(next(multi_vectors)[processor.image_tokens(image).own], processor.grid(image))


def query_tokens(model: "JinaV4", samples: SampleCollection, query: str) -> Any:
    """Checks what :func:`iter_heat` is asked for, and returns the query's tokens.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        query: a string

    Returns:
        the tokens, as of :meth:`engine.processing.Processor.text_tokens`

    Raises:
        TypeError: if the query is not a string
        ValueError: if the query is empty, or the samples are not images
    """
    fov.validate_image_collection(samples)
    if isinstance(samples, (fop.PatchesView, fop.EvaluationPatchesView)):
        raise ValueError("Heatmaps and boxes are of whole images: pass the dataset or a view of images, not of patches")

    tokens = model.encoder.processor.text_tokens(query, model.task, model.query_prompt_name)
    if not query.strip():
        raise ValueError("The query is empty: pass a text")

    return tokens


def excess(similarities: np.ndarray) -> np.ndarray:
    """Returns the part of each cosine above the mean and one standard deviation of its row.

    Args:
        similarities: a float32 array ``(query tokens, visual tokens)`` of cosines

    Returns:
        a float32 array of the same shape, at least 0
    """
    threshold = similarities.mean(axis=1, keepdims=True) + similarities.std(axis=1, keepdims=True)
    return np.maximum(similarities - threshold, 0)


def _weights(index, model, query, vectors):
    """Weighs the query's tokens by the variance of their best cosines among the pages that are nearest to the query.

    Returns:
        a float32 array ``(1, tokens)`` of sum 1, or ``None`` if there are too few pages to compare
    """
    pages, scores = index.nearest_multi_vectors(query, _NEAREST)
    if len(pages) < _FEWEST or not scores.std():
        return None

    if index.config.pool_factor == 1:
        before, after = model.encoder.processor.tokens_around_image
        pages = [page[before : len(page) - after] for page in pages]
    best = np.array([(vectors @ page.T).max(axis=1) for page in pages])
    shares = np.exp((scores - scores.max()) / (_FALL * scores.std()))[:, None]
    shares /= shares.sum()
    variances = (shares * (best - (shares * best).sum(axis=0)) ** 2).sum(axis=0, keepdims=True)
    return (variances / variances.sum()).astype(np.float32) if variances.any() else None


def _from_index(model, samples, index, fields):
    """Yields the images whose vectors an index holds: their samples, their visual tokens and the grid of these."""
    settings, (before, after) = model.encoder.processor.image_settings, model.encoder.processor.tokens_around_image
    existing = [field for field in fields if samples.has_field(field)]
    ids = samples.values("id")
    for start in range(0, len(ids), _PAGES_AT_ONCE):
        found = index.get_multi_vectors(ids[start : start + _PAGES_AT_ONCE])
        view = samples.select(list(found)).select_fields(existing)
        for sample in view.iter_samples(autosave=True, progress=False):
            try:
                grid = grid_of_file(check_dataset_path(sample.filepath), settings, model.max_pixels)
            except Exception:
                continue  # embedding the image will report the reason

            visual = found[sample.id][before : len(found[sample.id]) - after]
            # Their number differs if the page was indexed with another max_pixels, or its file has changed.
            if len(visual) == grid[0] * grid[1]:
                yield sample, visual, grid
