"""The words of the text layer of PDFs' pages, with where they stand."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from ..integration.optional import import_optional
from .pdf_renderer import PdfRenderer

# The fields of a sample that PageWords reads.
FIELDS = ("document", "page", "text", "file_version")

# The time limit for a page. To locate its words takes some hundredths of a second.
_SECONDS = 30

logger = logging.getLogger(__name__)


def file_version(status: os.stat_result) -> str:
    """Returns the size and the time of modification of a document's file, by which changes are noticed."""
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Word:
    """A word on a page.

    Args:
        text: the word, with the punctuation around it
        glued: whether it follows the word before it without a space, as in Chinese
        boxes: its boxes, one for each line that it is on: the left, top, right and bottom edges, from 0 to 1, on the
            page as it is shown
    """

    text: str
    glued: bool
    boxes: list[list[float]]


class PageWords:
    """Reads the words of the pages of a dataset that :func:`documents.load_documents` made.

    Args:
        samples: a dataset or view. Of another dataset, pages have no words

    Raises:
        ImportError: if there are pages with a text layer, and pypdfium2 is not installed
    """

    def __init__(self, samples: SampleCollection) -> None:
        self._folder = samples._root_dataset.info.get("folder")
        if not all(samples.has_field(field) for field in FIELDS):
            self._folder = None
        if self._folder and samples.exists("text").limit(1):
            import_optional("pypdfium2", "pdf", "Locating words on the pages of PDFs")
        self._renderer = PdfRenderer(_SECONDS)
        self._unread: set[str] = set()

    def __enter__(self) -> "PageWords":
        self._renderer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._renderer.__exit__(*error)

    def of(self, sample: fo.Sample) -> list[Word]:
        """Returns the words of a page, in the order of its text layer.

        A document that is gone, has changed or cannot be read is named in a warning, and its pages have no words.

        Args:
            sample: the page's sample

        Returns:
            a list of :class:`Word`, empty if the page has no text layer
        """
        if not self._folder or not sample["text"] or sample["document"] in self._unread:
            return []

        path = Path(self._folder, sample["document"])
        try:
            if file_version(path.stat()) != sample["file_version"]:
                raise ValueError("it has changed since its pages were loaded: load its folder again")

            words = self._renderer.words(path, sample["page"] - 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            logger.warning("The words of page %d of %s cannot be located: %s", sample["page"], path, reason)
            # Its other pages would each take as long to fail.
            self._unread.add(sample["document"])
            return []

        return [Word(*word) for word in words]
