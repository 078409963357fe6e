"""Images of every form become the patches that the original's processor cuts, or an error that says why not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine import images
from jina_embeddings_v4.engine.image_files import ImageError
from jina_embeddings_v4.engine.image_loading import load_image
from jina_embeddings_v4.engine.images import patchify, resize_image
from PIL import Image
from transformers import Qwen2VLImageProcessor


@pytest.fixture(scope="module")
def settings(encoder):
    return encoder.processor.image_settings


def noise(width, height):
    """An array of noise, which shows the least difference in how it is resized."""
    return np.random.default_rng(51).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photo():
    return Image.fromarray(noise(90, 60))


@pytest.fixture(scope="module")
def original(checkpoint):
    return Qwen2VLImageProcessor.from_pretrained(checkpoint)


SIZES = [(1, 1), (1, 3), (14, 14), (27, 28), (28, 27), (42, 70), (57, 91), (112, 112), (333, 777), (1240, 1754)]
LONG_SIZES = [(200, 1), (1, 200), (2000, 10), (30, 6000)]


@pytest.mark.parametrize("size", SIZES + LONG_SIZES, ids=str)
@pytest.mark.parametrize("max_pixels", [None, 100_000, 3136])
def test_patches_are_bit_by_bit_the_original_processor_s(original, settings, size, max_pixels):
    image = Image.fromarray(noise(*size))
    limits = {"shortest_edge": settings.min_pixels, "longest_edge": max_pixels or settings.max_pixels}
    expected = original(images=[image], size=limits, return_tensors="pt")

    resized = resize_image(image, settings, max_pixels)
    assert (1, *(side // settings.patch_size for side in resized.pixels.shape[1:])) == tuple(expected.image_grid_thw[0])
    patches = patchify(resized.pixels, settings)
    assert patches.dtype == torch.float32 and torch.equal(patches, expected.pixel_values)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_resized_like_small_ones(settings, tmp_path, monkeypatch, mode, orientation):
    """They are converted and resized in strips."""
    monkeypatch.setattr(images, "_STRIP_PIXELS", 100_001)
    image = Image.fromarray(noise(900, 1100))
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(51).integers(0, 1 << 16, (1100, 900), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.convert(mode).save(tmp_path / "large.tif", exif=exif)

    found = resize_image(tmp_path / "large.tif", settings).pixels
    pixels = torch.from_numpy(np.array(load_image(tmp_path / "large.tif"))).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(pixels[None], size=found.shape[1:], mode="bicubic", antialias=True)[0]
    assert torch.equal(found, expected)


PEAK = """
import sys
from jina_embeddings_v4.engine.images import ImageSettings, resize_image

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

settings = ImageSettings(14, 2, 2, 3136, 602112, (0.5,) * 3, (0.5,) * 3)
resize_image(sys.argv[1], settings)
before = peak()
resize_image(sys.argv[2], settings)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of memory is not told here")
def test_a_large_image_is_in_memory_once(tmp_path):
    """A small file may claim many pixels. Pillow keeps 4 bytes for each, and no other copy of all is made."""
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    Image.new("RGB", (5000, 5000)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", PEAK, tmp_path / "small.png", tmp_path / "large.png"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak < 1.6 * 4 * 5000**2  # a copy in RGB would make it 1.75 times, one in Pillow's own form twice


def test_a_file_of_too_many_pixels_is_refused(settings, tmp_path):
    Image.new("1", (9430, 9440)).save(tmp_path / "large.png")
    for source in (tmp_path / "large.png", Image.open(tmp_path / "large.png")):
        with pytest.raises(ImageError, match="large.png: .*9430x9440 pixels are over 89 million"):
            resize_image(source, settings)


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (2010, 10)], ids=str)
def test_an_aspect_ratio_over_200_is_refused(settings, size):
    with pytest.raises(ImageError, match=f"{size[0]}x{size[1]} pixels is over 200"):
        resize_image(Image.new("RGB", size), settings)


@pytest.mark.parametrize(
    "source, message",
    [
        (None, "NoneType: expected a PIL image"),
        (np.zeros((5, 4, 3)), r"ndarray of size \(5, 4, 3\): .*data type"),
        (np.zeros((0, 4, 3), np.uint8), r"ndarray of size \(0, 4, 3\): the image is empty"),
        (torch.zeros(4, 5), r"Tensor of size \(4, 5\): .*expected a CxHxW tensor"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), r"Tensor of size \(3, 4, 5\): .*expected uint8 or float"),
        ("no/such/image.png", "no/such/image.png: .*No such file"),
    ],
)
def test_errors_name_the_image_and_the_reason(settings, source, message):
    with pytest.raises(ImageError, match=message):
        resize_image(source, settings)


def test_errors_name_the_file_of_an_image_that_is_read_late(settings, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:3000])
    with pytest.raises(ImageError, match="cut.png: .*truncated"):
        resize_image(Image.open(tmp_path / "cut.png"), settings)
