"""Fields of labels that show where a query matched. Each label has the query as its attribute ``query``."""

from collections.abc import Iterable, Mapping

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

# Magenta, which neither paper nor many photographs have. The App gives a new field any of its colours, such as grey.
COLOUR = "#ff0090"

# The field of the heatmaps of a search, unless a person names another.
MATCH = "match"


def check_fields(samples: SampleCollection, fields: Iterable[str], kind: type, name: str) -> None:
    """Raises a ``ValueError`` if a field exists and holds other labels.

    Args:
        samples: a dataset or view
        fields: the names of the fields
        kind: the class of the labels, such as :class:`fiftyone.core.labels.Heatmap`
        name: what they are called in the message
    """
    schema = samples.get_field_schema()
    for field in fields:
        found = getattr(schema.get(field), "document_type", None)
        if field in schema and found is not kind:
            raise ValueError(
                f"The field {field!r} holds {found.__name__ if found else type(schema[field]).__name__}, not {name}: "
                "choose another label_field"
            )


def clear_stale(samples: SampleCollection, fields: Mapping[str, str]) -> None:
    """Deletes the labels that an earlier query has left in fields, on all samples of the dataset.

    Args:
        samples: a dataset or view
        fields: the fields, with the query that each is for now
    """
    for field, query in fields.items():
        if samples._root_dataset.has_field(field):
            stale = samples._root_dataset.match((F(field) != None) & (F(f"{field}.query") != query))  # noqa: E711
            stale.set_field(field, None).save(field)


def set_colour(samples: SampleCollection, field: str) -> None:
    """Sets the colour in which the App draws a field, unless the dataset's colour scheme has one for it."""
    dataset = samples._root_dataset
    if not has_colour(dataset, field):
        scheme = dataset.app_config.color_scheme or fo.ColorScheme()
        scheme.fields = [*(scheme.fields or ()), {"path": field, "fieldColor": COLOUR}]
        dataset.app_config.color_scheme = scheme
        dataset.save()


def has_colour(dataset: fo.Dataset, field: str | None) -> bool:
    """Returns whether the dataset's colour scheme has a colour for a field."""
    scheme = dataset.app_config.color_scheme
    return scheme is not None and any(known.get("path") == field for known in scheme.fields or ())


def add_match_field(dataset: fo.Dataset) -> None:
    """Adds the field of the heatmaps that searches write, without any heatmap yet.

    The App shows a field on a page that a panel opens only if the field was there when the browser opened the dataset.

    Args:
        dataset: the dataset
    """
    if not dataset.has_field(MATCH):
        dataset.add_sample_field(MATCH, fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)


def show_by_default(dataset: fo.Dataset, fields: Iterable[str]) -> None:
    """Lets the App show fields where a person has not chosen any: in a new window, and on a page that is opened.

    Args:
        dataset: the dataset
        fields: the fields, which need not exist yet
    """
    shown = dataset.app_config.active_fields or fo.DatasetAppConfig.default_active_fields(dataset)
    missing = [field for field in fields if field not in shown.paths]
    if missing and not shown.exclude:
        shown.paths = [*shown.paths, *missing]
        dataset.app_config.active_fields = shown
        dataset.save()
