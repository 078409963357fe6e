"""Images of every form become the patches that the original's processor cuts, or an error that says why not."""

import os
import shutil
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine import images
from jina_embeddings_v4.engine.images import ImageBatch, ImageError, load_image, patchify, resize_image
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


def test_files_arrays_and_tensors_are_the_image_they_show(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    path, array = tmp_path / "photo.png", np.array(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for form in (path, str(path), array, tensor, tensor / 255, tensor.double() / 255):
        np.testing.assert_array_equal(load_image(form), array)


def test_gray_and_transparent_arrays_and_tensors(photo):
    gray = np.array(photo.convert("L"))
    for form in (gray, gray[..., None], torch.from_numpy(gray)[None], torch.from_numpy(gray)[None] / 255):
        np.testing.assert_array_equal(load_image(form), three(gray))

    transparent = np.dstack([np.array(photo), gray])
    for form in (transparent, torch.from_numpy(transparent).permute(2, 0, 1)):
        np.testing.assert_array_equal(load_image(form), photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, tmp_path, orientation):
    # What each orientation says has to be done to the pixels to see them upright.
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "turned.jpg", exif=exif)

    stored = Image.open(tmp_path / "turned.jpg")
    upright = stored.transpose(getattr(Image.Transpose, turns[orientation])) if orientation in turns else stored
    np.testing.assert_array_equal(load_image(tmp_path / "turned.jpg"), upright)
    np.testing.assert_array_equal(load_image(stored), upright)


def three(gray):
    return np.stack([gray] * 3, axis=-1)


def mode_and_colours(photo, mode):
    """An image in a mode, and the RGB colours that it shows."""
    if mode == "I;16":
        deep = np.arange(90 * 60, dtype=np.uint16).reshape(60, 90) * 12
        return Image.fromarray(deep), three(deep >> 8)

    image = photo.convert(mode)
    values = np.array(image)
    match mode:
        case "1":
            return image, three(values * np.uint8(255))
        case "L":
            return image, three(values)
        case "LA":
            image.putalpha(0)
            return image, three(values[..., 0])
        case "P":
            return image, np.reshape(image.getpalette(), (-1, 3))[values]
        case "RGBA":
            image.putalpha(0)
            return image, values[..., :3]
        case "CMYK":
            assert not values[..., 3].any()
            return image, 255 - values[..., :3]


def test_a_loaded_image_is_the_caller_s_to_change(photo):
    pixels = np.array(photo)
    load_image(photo).thumbnail((8, 8))
    np.testing.assert_array_equal(photo, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_read(photo, tmp_path, mode):
    """An alpha channel, here of full transparency, is dropped, not blended in. Of 16 bits, the high byte is shown."""
    image, colours = mode_and_colours(photo, mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    assert Image.open(path).mode == mode
    np.testing.assert_array_equal(load_image(path), colours)
    np.testing.assert_array_equal(load_image(image), colours)


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


def test_a_batch_leaves_a_worker_as_one_tensor_in_shared_memory(settings, photo):
    """A worker's tensors hold a file descriptor each: a batch of hundreds would exhaust them."""
    small = resize_image(photo.resize((60, 90)), settings)
    batch = ImageBatch([resize_image(photo, settings), "no image", small, None])
    received = ForkingPickler.loads(ForkingPickler.dumps(batch))
    assert received[1::2] == ["no image", None] and len(received) == 4
    for mine, its in zip(batch[::2], received[::2], strict=True):
        assert torch.equal(its.pixels, mine.pixels) and its.name == mine.name and its.pixels.is_shared()
    assert len({image.pixels.untyped_storage().data_ptr() for image in received[::2]}) == 1
    assert ForkingPickler.loads(ForkingPickler.dumps(ImageBatch(["no image"]))) == ["no image"]


def test_a_batch_for_which_there_is_no_shared_memory_leaves_a_worker_all_the_same(settings, photo, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64, used=0, free=64))
    image = resize_image(photo, settings)
    (received,) = ForkingPickler.loads(ForkingPickler.dumps(ImageBatch([image])))
    assert torch.equal(received.pixels, image.pixels) and not received.pixels.is_shared()
