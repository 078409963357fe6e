"""Reads the texts of a dataset's samples: a page's text layer, or what OCR has found in it."""

from collections.abc import Sequence
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection


def check_text_field(samples: SampleCollection, path: str) -> None:
    """Raises a ``ValueError`` if a field does not hold strings, alone or in lists."""
    field = samples._root_dataset.get_field(path)
    inner = field.field if isinstance(field, fo.ListField) else field
    if not isinstance(inner, fo.StringField):
        schema = samples._root_dataset.get_field_schema(ftype=fo.StringField)
        names = ", ".join(repr(name) for name in schema if name != "filepath") or "none yet"
        what = "does not exist" if field is None else f"is a {type(field).__name__}"
        raise ValueError(
            f"text_field={path!r} {what}: expected a field of strings, or one of labels, eg 'ocr.detections.label'. "
            f"Fields of strings are {names}"
        )


def read_texts(samples: SampleCollection, path: str, ids: Sequence[str]) -> list[str | None]:
    """Reads the texts of samples.

    Args:
        samples: a dataset or view, not of groups
        path: the field
        ids: the samples' ids

    Returns:
        a list of strings, in the order of the ids, with ``None`` for samples without text
    """
    found = dict(zip(*samples.select(list(ids)).values(["id", path]), strict=True))
    return [_join(found.get(sample_id)) for sample_id in ids]


def _join(value: Any) -> str | None:
    """Joins strings in lists, a line for each."""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_join, value))) or None

    return value
