"""Documents as people have them: a folder of PDFs and images becomes a FiftyOne dataset, one sample a page."""

import functools
import logging
import math
import os
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fiftyone as fo
import fiftyone.core.utils as fou

from ..engine.arguments import check_integer
from ..engine.image_files import open_image_file
from ..engine.images import load_image
from ..integration.optional import import_optional
from .pdf_renderer import PageLimitError, PdfRenderer, scale_to

# The area in pixels to which a page is rendered, whatever its size on paper, which is often wrong, and must not make a
# poster cost more than a letter. By default, the model resizes a page to 602112 pixels. Four times that is 158 dpi for
# A4: small print comes out of the resizing clean, people can read it in the App, and a ``max_pixels`` of up to as much
# is served, too. More would only make the files larger.
PIXELS = 4 * 602_112

# What browsers show, and so the App, stays where it is. The rest is rendered: all pages of a PDF, all frames of a TIFF.
SHOWN = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"}
RENDERED = {".heic", ".heif", ".j2k", ".jp2", ".jpx", ".pbm", ".pdf", ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}

# Pages of a document that fail one after the other, after which the rest of it is given up: a damaged PDF may claim
# millions.
_FAILURES = 100

# The same for pages that take more than they may, each of which is waited for.
_COSTLY = 3

# Pages that are added at a time, and the most that a killed run has to render again.
_BATCH = 32

_FIELDS = {
    "document": (fo.StringField, "The document's path, relative to the folder"),
    "page": (fo.IntField, "The page's number, from 1"),
    "pages": (fo.IntField, "The number of pages of the document"),
    "text": (fo.StringField, "The text layer of a PDF's page"),
    "file_version": (fo.StringField, "The size and the time of modification of the document's file"),
}

logger = logging.getLogger(__name__)


def load_documents(
    folder: str | os.PathLike,
    name: str | None = None,
    pages_dir: str | os.PathLike | None = None,
    pixels: int = PIXELS,
    persistent: bool = True,
    progress: bool | None = None,
    seconds: int = 30,
) -> fo.Dataset:
    """Makes a dataset of the pages of the PDFs and images in a folder and its subfolders, or brings it up to date.

    Each page is a sample. Its ``filepath`` is the image of the page: images that browsers show are used where they are,
    and pages of PDFs, frames of TIFFs and images of other formats are rendered to JPEG files. The fields ``document``,
    its path relative to the folder, and ``page``, from 1, say where it comes from, and ``pages`` how many there are.
    ``text`` is the text layer of a PDF's page, or ``None``. The saved view ``"documents"`` groups them by document.

    Called again, it reads only what is new: documents that changed, by their size or time of modification, get new
    samples in place of their old ones, and a run that was killed goes on where it was. Pages of documents that are no
    longer in the folder stay.

    A document that cannot be read, or a page of it, costs only itself: one warning names it and the reason, and
    ``dataset.info["skipped"]`` lists those of the last run, as dicts of ``document``, ``page`` and ``reason``. The next
    run tries them again. Until a changed document can be read, its earlier pages stay. Hidden files, and files that are
    neither PDFs nor images by their extension, are passed over.

    Args:
        folder: the folder's path
        name (None): the dataset's name, by default the folder's
        pages_dir (None): the folder below which rendered pages are kept, in one for each dataset. By default ``pages``
            in FiftyOne's ``default_dataset_dir``
        pixels (``PIXELS``): the area to which pages of PDFs are rendered, and larger frames of TIFFs are resized. By
            default four times what the model sees by default; with a larger ``max_pixels``, at least that
        persistent (True): whether the dataset, if it is new, outlives the database's session
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        seconds (30): what a page of a PDF may take to render. One that takes more, or more than 2 GB of memory, is
            skipped; after three of these, so is the rest of the PDF

    Returns:
        the :class:`fiftyone.core.dataset.Dataset`

    Raises:
        NotADirectoryError: if there is no such folder
        ImportError: if there are PDFs, and pypdfium2 is not installed
        ValueError: if the dataset of this name holds something else, or pages of another folder or size, or if FiftyOne
            does not accept the name
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise NotADirectoryError(f"There is no folder {folder}")

    check_integer("pixels", pixels, 1)
    check_integer("seconds", seconds, 1)
    name = name or folder.name
    pages_root = Path(pages_dir or Path(fo.config.default_dataset_dir, "pages")).expanduser().resolve()
    pages_dir = pages_root / fou.to_slug(name)

    skipped = _Skipped(folder)
    paths = list(_find(folder, {pages_root, pages_dir}, skipped))
    if any(path.suffix.lower() == ".pdf" for path in paths):
        import_optional("pypdfium2", "pdf", "Reading PDFs")

    dataset = _make_dataset(name, persistent, {"folder": str(folder), "pixels": int(pixels)})
    with PdfRenderer(seconds) as renderer:
        pages = _new_pages(dataset, folder, paths, pages_dir, pixels, skipped, progress, renderer)
        for batch in fou.iter_batches(pages, _BATCH):
            dataset.add_samples(batch, progress=False)

    dataset.info["skipped"] = skipped
    dataset.save()
    return dataset


class _Skipped(list):
    """What could not be read, as ``dataset.info`` keeps it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def add(self, path: str | os.PathLike, error: Exception | str, page: int | None = None) -> None:
        # A name that is not UTF-8 can be neither stored nor, everywhere, printed.
        path = str(path).encode(errors="backslashreplace").decode()
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        logger.warning("Skipping %s%s: %s", f"page {page} of " if page else "", path, reason)
        self.append({"document": os.path.relpath(path, self.folder), "page": page, "reason": reason})


def _find(folder, excluded, skipped):
    """Yields the paths of the documents in a folder, without those in the excluded folders."""
    for parent, folders, files in os.walk(folder, onerror=lambda error: skipped.add(error.filename, error.strerror)):
        parent = Path(parent)
        folders[:] = [name for name in sorted(folders) if name[0] != "." and parent / name not in excluded]
        for path in (parent / name for name in sorted(files) if name[0] != "."):
            if path.suffix.lower() not in SHOWN | RENDERED:
                continue

            try:
                str(path).encode()
            except UnicodeEncodeError:
                skipped.add(path, "the database cannot hold its name, which is not UTF-8: rename it")
            else:
                yield path


def _make_dataset(name, persistent, origin):
    dataset = fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=persistent)
    if not len(dataset):
        dataset.info.update(origin)
        dataset.save()

    found = {key: dataset.info.get(key) for key in origin}
    if found != origin:
        raise ValueError(f"Dataset {name!r} holds pages of {found}, not of {origin}: pass another name, or delete it")

    for field, (kind, description) in _FIELDS.items():
        dataset.add_sample_field(field, kind, description=description)
    dataset.create_index([("document", 1), ("page", 1)])
    if not dataset.has_saved_view("documents"):
        dataset.save_view("documents", dataset.group_by("document", order_by="page"))

    return dataset


def _new_pages(dataset, folder, paths, pages_dir, pixels, skipped, progress, renderer):
    """Yields a sample for each page that the dataset lacks, and deletes those of earlier versions of a document."""
    first_pages = dataset.group_by("document").values(["document", "file_version", "pages"])
    known = {document: rest for document, *rest in zip(*first_pages, strict=True)}
    counts = dataset.count_values("document")

    with fo.ProgressBar(total=len(paths), progress=progress, iters_str="documents") as bar:
        for path in bar(paths):
            document = path.relative_to(folder).as_posix()
            known_version, known_pages = known.get(document, (None, None))
            with ExitStack() as opened:
                try:
                    status = path.stat()
                    # Opening a named pipe waits for a writer, who may never come.
                    if not stat.S_ISREG(status.st_mode):
                        raise ValueError("it is no regular file")

                    version = f"{status.st_size} {status.st_mtime_ns}"
                    if version == known_version and counts[document] == known_pages:
                        continue

                    pages, read = opened.enter_context(_open(path, pixels, renderer))
                # Decoders raise nearly anything on damaged files.
                except Exception as error:
                    skipped.add(path, error)
                    continue

                # Not an expression, which would take a name that starts with a dollar sign for a field.
                samples = dataset.match({"document": document})
                if version != known_version:
                    dataset.delete_samples(samples)

                present, failures, costly = set(samples.values("page")), 0, 0
                for page in (page for page in range(1, pages + 1) if page not in present):
                    filepath = path
                    if path.suffix.lower() not in SHOWN:
                        filepath = pages_dir / document / f"{page:04}.jpg"
                        filepath.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        text = read(page - 1, filepath)
                    except Exception as error:
                        skipped.add(path, error, page)
                        failures += 1
                        costly += isinstance(error, PageLimitError)
                        if page < pages and (failures == _FAILURES or costly == _COSTLY):
                            why = f"{failures} pages in a row cannot be read"
                            if costly == _COSTLY:
                                why = f"{costly} pages take too much time or memory"
                            skipped.add(path, f"{why}: the rest is passed over")
                            break
                        continue

                    failures = 0
                    values = {"document": document, "page": page, "pages": pages, "text": text, "file_version": version}
                    yield fo.Sample(filepath=str(filepath), **values)


@contextmanager
def _open(path, pixels, renderer):
    """Yields the number of a document's pages, and a function that writes one, by its index and a path, and returns its
    text. Images that browsers show are not written."""
    suffix = path.suffix.lower()
    if suffix in SHOWN:
        load_image(path)
        yield 1, lambda index, filepath: None
    elif suffix == ".pdf":
        pages = renderer.count(path)
        if not pages:
            raise ValueError("there are no pages in it")

        yield pages, lambda index, filepath: renderer.render(path, index, pixels, filepath)
    else:
        with open_image_file(path) as image:
            yield getattr(image, "n_frames", 1), functools.partial(_write_frame, image, pixels)


def _write_frame(file, pixels, index, filepath):
    file.seek(index)
    image = load_image(file)
    scale = scale_to(image.size, pixels)
    image.thumbnail([math.ceil(side * scale) for side in image.size])
    image.save(filepath, quality=90)
