"""Heatmaps of where a text query matches a page.

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

import re
from typing import TYPE_CHECKING

import fiftyone as fo
import fiftyone.core.patches as fop
import fiftyone.core.validation as fov
import numpy as np
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from PIL import Image

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

# The least length of a map's longer side. The App does not interpolate, and a cell is 28 pixels of the resized page.
_SIDE = 128

# Magenta, which neither paper nor many photographs have. The App gives a new field any of its colours, such as grey.
_COLOUR = "#ff0090"

# Pages whose vectors are read from an index at a time. Full pages take 0.4 MB each.
_PAGES_AT_ONCE = 32

# The range of heat that the App draws, from invisible to opaque. More is drawn as the upper end. Matches of the demo
# model have a heat of about 0.25 to 0.7, half of them over 0.4. The maximum of a page without a match has a median of
# 0.1.
RANGE = (0.0, 0.4)


def write_heatmaps(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    label_field: str = "heatmap",
    per_token: bool = False,
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
    progress: bool | None = None,
    index: "LateInteractionSimilarityIndex | None" = None,
) -> list[str]:
    """Writes where a text query matches each image, as :class:`fiftyone.core.labels.Heatmap` labels.

    A map is a float32 array. It is upright, as the App shows the image. There is a value for each visual token, a
    square of 28 pixels of the image as the model resizes it, and the map interpolates between them.
    ``model.max_pixels`` determines its resolution. A value is 0 where no token of the query matches, which the App
    draws as transparent, and otherwise a difference of cosines, as defined in this module. All maps have the same scale
    and the same ``range`` for the App, from 0 to 0.4.

    With ``per_token``, each token of the query has its own map and field, named by its number and text. For "a red
    stamp", these are ``heatmap_1_a``, ``heatmap_2_red`` and ``heatmap_3_stamp``, and the App draws each in its own
    colour. These are not weighed.

    The field gets a colour in the dataset's colour scheme, unless it has one there. The attribute ``query`` of a label
    is the text that it is for: the query or the token. Maps of other queries in the same fields are deleted, on all
    samples of the dataset.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        query: a string
        label_field ("heatmap"): the field to write. With ``per_token``, the prefix of the fields' names
        per_token (False): whether to write a map for each token of the query, instead of one for the query
        batch_size (None): the number of images that are prepared together, by default 16
        num_workers (None): the number of processes that load and resize images
        skip_failures (True): whether to log a warning for an image that cannot be read, and keep its fields, instead of
            raising an error
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        index (None): a :class:`late_interaction.index.LateInteractionSimilarityIndex` of images, made with the model's
            task. The query's tokens are weighed by the pages in it. Images whose vectors it holds are not embedded
            again, if it was made with ``pool_factor=1`` and the model's ``max_pixels``

    Returns:
        a list of the names of the written fields

    Raises:
        TypeError: if the query is not a string
        ValueError: if the query is empty, the samples are not images, or the field is of another type
        engine.image_files.ImageError: if an image cannot be read and ``skip_failures`` is False
    """
    _check_images(samples)
    processor = model.encoder.processor
    tokens = processor.text_tokens(query, model.task, model.query_prompt_name)
    if not query.strip():
        raise ValueError("The query is empty: pass a text")

    if per_token:
        texts = [text.strip() for text in processor.token_texts(tokens)]
        fields = {_field(label_field, i, text): text for i, text in enumerate(texts, start=1)}
    else:
        fields = {label_field: query}

    schema = samples.get_field_schema()
    for field in fields:
        kind = getattr(schema.get(field), "document_type", None)
        if field in schema and kind is not fo.Heatmap:
            raise ValueError(
                f"The field {field!r} holds {kind.__name__ if kind else type(schema[field]).__name__}, not heatmaps: "
                "choose another label_field"
            )

    _clear(samples, fields)
    if not per_token:
        _colour(samples._root_dataset, label_field)
    embedded = model.encode_prompts([query])
    # Without the prefix, which is the same in every query.
    vectors = embedded.multi[0][tokens.own]
    if index is not None and not _serves(index, model):
        index = None
    weights = None if index is None or per_token else _weights(index, model, embedded, vectors)

    def write(sample, visual, grid):
        maps = excess(vectors @ visual.T)
        if not per_token:
            maps = maps.max(axis=0, keepdims=True) if weights is None else weights @ maps
        for (field, text), values in zip(fields.items(), maps, strict=True):
            sample[field] = fo.Heatmap(map=interpolate(values.reshape(grid)), range=list(RANGE), query=text)

    if index is not None and index.config.pool_factor == 1:
        samples = _write_from_index(model, samples, index, list(fields), write)
    options = batch_size, num_workers, skip_failures, progress
    for images, batch_samples in load_with_samples(model, samples, fields, *options):
        images, embeddings = model.encode_images(images, skip_failures=skip_failures)
        multi_vectors = iter(embeddings.multi)
        for image, sample in zip(images, batch_samples, strict=True):
            if isinstance(image, FailedImage):
                continue

            # Without the prompt's tokens. The visual tokens are the grid in row-major order.
            write(sample, next(multi_vectors)[processor.image_tokens(image).own], processor.grid(image))

    return list(fields)


def _clear(samples, fields):
    """Deletes the maps that an earlier query has left in the fields, on all samples of the dataset."""
    for field, text in fields.items():
        if samples._root_dataset.has_field(field):
            stale = samples._root_dataset.match((F(field) != None) & (F(f"{field}.query") != text))  # noqa: E711
            stale.set_field(field, None).save(field)


def _colour(dataset, field):
    """Sets the colour in which the App draws a field, unless the dataset's colour scheme has one for it."""
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    if not any(known.get("path") == field for known in scheme.fields or ()):
        scheme.fields = [*(scheme.fields or ()), {"path": field, "fieldColor": _COLOUR}]
        dataset.app_config.color_scheme = scheme
        dataset.save()


def _serves(index, model):
    """Whether an index holds images under the model's task."""
    task = (index.config.model_kwargs or {}).get("task", model.encoder.tasks[0])
    return index.config.patches_field is None and task == model.task


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


def _write_from_index(model, samples, index, fields, write):
    """Writes the maps of the images whose vectors an index holds, and returns a view of the others."""
    settings, (before, after) = model.encoder.processor.image_settings, model.encoder.processor.tokens_around_image
    existing = [field for field in fields if samples.has_field(field)]
    written = []
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
                write(sample, visual, grid)
                written.append(sample.id)
    return samples.exclude(written)


def interpolate(values: np.ndarray) -> np.ndarray:
    """Enlarges a map by a whole number, by bilinear interpolation between the centres of its cells.

    Args:
        values: a float32 array ``(rows, columns)``

    Returns:
        a float32 array whose longer side has at least 128 values
    """
    rows, columns = values.shape
    times = -(-_SIDE // max(rows, columns))
    enlarged = Image.fromarray(values).resize((columns * times, rows * times), Image.Resampling.BILINEAR)
    return np.array(enlarged)


def excess(similarities: np.ndarray) -> np.ndarray:
    """Returns the part of each cosine above the mean and one standard deviation of its row.

    Args:
        similarities: a float32 array ``(query tokens, visual tokens)`` of cosines

    Returns:
        a float32 array of the same shape, at least 0
    """
    threshold = similarities.mean(axis=1, keepdims=True) + similarities.std(axis=1, keepdims=True)
    return np.maximum(similarities - threshold, 0)


def _check_images(samples):
    fov.validate_image_collection(samples)
    if isinstance(samples, (fop.PatchesView, fop.EvaluationPatchesView)):
        raise ValueError("Heatmaps are of whole images: pass the dataset or a view of images, not of patches")


def _field(label_field, number, text):
    # Other characters, such as dots, may have a meaning in a field's name.
    return "_".join(filter(None, (label_field, str(number), re.sub(r"\W", "", text))))
