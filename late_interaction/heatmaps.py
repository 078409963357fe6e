"""Where on a page a query is met, drawn over the page.

For each token of the query, each visual token of the page has a cosine. As they stand, cosines tell little of where: a
token such as "a" or "page" has high ones all over the page, and would drown the word that is met in one spot. So what
counts is by how much a cosine exceeds what is ordinary for its query token on this page, the mean of the token's
cosines there plus one standard deviation, and no less than zero::

    excess[token, cell] = max(0, cosine[token, cell] - mean[token] - deviation[token])
    heat[cell]          = max over tokens of excess[token, cell]

A token that says nothing of where, or whose match fills half of the page, stands out little. One whose match is a small
spot does, by nearly all of its cosine over the rest. Each part of a query lights its own place, whatever else the query
names: that is the maximum's doing, where a mean would ask for places that match all of the words.

The heat is a difference of cosines, not scaled to the page. So pages can be compared, those of other calls too, and a
page on which the query does not occur stays dark.
"""

import re
from typing import TYPE_CHECKING

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

# Pages whose vectors are read from an index at a time. Full ones take 0.4 MB each.
_PAGES_AT_ONCE = 32

# What the App draws from invisible to opaque. Matches of the demo model have a heat of about 0.25 to 0.7, and a half of
# them over 0.4; the hottest spot of a page without a match has 0.1 in the median. More than the upper end is drawn as
# the upper end.
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
    """Writes where on each image a text query is met, as :class:`fiftyone.core.labels.Heatmap` labels.

    A map has one value for each visual token, a square of 28 pixels of the image as the model resizes it: a float32
    array of as many rows and columns as the model sees, upright, as the App shows the image. ``model.max_pixels`` says
    how fine that is. The value is 0 where nothing of the query is met, which the App leaves clear, and grows with how
    much more similar to a token of the query this place is than the page is elsewhere: a difference of cosines, see
    this module. The values of all pages, queries and calls are on one scale, and so is the ``range`` that the App draws
    them in, from 0 to 0.4.

    With ``per_token``, each token of the query gets a map, and a field, of its own, named by its number and its text:
    of "a red stamp", ``heatmap_1_a``, ``heatmap_2_red`` and ``heatmap_3_stamp``, which the App lists one below the
    other, each in a colour of its own. The map of the whole query is, place by place, the highest of these.

    Each label says in an attribute ``query`` what it is the map of: the query, or the token.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        query: a string
        label_field ("heatmap"): the field to write. With ``per_token``, what the names of the fields begin with
        per_token (False): whether to write a map for each token of the query, in place of one for the query
        batch_size (None): the number of images that are prepared together, by default 16
        num_workers (None): the number of processes that load and resize images
        skip_failures (True): whether to leave the fields of an image that cannot be read as they are, and warn, in
            place of raising an error
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        index (None): the :class:`late_interaction.index.LateInteractionSimilarityIndex` that the images were found by.
            Those whose vectors it holds as the model gives them are not embedded once more: with ``pool_factor=1``, by
            the same task and ``max_pixels``

    Returns:
        the list of the names of the fields

    Raises:
        TypeError: if the query is no string
        ValueError: if the query is empty, the samples are no images, or the field is of another type
        engine.images.ImageError: if an image cannot be read, and failures are not to be skipped
    """
    _check_images(samples)
    processor = model.encoder.processor
    tokens = processor.text_tokens(query, model.task, model.query_prompt_name)
    if not query.strip():
        raise ValueError("The query is empty")

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
                f"The field {field!r} holds {kind.__name__ if kind else type(schema[field]).__name__} and no heatmaps: "
                "choose another label_field"
            )

    # The prefix is the same in every query, so where it is met says nothing of this one.
    vectors = model.encode_prompts([query]).multi[0][tokens.own]

    def write(sample, visual, grid):
        maps = excess(vectors @ visual.T)
        if not per_token:
            maps = maps.max(axis=0, keepdims=True)
        for (field, text), values in zip(fields.items(), maps, strict=True):
            sample[field] = fo.Heatmap(map=values.reshape(grid), range=list(RANGE), query=text)

    if index is not None:
        samples = _write_from_index(model, samples, index, list(fields), write)
    loading = batch_size, num_workers, skip_failures, progress
    for images, of_images in load_with_samples(model, samples, fields, *loading):
        images, embeddings = model.encode_images(images, skip_failures=skip_failures)
        pages = iter(embeddings.multi)
        for image, sample in zip(images, of_images, strict=True):
            if isinstance(image, FailedImage):
                continue

            # Without the tokens of the prompt around them, the visual ones are the grid, row by row.
            write(sample, next(pages)[processor.image_tokens(image).own], processor.grid(image))

    return list(fields)


def _write_from_index(model, samples, index, fields, write):
    """Writes the maps of the images whose vectors an index has, and returns a view of the others."""
    config = index.config
    of_task = (config.model_kwargs or {}).get("task", model.encoder.tasks[0])
    if config.pool_factor != 1 or config.patches_field is not None or of_task != model.task:
        return samples

    settings, (before, after) = model.encoder.processor.image_settings, model.encoder.processor.tokens_around_image
    existing = [field for field in fields if samples.has_field(field)]
    written = []
    ids = samples.values("id")
    for start in range(0, len(ids), _PAGES_AT_ONCE):
        found = index.get_multi_vectors(ids[start : start + _PAGES_AT_ONCE])
        part = samples.select(list(found)).select_fields(existing)
        for sample in part.iter_samples(autosave=True, progress=False):
            try:
                grid = grid_of_file(check_dataset_path(sample.filepath), settings, model.max_pixels)
            except Exception:
                continue  # which says why where the image is embedded

            visual = found[sample.id][before : len(found[sample.id]) - after]
            # Of another size, the page was indexed with another max_pixels, or the file is another one now.
            if len(visual) == grid[0] * grid[1]:
                write(sample, visual, grid)
                written.append(sample.id)
    return samples.exclude(written)


def excess(similarities: np.ndarray) -> np.ndarray:
    """Returns by how much the places of a page exceed what is ordinary there, for each token of a query.

    Args:
        similarities: a float32 array ``(query tokens, visual tokens)``, their cosines

    Returns:
        a float32 array of the same shape: what the cosines are over their row's mean and standard deviation, at least 0
    """
    ordinary = similarities.mean(axis=1, keepdims=True) + similarities.std(axis=1, keepdims=True)
    return np.maximum(similarities - ordinary, 0)


def _check_images(samples):
    fov.validate_image_collection(samples)
    if isinstance(samples, (fop.PatchesView, fop.EvaluationPatchesView)):
        raise ValueError("Heatmaps are of whole images: pass the images' own dataset or view, not one of their patches")


def _field(label_field, number, text):
    # What is no letter, digit or underscore may mean something in a field's name.
    return "_".join(filter(None, (label_field, str(number), re.sub(r"\W", "", text))))
