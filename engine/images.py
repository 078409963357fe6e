"""Images -> resized pixels -> patches.

A data loader's worker runs :func:`resize_image`. :func:`patchify` runs on the model's device. Only torch, numpy and
Pillow are imported here, so that a worker starts quickly.
"""

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

from .arguments import check_integer
from .checkpoint import CheckpointError, read_config, read_settings
from .image_batch import ResizedImage
from .image_files import ImageError, open_image_file
from .image_loading import Loadable, as_rgb, describe, errors_about, load_upright
from .schema import IMAGES

MAX_ASPECT_RATIO = 200

ImageSource = Loadable | ResizedImage

_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True)
class ImageSettings:
    """The settings of ``preprocessor_config.json``."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_checkpoint(cls, directory: str | os.PathLike) -> "ImageSettings":
        """Reads the settings of a checkpoint.

        Args:
            directory: the checkpoint's directory

        Returns:
            an :class:`ImageSettings`

        Raises:
            CheckpointError: naming the setting that is missing, not allowed or does not fit the network
        """
        path = Path(directory) / "preprocessor_config.json"
        config = read_settings(path, IMAGES)
        settings = cls(
            patch_size=config["patch_size"],
            merge_size=config["merge_size"],
            temporal_patch_size=config["temporal_patch_size"],
            min_pixels=config["min_pixels"],
            max_pixels=config["max_pixels"],
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )
        if settings.min_pixels > settings.max_pixels:
            raise CheckpointError(f"{path} is damaged: 'min_pixels' is over 'max_pixels'. Download it again")

        vision = read_config(directory)["vision_config"]
        for name, network_name in (
            ("patch_size", "patch_size"),
            ("merge_size", "spatial_merge_size"),
            ("temporal_patch_size", "temporal_patch_size"),
        ):
            if config[name] != vision[network_name]:
                raise CheckpointError(
                    f"{path} has {name!r} {config[name]}, but config.json has {network_name!r} {vision[network_name]}: "
                    "the files do not belong together"
                )

        return settings

    @property
    def token_size(self) -> int:
        """The side of a visual token's square, in pixels of the resized image."""
        return self.patch_size * self.merge_size

    def check_max_pixels(self, max_pixels: int | None) -> int:
        """Checks a limit on the resized image's area.

        Args:
            max_pixels: an int of at least :attr:`min_pixels`, or ``None`` for the checkpoint's own limit

        Returns:
            the limit, in pixels

        Raises:
            ValueError: if it is another value
        """
        if max_pixels is None:
            return self.max_pixels

        check_integer("max_pixels", max_pixels, self.min_pixels, or_none=True)
        return int(max_pixels)


def is_one_image(value: object) -> bool:
    """Whether a value is one image that :func:`resize_image` takes, not a sequence of images."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim <= 3

    return isinstance(value, (str, os.PathLike, Image.Image, ResizedImage))


def resized_size(height: int, width: int, settings: ImageSettings, max_pixels: int) -> tuple[int, int]:
    """Computes the size that an image is resized to.

    Both sides become multiples of a visual token's side, the aspect ratio is kept as closely as possible, and the area
    is brought between ``settings.min_pixels`` and ``max_pixels``. This is Qwen2-VL's resizing rule
    (arXiv 2409.12191, section 2.1), with Python's rounding of halves to even.

    Args:
        height: the image's height, in pixels
        width: the image's width, in pixels
        settings: an :class:`ImageSettings`
        max_pixels: the largest area, in pixels

    Returns:
        a ``(height, width)`` tuple

    Raises:
        ImageError: if one side is over 200 times the other
    """
    if min(height, width) < 1:
        raise ImageError(f"the image is empty ({width}x{height} pixels)")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(
            f"the aspect ratio of {width}x{height} pixels is over {MAX_ASPECT_RATIO}, which the model does not accept; "
            "crop or pad the image"
        )

    side = settings.token_size
    new_height, new_width = round(height / side) * side, round(width / side) * side
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height, new_width = (max(side, math.floor(x / shrink / side) * side) for x in (height, width))
    elif new_height * new_width < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        new_height, new_width = (math.ceil(x * grow / side) * side for x in (height, width))

    return new_height, new_width


def grid_of_file(path: str | os.PathLike, settings: ImageSettings, max_pixels: int | None = None) -> tuple[int, int]:
    """Computes the grid of an image file's visual tokens, without reading its pixels.

    Args:
        path: the image's path
        settings: an :class:`ImageSettings`
        max_pixels (None): the largest area after resizing, in pixels. ``None`` means the checkpoint's own limit

    Returns:
        a ``(rows, columns)`` tuple

    Raises:
        Exception: of any type, if the file is not an image
    """
    with open_image_file(path) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # rotated by 90 degrees
            width, height = height, width
    height, width = resized_size(height, width, settings, max_pixels or settings.max_pixels)
    return height // settings.token_size, width // settings.token_size


def resize_image(source: ImageSource, settings: ImageSettings, max_pixels: int | None = None) -> ResizedImage:
    """Loads an image and resizes it to the model's grid.

    The resize is bicubic and antialiased, on uint8, on the CPU. It is bit-identical to torchvision's.

    Args:
        source: an image as :func:`engine.image_loading.load_image` takes it. A :class:`ResizedImage` is left as it is
        settings: an :class:`ImageSettings`
        max_pixels (None): the largest area after resizing, in pixels. ``None`` means the checkpoint's own limit

    Returns:
        a :class:`ResizedImage`

    Raises:
        ImageError: if the image cannot be read, or its aspect ratio is over 200
    """
    if isinstance(source, ResizedImage):
        return source

    max_pixels = settings.check_max_pixels(max_pixels)
    with errors_about(source):
        image = load_upright(source)
        try:
            size = resized_size(image.height, image.width, settings, max_pixels)
        except ImageError as error:
            raise ImageError(f"{describe(source)}: {error}") from None

        return ResizedImage(_resize(image, *size), describe(source))


def _resize(image, height, width):
    # The resize is separable. Large images are narrowed strip by strip, which needs no second copy of the image, but
    # takes a little longer.
    if image.width * image.height > 4 * _STRIP_PIXELS:
        step = max(1, _STRIP_PIXELS // image.width)
        narrowed = torch.empty(3, image.height, width, dtype=torch.uint8)
        for top in range(0, image.height, step):
            strip = image.crop((0, top, image.width, min(top + step, image.height)))
            narrowed[:, top : top + step] = _interpolate(_pixels(strip), strip.height, width)
    else:
        narrowed = _pixels(image)

    return _interpolate(narrowed, height, width).contiguous()


def _pixels(image):
    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)


def _interpolate(pixels, height, width):
    if pixels.shape[1:] == (height, width):
        return pixels

    return torch.nn.functional.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]


def patchify(pixels: torch.Tensor, settings: ImageSettings) -> torch.Tensor:
    """Normalises an image and cuts it into patches.

    Args:
        pixels: the uint8 tensor ``(3, height, width)`` of a :class:`ResizedImage`, on any device
        settings: an :class:`ImageSettings`

    Returns:
        a float32 tensor ``(patches, channels * temporal_patch_size * patch_size**2)``. The patches
        of a visual token are consecutive. Each patch has two identical frames
    """
    mean, std = _statistics(settings, pixels.device)
    pixels = (pixels.float() - mean) / std

    channels, height, width = pixels.shape
    patch, merge, frames = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    blocks = pixels.reshape(channels, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6)  # rows, columns, 2, 2, channels, patch, patch
    blocks = blocks.unsqueeze(5).expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return blocks.reshape(-1, channels * frames * patch * patch)


@functools.cache
def _statistics(settings, device):
    return [torch.tensor(values, device=device)[:, None, None] * 255 for values in (settings.mean, settings.std)]
