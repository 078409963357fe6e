"""Makes a FiftyOne dataset of a folder of PDFs and images, with a sample for each page."""

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
from ..engine.image_loading import load_image
from ..integration.optional import import_optional
from ..integration.query_labels import MATCH, add_match_field, show_by_default
from .page_words import file_version
from .pdf_pages import scale_to
from .pdf_renderer import PageLimitError, PdfRenderer
from .pruning import remove_gone

# The area in pixels to which a page is rendered. It does not depend on the size on paper, which is often wrong, so that
# a poster costs no more than a letter. By default, the model resizes a page to 602112 pixels. Four times that is 158
# dpi for A4: small print stays sharp when it is resized, people can read it in the App, and it suffices for a
# ``max_pixels`` of up to as much. More would only make the files larger.
PIXELS = 4 * 602_112

# Files that browsers, and so the App, can show are used in place. Of the others, each page or frame is rendered.
SHOWN = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"}
RENDERED = {".heic", ".heif", ".j2k", ".jp2", ".jpx", ".pbm", ".pdf", ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}

# Consecutive pages of a document that fail before the rest is skipped: a damaged PDF may claim millions of pages.
_MAX_FAILURES = 100

# Pages of a document that exceed the limits before the rest is skipped, since each takes the whole time limit.
_MAX_COSTLY = 3

# Pages that are added at a time. A killed run has to render at most these again.
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
    prune: bool = False,
) -> fo.Dataset:
    """Makes or updates a dataset of the pages of the PDFs and images in a folder and its subfolders.

    Each page is a sample. Its ``filepath`` is the image of the page: images that browsers can show are used in place.
    Pages of PDFs, frames of TIFFs and images of other formats are rendered to JPEG files. The field ``document`` is the
    document's path relative to the folder, ``page`` the page's number from 1, and ``pages`` the document's number of
    pages. ``text`` is the text layer of a PDF's page, or ``None``, and ``metadata`` has the size of the image. The
    saved view ``"documents"`` groups the samples by document.

    Called again, it reads only new and changed documents, and continues after a kill. A document whose size or time of
    modification changed gets new samples instead of its old ones. Pages of documents that are no longer in the folder
    stay, unless ``prune`` is set.

    A document or page that cannot be read is skipped with one warning, which names it and the reason.
    ``dataset.info["skipped"]`` lists those of the last run, as dicts of ``document``, ``page`` and ``reason``. The next
    run tries them again. Until a changed document can be read, its earlier pages stay. Hidden files, and files without
    the extension of a PDF or an image, are ignored.

    Args:
        folder: the folder's path
        name (None): the dataset's name, by default the folder's
        pages_dir (None): the folder of rendered pages, in which each dataset has its own. By default ``pages`` in
            FiftyOne's ``default_dataset_dir``
        pixels (``PIXELS``): the area in pixels to which pages of PDFs are rendered, and larger frames of TIFFs are
            resized. By default, it is four times the model's default ``max_pixels``. It should not be less than the
            ``max_pixels`` that you use
        persistent (True): whether a new dataset is persistent
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        seconds (30): the time limit for a page of a PDF. A page that exceeds it, or 2 GB of memory, is skipped. After
            three of these, the rest of the PDF is skipped, too
        prune (False): whether to delete the pages of documents that are no longer in the folder: their samples, their
            rendered images, and what the dataset's late-interaction indexes have of them. Each is named in a warning

    Returns:
        the :class:`fiftyone.core.dataset.Dataset`

    Raises:
        NotADirectoryError: if there is no such folder
        ImportError: if there are PDFs, and pypdfium2 is not installed
        ValueError: if the dataset of this name holds other samples, or pages of another folder or size, or if FiftyOne
            does not accept the name. With ``prune``, also if the folder has no documents at all, as where a drive is
            not mounted
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
    if prune:
        remove_gone(dataset, folder, {path.relative_to(folder).as_posix() for path in paths}, Path(pages_dir))
    with PdfRenderer(seconds) as renderer:
        pages = _new_pages(dataset, folder, paths, pages_dir, pixels, skipped, progress, renderer)
        for batch in fou.iter_batches(pages, _BATCH):
            dataset.add_samples(batch, progress=False)

    dataset.info["skipped"] = skipped
    dataset.save()
    return dataset


class _Skipped(list):
    """The documents and pages that could not be read, as in ``dataset.info["skipped"]``."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def add(self, path: str | os.PathLike, error: Exception | str, page: int | None = None) -> None:
        # MongoDB cannot store a name that is not UTF-8, and some terminals cannot print it.
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
                skipped.add(path, "its name is not UTF-8, which the database cannot store: rename it")
            else:
                yield path


def _make_dataset(name, persistent, origin):
    """Loads or creates the dataset, and checks that its pages are of the same folder and size."""
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
        add_match_field(dataset)
        show_by_default(dataset, ("document", "page", MATCH))

    return dataset


def _new_pages(dataset, folder, paths, pages_dir, pixels, skipped, progress, renderer):
    """Yields a sample for each missing page, and deletes the samples of earlier versions of a document."""
    first_pages = dataset.group_by("document").values(["document", "file_version", "pages"])
    stored = {document: (version, pages) for document, version, pages in zip(*first_pages, strict=True)}
    counts = dataset.count_values("document")

    with fo.ProgressBar(total=len(paths), progress=progress, iters_str="documents") as bar:
        for path in bar(paths):
            document = path.relative_to(folder).as_posix()
            stored_version, stored_pages = stored.get(document, (None, None))
            with ExitStack() as opened:
                try:
                    status = path.stat()
                    # Opening a named pipe would wait for a writer.
                    if not stat.S_ISREG(status.st_mode):
                        raise ValueError("it is not a regular file")

                    version = file_version(status)
                    if version == stored_version and counts[document] == stored_pages:
                        continue

                    pages, write_page = opened.enter_context(_open(path, pixels, renderer))
                # Decoders raise errors of any type on damaged files.
                except Exception as error:
                    skipped.add(path, error)
                    continue

                # Not a ViewField expression, which would read a name that starts with a dollar sign as a field.
                samples = dataset.match({"document": document})
                if version != stored_version:
                    dataset.delete_samples(samples)

                present, failures, costly = set(samples.values("page")), 0, 0
                for page in (page for page in range(1, pages + 1) if page not in present):
                    filepath = path
                    if path.suffix.lower() not in SHOWN:
                        filepath = pages_dir / document / f"{page:04}.jpg"
                        filepath.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        text = write_page(page - 1, filepath)
                        # The App lays out pages by their sizes, which it would read from the files each time.
                        metadata = fo.ImageMetadata.build_for(str(filepath))
                    except Exception as error:
                        skipped.add(path, error, page)
                        failures += 1
                        costly += isinstance(error, PageLimitError)
                        if page < pages and (failures == _MAX_FAILURES or costly == _MAX_COSTLY):
                            reason = f"{failures} pages in a row cannot be read"
                            if costly == _MAX_COSTLY:
                                reason = f"{costly} pages take too much time or memory"
                            skipped.add(path, f"{reason}: the rest is skipped")
                            break
                        continue

                    failures = 0
                    values = {"document": document, "page": page, "pages": pages, "text": text, "file_version": version}
                    yield fo.Sample(filepath=str(filepath), metadata=metadata, **values)


@contextmanager
def _open(path, pixels, renderer):
    """Opens a document.

    Yields:
        a tuple of the number of pages, and a function that takes the index of a page and the path of a file, writes the
        page's image to it, and returns the page's text or ``None``. Images that browsers can show are not written
    """
    suffix = path.suffix.lower()
    if suffix in SHOWN:
        load_image(path)
        yield 1, lambda index, filepath: None
    elif suffix == ".pdf":
        pages = renderer.count(path)
        if not pages:
            raise ValueError("it has no pages")

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
