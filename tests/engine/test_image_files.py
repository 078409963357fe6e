"""Files of the supported formats are opened, and nothing else is."""

import os
import subprocess
import sys

import numpy as np
import pytest
from jina_embeddings_v4.engine.image_files import FORMATS
from jina_embeddings_v4.engine.image_loading import load_image
from PIL import Image


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(51).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def in_a_process(code, *arguments, seconds=60, **options):
    """Runs code in a process of its own, which can be ended where it hangs."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)


LOAD = """
import sys
from jina_embeddings_v4.engine.image_files import ImageError
from jina_embeddings_v4.engine.image_loading import load_image
for source in sys.argv[1:]:
    try:
        print("loaded", load_image(source).size)
    except ImageError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    """Opened as usual, a named pipe hangs the run for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    found = in_a_process(LOAD, tmp_path / "pipe.png", os.devnull, tmp_path)
    pipe, device, folder = found.stdout.splitlines()
    assert pipe == f"{tmp_path}/pipe.png: ValueError: it is a pipe or a device, expected a regular file"
    assert device == f"{os.devnull}: ValueError: it is a pipe or a device, expected a regular file"
    assert folder.startswith(f"{tmp_path}: IsADirectoryError: ")


def test_postscript_is_not_run(tmp_path):
    """Pillow hands it to Ghostscript, whatever the file's name says."""
    ran, page = tmp_path / "ran", tmp_path / "scan.jpg"
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\n: > '{ran}'\n")
    ghostscript.chmod(0o755)
    page.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 56 56\n%%EndComments\nshowpage\n%%EOF\n")

    path = f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}"
    found = in_a_process(LOAD, page, env=os.environ | {"PATH": path})
    assert not ran.exists()
    assert found.stdout.startswith(f"{page}: UnidentifiedImageError: cannot identify image file"), found.stderr
    assert "none of AVIF, BMP, GIF, HEIF, ICO, JPEG" in found.stdout


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("HEIF", "JPEG2000")])
def test_supported_formats_are_read(photo, tmp_path, format):
    photo.save(tmp_path / "photo", format=format)
    with Image.open(tmp_path / "photo") as image:
        assert image.format == format
        np.testing.assert_array_equal(load_image(tmp_path / "photo"), image.convert("RGB"))
