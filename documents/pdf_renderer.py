"""Renders the pages of PDFs in a process of its own, within limits of time and memory.

A PDF of a kilobyte can keep PDFium busy for hours, take all memory or end the process. Here that costs one page: the
process is started anew for the next. It starts in a tenth of a second, since it imports nothing of this package, and
writes the pictures itself, so that no pixels cross between the two.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading

# Of the rendering process, in bytes. A page at the usual size takes 0.2 GB.
MEMORY = 2 * 1024**3

# What JPEG can hold is 65535 pixels long.
LONGEST_SIDE = 65_500

# Characters of a page's text that are kept. A page of a book has 3,000, and a sample can hold 16 MB in all.
_TEXT = 1_000_000

# Seconds until a new process must have answered, whatever else the machine does.
_START = 120


def scale_to(size: tuple[float, float], pixels: int) -> float:
    """Returns by what to scale a page's size, ``(width, height)``, so that it has an area in pixels."""
    return min(math.sqrt(pixels / math.prod(size)), LONGEST_SIDE / max(size))


class PageLimitError(ValueError):
    """A page that takes more time or memory than it may, and costs the rendering process."""


class PdfRenderer:
    """The rendering process, which starts when it is first needed.

    Args:
        seconds: what a page may take
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process = None

    def __enter__(self) -> "PdfRenderer":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def count(self, path: str | os.PathLike) -> int:
        """Opens a PDF and returns the number of its pages.

        Raises:
            ValueError: if it cannot be opened, or not within the limits
        """
        return self._ask({"path": str(path)})

    def render(self, path: str | os.PathLike, index: int, pixels: int, picture: str | os.PathLike) -> str | None:
        """Renders a page to a JPEG file.

        Args:
            path: the PDF's path
            index: the page's number, from 0
            pixels: the area of the picture, in pixels
            picture: the path of the file to write

        Returns:
            the page's text layer, or ``None``

        Raises:
            ValueError: if the page cannot be rendered, or not within the limits
        """
        return self._ask({"path": str(path), "index": index, "pixels": pixels, "picture": str(picture)})

    def _ask(self, request):
        if self._process is None:
            self._process = _start()
            # Answered when all is imported, which is not the page's to wait for.
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
            # What was asked would be answered to the next request.
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
            # What could not be written before is tried again here.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def _start():
    # A process of multiprocessing would run the person's own script again. -P keeps this folder, whose modules have
    # common names, off the path.
    return subprocess.Popen(
        [sys.executable, "-P", os.path.abspath(__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUTF8": "1"},
        # Ctrl-C is for the parent to act on.
        start_new_session=True,
    )


def _serve():
    """What the process does: answers requests until the parent is gone."""
    import queue

    # What a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_memory()
    requests = queue.SimpleQueue()

    def read():
        for line in sys.stdin:
            requests.put(json.loads(line))
        # The parent is gone, also in the midst of a page.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    import pypdfium2  # noqa: F401, before the first page's time begins

    opened = {}
    while True:
        request = requests.get()
        try:
            answer = {"result": _answer(opened, **request)}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _limit_memory():
    try:
        import resource
    except ImportError:  # Windows
        return

    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):  # a system that does not limit this, or less already
            pass


def _answer(opened, path=None, index=None, pixels=None, picture=None):
    if path is None:
        return None
    if path not in opened:
        for pdf in opened.values():
            pdf.close()
        opened.clear()
        opened[path] = _open(path)
    return len(opened[path]) if index is None else _render(opened[path], index, pixels, picture)


def _open(path):
    import pypdfium2 as pdfium

    document = pdfium.raw.FPDF_LoadDocument(path.encode(), None)
    if not document:
        reasons = {3: "it is damaged, or no PDF", 4: "it is encrypted, with a password"}
        error = pdfium.raw.FPDF_GetLastError()
        raise ValueError(reasons.get(error, f"PDFium cannot open it (error {error})"))

    pdf = pdfium.PdfDocument(document)
    # Without this, what people filled into a form is not drawn.
    pdf.init_forms()
    return pdf


def _render(pdf, index, pixels, picture):
    page = pdf[index]
    try:
        image = page.render(scale=scale_to(page.get_size(), pixels)).to_pil()
        # A hyphen that only the end of a line put into a word is marked by a control character.
        text = page.get_textpage().get_text_bounded().replace("\x02", "").replace("\r\n", "\n")
    finally:
        page.close()

    # Resized by the model, it is as good as a PNG, which takes up to five times the space.
    image.save(picture, quality=90)
    return text.strip()[:_TEXT] or None


if __name__ == "__main__":
    _serve()
