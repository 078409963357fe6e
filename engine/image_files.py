"""Opens image files and URLs from untrusted sources, within limits."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

from .downloads import download, escape, is_url, readable

# Pillow knows more formats, among them PostScript, which it hands to Ghostscript, which runs the file's code. JPEG
# includes MPO, and PPM includes PBM, PGM and PNM. HEIF needs a registered Pillow plugin.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

# A file of a few kilobytes may claim this many pixels, and takes 356 MB when it is decoded. Pillow warns slightly
# above, and refuses twice as many. An A0 poster at 200 dpi has 62 million.
MAX_PIXELS = 89_000_000

URLS_VARIABLE = "JINA_V4_ALLOW_URLS"


class ImageError(ValueError):
    """An image that cannot be embedded. The message names the image and the reason, on one line."""

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))


def check_dataset_path(path: str) -> str:
    """Checks that a dataset's image path may be read.

    A dataset may come from others, so its URLs are not downloaded unless the user allows it.

    Args:
        path: a path, or a URL

    Returns:
        the path

    Raises:
        ImageError: if it is a URL, and the environment variable :data:`URLS_VARIABLE` is not ``1``
    """
    if is_url(path) and os.environ.get(URLS_VARIABLE) != "1":
        raise ImageError(
            f"{readable(path)}: the URLs of a dataset are not downloaded. If you trust them, set the environment "
            f"variable {URLS_VARIABLE}=1"
        )

    return path


def check_area(image: Image.Image) -> None:
    """Checks the size in an image file's header.

    Raises:
        ValueError: if it is over :data:`MAX_PIXELS`
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} pixels are over {MAX_PIXELS // 1_000_000} million, the limit for files; "
            "scale it down, or cut it into parts"
        )


@contextmanager
def open_image_file(file: str | os.PathLike | IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Opens an image file in one of the :data:`FORMATS`, as a context.

    Args:
        file: the path of a regular file, an http(s) URL, or a binary file object

    Yields:
        a :class:`PIL.ImageFile.ImageFile`, whose pixels are not yet read

    Raises:
        OSError: if there is no such file, or it cannot be downloaded
        ValueError: if it is not a regular file, or the download is not allowed
        PIL.UnidentifiedImageError: if it has none of the formats
    """
    if is_url(file):
        file = download(file)
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb", opener=open_at_once) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ValueError("it is a pipe or a device, expected a regular file")

            with open_image_file(opened) as image:
                image.filename = os.fspath(file)
                yield image
        return

    Image.init()
    try:
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UnidentifiedImageError(f"cannot identify image file: it is damaged, or none of {known}") from None

    with image:
        yield image


def open_at_once(path: str, flags: int) -> int:
    """Opens a file, as the ``opener`` of :func:`open`, without waiting for somebody who writes to a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
