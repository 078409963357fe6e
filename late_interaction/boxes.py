"""Writes boxes: the best places of each image for a text query, as labels that the App draws."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from ..documents.page_words import FIELDS, PageWords
from ..engine.arguments import check_integer
from ..integration.query_labels import check_fields, clear_stale, set_colour
from .heat import iter_heat, query_tokens
from .heatmaps import interpolate
from .places import Place, find_places

if TYPE_CHECKING:
    from ..zoo import JinaV4

# Characters of a label, which the App draws beside its box. The attribute ``text`` has all.
_LABEL = 40


def write_boxes(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    label_field: str = "boxes",
    max_boxes: int = 5,
    **kwargs: Any,
) -> None:
    """Writes the best places of each image for a text query, as :class:`fiftyone.core.labels.Detections`.

    On a page of a PDF with a text layer, in a dataset that :func:`documents.load_documents` made, the boxes are around
    words: those of the query that stand there, and after them the words where the heat is. The label is their text,
    shortened to 40 characters, and the attribute ``text`` has all of it. Elsewhere, a box is around a hot region, its
    label is the query, and its ``text`` is ``None``. :mod:`late_interaction.places` says how they are chosen.

    The ``confidence`` of a box is the maximum of the heat in it, a difference of cosines on one scale for all images,
    see :mod:`late_interaction.heat`. A place is hot from 0.2 on. A word of the query may stand where the model sees no
    match, and has a box with less.

    An image without a place has an empty list. The attribute ``query`` of the :class:`fiftyone.core.labels.Detections`
    is the query. Boxes of other queries in the same field are deleted, on all samples of the dataset. The field gets a
    colour in the dataset's colour scheme, unless it has one there.

    The words of a document that is gone or has changed since it was loaded are unknown, which a warning says.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        query: a string
        label_field ("boxes"): the field to write
        max_boxes (5): the most boxes of an image
        **kwargs: ``batch_size``, ``num_workers``, ``skip_failures``, ``progress`` and ``index``, as in
            :func:`late_interaction.heatmaps.write_heatmaps`. With an index, the places are better

    Raises:
        TypeError: if the query is not a string
        ValueError: if the query is empty, the samples are not images, or the field is of another type
        ImportError: if there are pages with a text layer, and pypdfium2 is not installed
        engine.image_files.ImageError: if an image cannot be read and ``skip_failures`` is False
    """
    for _ in iter_boxes(model, samples, query, label_field, max_boxes, **kwargs):
        pass


def iter_boxes(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    label_field: str = "boxes",
    max_boxes: int = 5,
    **kwargs: Any,
) -> Iterator[tuple[int, int]]:
    """Does what :func:`write_boxes` does, and reports its progress.

    Args:
        model: see :func:`write_boxes`
        samples: see there
        query: see there
        label_field ("boxes"): see there
        max_boxes (5): see there
        **kwargs: see there

    Yields:
        before the first image and after each that was read, a tuple of the number of images done so far and of all

    Raises:
        ValueError: see there, when the first tuple is asked for
    """
    query_tokens(model, samples, query)
    check_integer("max_boxes", max_boxes, 1)
    check_fields(samples, [label_field], fo.Detections, "boxes")
    heat = iter_heat(model, samples, query, [label_field, *FIELDS], **kwargs)
    with PageWords(samples) as words:
        clear_stale(samples, {label_field: query})
        set_colour(samples, label_field)
        total = len(samples)
        yield 0, total
        for done, (sample, maps) in enumerate(heat, start=1):
            places = find_places(interpolate(maps[0]), words.of(sample), query, max_boxes)
            detections = [_detection(place, query) for place in places]
            sample[label_field] = fo.Detections(detections=detections, query=query)
            yield done, total


def _detection(place: Place, query: str) -> fo.Detection:
    left, top, right, bottom = place.box
    label = query if place.text is None else place.text
    return fo.Detection(
        label=label if len(label) <= _LABEL else f"{label[: _LABEL - 2]} …",
        bounding_box=[left, top, right - left, bottom - top],
        confidence=place.heat,
        text=place.text,
    )
