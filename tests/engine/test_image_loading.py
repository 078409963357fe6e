"""Images of every form are loaded as people see them."""

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine.image_loading import load_image
from PIL import Image


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(51).integers(0, 256, (60, 90, 3), dtype=np.uint8))


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
