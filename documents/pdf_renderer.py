"""Renders the pages of PDFs in a separate process, within limits of time and memory.

A PDF of a kilobyte can keep PDFium busy for hours, take all memory or crash the process. Then only one page is lost:
the process is restarted for the next. It starts in a tenth of a second, since it imports nothing of this package, and
writes the image files itself, so that no pixels are sent between processes.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading

# The memory limit of the rendering process, in bytes. A page of the default size takes 0.2 GB.
MEMORY = 2 * 1024**3

# Pixels. JPEG's limit is 65535.
LONGEST_SIDE = 65_500

# Characters of a page's text that are kept. A page of a book has 3,000, and MongoDB limits a sample to 16 MB.
_TEXT = 1_000_000

# The time limit for the start of a process, in seconds. It is long, since the machine may be busy.
_START = 120


def scale_to(size: tuple[float, float], pixels: int) -> float:
    """Returns the factor that scales a page of size ``(width, height)`` to an area in pixels."""
    return min(math.sqrt(pixels / math.prod(size)), LONGEST_SIDE / max(size))


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
    # Not by multiprocessing, which would import the user's main script again. -P keeps this folder off the path, since
    # its modules have common names.
    return subprocess.Popen(
        [sys.executable, "-P", os.path.abspath(__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUTF8": "1"},
        # In a session of its own, so that Ctrl-C interrupts only the parent.
        start_new_session=True,
    )


def _serve():
    """Answers requests until the parent ends. This is the main function of the process."""
    import queue

    # Libraries that print to stdout must not corrupt the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_memory()
    requests = queue.SimpleQueue()

    def read():
        for line in sys.stdin:
            requests.put(json.loads(line))
        # The parent has ended, perhaps while a page is rendered.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    import pypdfium2  # noqa: F401, before the first page's time limit begins

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
        except (OSError, ValueError):  # unsupported, or the limit is already lower
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

    # By PDFium's own call: PdfDocument(path) reports a PDF without pages as one that cannot be loaded.
    document = pdfium.raw.FPDF_LoadDocument(path.encode(), None)
    if not document:
        reasons = {3: "it is damaged, or no PDF", 4: "it is encrypted with a password"}
        error = pdfium.raw.FPDF_GetLastError()
        raise ValueError(reasons.get(error, f"PDFium cannot open it (error {error})"))

    pdf = pdfium.PdfDocument(document)
    # Without this, the values of form fields are not drawn.
    pdf.init_forms()
    return pdf


def _render(pdf, index, pixels, picture):
    page = pdf[index]
    try:
        image = page.render(scale=scale_to(page.get_size(), pixels)).to_pil()
        # PDFium marks a hyphen at a line break by a control character.
        text = page.get_textpage().get_text_bounded().replace("\x02", "").replace("\r\n", "\n")
    finally:
        page.close()

    # Once the model has resized it, it is as good as a PNG, which takes up to five times the space.
    image.save(picture, quality=90)
    return text.strip()[:_TEXT] or None


if __name__ == "__main__":
    _serve()
