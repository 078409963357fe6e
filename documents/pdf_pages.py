"""What the process runs that reads PDFs: it draws pages, and locates their words.

:class:`documents.pdf_renderer.PdfRenderer` starts it as a script, so it imports nothing of this package.
"""

import ctypes
import json
import math
import os
import sys
import threading
import unicodedata

# The memory limit of the rendering process, in bytes. A page of the default size takes 0.2 GB.
MEMORY = 2 * 1024**3

# Pixels. JPEG's limit is 65535.
LONGEST_SIDE = 65_500

# Characters of a page's text that are kept. A page of a book has 3,000, and MongoDB limits a sample to 16 MB.
_TEXT = 1_000_000

# Characters of a page whose words are located. Each takes some microseconds, and 0.2 KB until they are words.
_LOCATED = 200_000

# To how many steps PDFium rounds a place on a page, along each side.
_STEPS = 1_000_000

# PDFium's character for a hyphen at the end of a line, after which the word goes on.
_HYPHEN = "\x02"


def scale_to(size: tuple[float, float], pixels: int) -> float:
    """Returns the factor that scales a page of size ``(width, height)`` to an area in pixels."""
    return min(math.sqrt(pixels / math.prod(size)), LONGEST_SIDE / max(size))


def serve() -> None:
    """Answers requests until the parent ends."""
    import queue

    # Libraries that print to stdout must not corrupt the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_memory()
    requests: queue.SimpleQueue = queue.SimpleQueue()

    def read():
        for line in sys.stdin:
            requests.put(json.loads(line))
        # The parent has ended, perhaps while a page is rendered.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    import pypdfium2  # noqa: F401, before the first page's time limit begins

    opened: dict = {}
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


def _answer(opened, path=None, index=None, pixels=None, picture=None, located=False):
    if path is None:
        return None
    if path not in opened:
        for pdf in opened.values():
            pdf.close()
        opened.clear()
        opened[path] = _open(path)
    if index is None:
        return len(opened[path])
    return _words(opened[path], index) if located else _render(opened[path], index, pixels, picture)


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
        text = page.get_textpage().get_text_bounded().replace(_HYPHEN, "").replace("\r\n", "\n")
    finally:
        page.close()

    # Once the model has resized it, it is as good as a PNG, which takes up to five times the space.
    image.save(picture, quality=90)
    return text.strip()[:_TEXT] or None


def _words(pdf, index):
    page = pdf[index]
    try:
        characters = page.get_textpage()
        # Whether the last character was of a word, and whether that word may go on.
        words, glued, goes_on = [], False, False
        for i in range(min(characters.count_chars(), _LOCATED)):
            character, box = _character(characters, i)
            if character.isspace() or character == "\0":
                glued = goes_on = False
            elif character == _HYPHEN:
                # The word goes on in a box of its own on the next line.
                if goes_on:
                    words[-1][2].append(None)
            else:
                alone = unicodedata.east_asian_width(character) == "W"
                if alone or not goes_on:
                    words.append(["", glued, [None]])
                words[-1][0] += character
                words[-1][2][-1] = _around(words[-1][2][-1], box)
                glued, goes_on = True, not alone
        located = ([text, glued, _on_page(page, boxes)] for text, glued, boxes in words)
        return [word for word in located if word[2]]
    finally:
        page.close()


def _character(characters, i):
    """A character of the text layer, and its box in the page's own coordinates or ``None``."""
    import pypdfium2 as pdfium

    code = pdfium.raw.FPDFText_GetUnicode(characters, i)
    character = chr(code) if code < 0x110000 else "\0"
    # As high as the line. The other box encloses what is drawn, and is a dash's or a full stop's own height.
    for loose in (True, False):
        left, bottom, right, top = characters.get_charbox(i, loose=loose)
        if left < right and bottom < top:
            return character, (left, bottom, right, top)
    return character, None


def _around(box, other):
    """The box around two boxes, of which either may be ``None``."""
    if box is None or other is None:
        return box or other
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def _on_page(page, boxes):
    """Boxes in the page's own coordinates, as they lie on the page as it is drawn: cropped and rotated."""
    import pypdfium2 as pdfium

    found = []
    for box in filter(None, boxes):
        corners = []
        for x, y in (box[:2], box[2:]):
            across, down = ctypes.c_int(), ctypes.c_int()
            pdfium.raw.FPDF_PageToDevice(page, 0, 0, _STEPS, _STEPS, 0, x, y, across, down)
            corners.append((across.value / _STEPS, down.value / _STEPS))
        (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
        if 0 < (left + right) / 2 < 1 and 0 < (top + bottom) / 2 < 1:
            found.append([max(left, 0), max(top, 0), min(right, 1), min(bottom, 1)])
    return found


if __name__ == "__main__":
    serve()
