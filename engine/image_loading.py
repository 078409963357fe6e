"""Loads images from files, URLs, arrays and tensors, as viewers show them: upright, in RGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps

from .downloads import readable
from .image_files import ImageError, check_area, open_image_file

Loadable = Image.Image | np.ndarray | torch.Tensor | str | os.PathLike


def load_image(source: Loadable) -> Image.Image:
    """Loads an image as viewers show it: the EXIF orientation is applied, an alpha channel is dropped.

    16-bit grayscale is reduced to its high byte. Other pixels of over 8 bits have no standard range, and are refused.

    Args:
        source: a PIL image, an ``HxWx3`` (or ``HxWx1``, ``HxWx4``, ``HxW``) uint8 array, a ``CxHxW`` uint8 or
            ``[0, 1]`` float tensor, the path of an image file, or an http(s) URL

    Returns:
        an RGB :class:`PIL.Image.Image`

    Raises:
        ImageError: if the image cannot be read
    """
    with errors_about(source):
        image = as_rgb(load_upright(source))
        return image.copy() if image is source else image


def describe(source: object) -> str:
    """Names an image for messages: by its path or URL if it has one, else by its type and shape.

    Control characters are escaped. User, password and the query's values are removed from URLs.
    """
    if isinstance(source, (str, os.PathLike)):
        return readable(os.fsdecode(source))
    filename = getattr(source, "filename", None)
    if filename:
        return readable(str(filename))

    size = getattr(source, "shape", None) or getattr(source, "size", None)
    return f"{type(source).__name__} of size {tuple(size)}" if isinstance(size, tuple) else f"{type(source).__name__}"


@contextmanager
def errors_about(source: object) -> Iterator[None]:
    """Turns exceptions into an :class:`ImageError` that names the image, as a context."""
    try:
        yield
    except ImageError:
        raise
    # Pillow's decoders raise nearly anything on damaged files: struct.error, SyntaxError, EOFError, MemoryError, ...
    except Exception as error:
        raise ImageError(f"{describe(source)}: {type(error).__name__}: {error}") from error


def load_upright(source: Loadable) -> Image.Image:
    """Loads an image in its own mode. The result may be the source itself."""
    if isinstance(source, (str, os.PathLike)):
        with open_image_file(source) as image:
            return _upright(image)
    if isinstance(source, Image.Image):
        return _upright(source)
    if isinstance(source, torch.Tensor):
        return Image.fromarray(_as_array(source))
    if isinstance(source, np.ndarray):
        return Image.fromarray(_squeeze_gray(source))

    raise ImageError(
        f"{describe(source)}: expected a PIL image, a uint8 array (HxWx3), a tensor (CxHxW), a path or an http(s) URL"
    )


def _upright(image):
    if isinstance(image, ImageFile.ImageFile):
        check_area(image)  # before the pixels are read

    image.load()
    # Pillow's function copies the image even if there is nothing to rotate.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to RGB, unless it is RGB."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no standard range: convert the image to 8 bits")
    if image.mode.startswith("I;16"):
        # Viewers show the high byte. Pillow would clip to 255, so all but the darkest 256 of 65536 grays become white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if isinstance(image.info.get("transparency"), bytes):
        # By way of RGBA, since Pillow warns when it drops a palette's alpha directly.
        image = image.convert("RGBA")

    return image if image.mode == "RGB" else image.convert("RGB")


def _as_array(tensor):
    tensor = tensor.detach().cpu()
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(f"expected a CxHxW tensor, found shape {tuple(tensor.shape)}")

    if tensor.is_floating_point():
        if not ((tensor >= 0) & (tensor <= 1)).all():
            raise ValueError("expected float values in [0, 1]")
        tensor = (tensor * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise ValueError(f"expected uint8 or float values, found {tensor.dtype}")

    return _squeeze_gray(tensor.permute(1, 2, 0).numpy())


def _squeeze_gray(array):
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
