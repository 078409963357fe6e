"""Writes heatmaps: where a text query matches each image, as labels that the App draws."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from PIL import Image

from ..integration.query_labels import check_fields, clear_stale, set_colour
from .heat import iter_heat, query_tokens

if TYPE_CHECKING:
    from ..zoo import JinaV4
    from .index import LateInteractionSimilarityIndex

# The least length of a map's longer side. The App does not interpolate, and a cell is 28 pixels of the resized page.
_SIDE = 128

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
    draws as transparent, and otherwise a difference of cosines, see :mod:`late_interaction.heat`. All maps have the
    same scale and the same ``range`` for the App, from 0 to 0.4.

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
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "skip_failures": skip_failures}
    for _ in iter_heatmaps(model, samples, query, label_field, per_token, progress=progress, index=index, **options):
        pass
    return list(_fields(model, samples, query, label_field, per_token))


def iter_heatmaps(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    label_field: str = "heatmap",
    per_token: bool = False,
    **kwargs: Any,
) -> Iterator[tuple[int, int]]:
    """Does what :func:`write_heatmaps` does, and reports its progress. The query is weighed once.

    Args:
        model: see :func:`write_heatmaps`
        samples: see there
        query: see there
        label_field ("heatmap"): see there
        per_token (False): see there
        **kwargs: its other arguments

    Yields:
        before the first image and after each that was read, a tuple of the number of images done so far and of all

    Raises:
        ValueError: see there, when the first tuple is asked for
    """
    fields = _fields(model, samples, query, label_field, per_token)
    heat = iter_heat(model, samples, query, list(fields), per_token, **kwargs)
    check_fields(samples, fields, fo.Heatmap, "heatmaps")
    clear_stale(samples, fields)
    if not per_token:
        set_colour(samples, label_field)

    total = len(samples)
    yield 0, total
    for done, (sample, maps) in enumerate(heat, start=1):
        for (field, text), values in zip(fields.items(), maps, strict=True):
            sample[field] = fo.Heatmap(map=interpolate(values), range=list(RANGE), query=text)
        yield done, total


def _fields(model, samples, query, label_field, per_token):
    """The fields to write, and the text that each is for."""
    tokens = query_tokens(model, samples, query)
    if not per_token:
        return {label_field: query}

    texts = [text.strip() for text in model.encoder.processor.token_texts(tokens)]
    return {_field(label_field, i, text): text for i, text in enumerate(texts, start=1)}


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


def _field(label_field, number, text):
    # Other characters, such as dots, may have a meaning in a field's name.
    return "_".join(filter(None, (label_field, str(number), re.sub(r"\W", "", text))))
