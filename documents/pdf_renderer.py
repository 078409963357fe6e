"""Renders the pages of PDFs in a separate process, within limits of time and memory.

A PDF of a kilobyte can keep PDFium busy for hours, take all memory or crash the process. Then only one page is lost:
the process is restarted for the next. It starts in a tenth of a second, since it imports nothing of this package, and
writes the image files itself, so that no pixels are sent between processes.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading

from . import pdf_pages
from .pdf_pages import MEMORY

# The time limit for the start of a process, in seconds. It is long, since the machine may be busy.
_START = 120


class PageLimitError(ValueError):
    """A page exceeded a limit of time or memory, and the rendering process was ended."""


class PdfRenderer:
    """The rendering process, which is started by the first request.

    Args:
        seconds: the time limit for a page
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process = None

    def __enter__(self) -> "PdfRenderer":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def count(self, path: str | os.PathLike) -> int:
        """Opens a PDF, and returns the number of its pages.

        Raises:
            ValueError: if it cannot be opened within the limits
        """
        return self._ask({"path": str(path)})

    def render(self, path: str | os.PathLike, index: int, pixels: int, picture: str | os.PathLike) -> str | None:
        """Renders a page to a JPEG file.

        Args:
            path: the PDF's path
            index: the page's number, from 0
            pixels: the area of the image, in pixels
            picture: the path of the image file to write

        Returns:
            the page's text layer, or ``None``

        Raises:
            ValueError: if the page cannot be rendered within the limits
        """
        return self._ask({"path": str(path), "index": index, "pixels": pixels, "picture": str(picture)})

    def words(self, path: str | os.PathLike, index: int) -> list[tuple[str, bool, list[list[float]]]]:
        """Locates the words of a page's text layer, in the order in which the PDF has them.

        What stands between spaces is a word. Chinese, Japanese and Korean characters are a word each.

        Args:
            path: the PDF's path
            index: the page's number, from 0

        Returns:
            tuples of a word, whether it follows the one before it without a space, and its boxes. A box is a list of
            its left, top, right and bottom edges, from 0 to 1, on the page as :meth:`render` draws it. A word that is
            hyphenated has a box on each of its lines. Words that lie outside of the page are left out

        Raises:
            ValueError: if the page cannot be read within the limits
        """
        return [tuple(word) for word in self._ask({"path": str(path), "index": index, "located": True})]

    def _ask(self, request):
        if self._process is None:
            self._process = _start()
            # Answered after the imports, whose time does not count towards the page's limit.
            self._exchange({}, _START)
        return self._exchange(request, self._seconds)

    def _exchange(self, request, seconds):
        process, expired = self._process, threading.Event()

        def expire():
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        except BaseException:
            # Otherwise, the next request would read the answer to this one.
            self._end()
            raise
        finally:
            timer.cancel()

        if expired.is_set() or not answer.endswith("\n"):
            self._end()
            if expired.is_set():
                raise PageLimitError(f"it takes more than {seconds:g} seconds")
            raise PageLimitError(f"it takes more than {MEMORY // 1024**3} GB of memory, or PDFium fails on it")

        answer = json.loads(answer)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]

    def _end(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            # Closing flushes what is left in the buffer, which fails again.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def _start():
    # Not by multiprocessing, which would import the user's main script again. -P keeps that folder off the path, since
    # its modules have common names.
    return subprocess.Popen(
        [sys.executable, "-P", os.path.abspath(pdf_pages.__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUTF8": "1"},
        # In a session of its own, so that Ctrl-C interrupts only the parent.
        start_new_session=True,
    )
