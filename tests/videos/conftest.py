"""Small real videos, made by ffmpeg: the demo model's pages, each for some seconds."""

import subprocess

import pytest
from PIL import Image

# The size of most of the demo model's pages. The others lie on a grey table.
SIZE = 448, 632


def run_ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *map(str, arguments)], check=True)


def scene(document, seed):
    """A page in the size of a video's frames."""
    from jina_embeddings_v4.demo.pages.rendering import draw_document

    page = draw_document(document, seed)
    page.thumbnail(SIZE)
    frame = Image.new("RGB", SIZE, "grey")
    frame.paste(page, ((SIZE[0] - page.width) // 2, (SIZE[1] - page.height) // 2))
    return frame


def write_video(path, images, rate=2, *options):
    """Writes a video in which each image is shown for a second."""
    folder = path.parent / f"{path.stem}-pages"
    folder.mkdir()
    for i, image in enumerate(images):
        image.save(folder / f"{i:03}.png")
    codec = () if path.suffix == ".webm" else ("-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv420p")
    run_ffmpeg("-framerate", 1, "-i", folder / "%03d.png", "-r", rate, *codec, *options, path)
    return path


@pytest.fixture(scope="session")
def pages():
    """A page of each of some types, as frames."""
    from jina_embeddings_v4.demo.pages.documents import documents

    found = {}
    for seed, document in enumerate(documents("test", 30_000, 30_200)):
        found.setdefault(document.type, scene(document, seed))
    return found


@pytest.fixture(scope="session")
def video_files(pages, tmp_path_factory):
    """The paths of three videos by name, of 7, 2 and 1 seconds. In ``meeting``, the seconds 3 to 6 show an invoice."""
    folder = tmp_path_factory.mktemp("videos")
    shown = {
        "meeting": ["map"] * 3 + ["invoice"] * 3 + ["bar chart"],
        "travel": ["photograph", "map"],
        "office": ["letter"],
    }
    return {name: write_video(folder / f"{name}.mp4", [pages[kind] for kind in kinds]) for name, kinds in shown.items()}


@pytest.fixture
def videos(video_files):
    """A FiftyOne dataset of these videos."""
    import fiftyone as fo

    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=str(path), name=name) for name, path in video_files.items()])
    yield dataset
    dataset.delete()
