"""Which frames are read of a file, and which files are refused."""

import os
import subprocess

import numpy as np
import pytest
from jina_embeddings_v4.videos import frames
from jina_embeddings_v4.videos.frames import Video, VideoError
from PIL import Image

from .conftest import run_ffmpeg, write_video

# How much brighter each image of a video is than the one before: more than the codec's error.
STEP = 6


def shades(count):
    return [Image.new("RGB", (64, 48), (20 + STEP * i,) * 3) for i in range(count)]


def numbers(images):
    """Which of the shades images are."""
    return [round((float(np.mean(np.asarray(image))) - 20) / STEP) for image in images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def long_video(folder):
    """Forty seconds, each of another shade."""
    return write_video(folder / "long.mp4", shades(38), 4, "-g", 30)


@pytest.mark.parametrize(
    "fps, max_frames, support, expected",
    [
        (1, 64, None, [(i, i + 1) for i in range(38)]),
        (0.1, 64, None, [(9.5 * i, 9.5 * (i + 1)) for i in range(4)]),
        (10, 2, None, [(0, 19), (19, 38)]),
        (0.001, 64, None, [(0, 38)]),
        (1, 64, (5, 12), [(1, 2), (2, 3)]),
        (1, 64, (149, 999), [(37, 38)]),
    ],
)
def test_spans_divide_the_video(long_video, fps, max_frames, support, expected):
    with Video(long_video) as video:
        np.testing.assert_allclose(video.spans(fps, max_frames, support), expected)


def test_a_part_must_be_in_the_video(long_video):
    with Video(long_video) as video, pytest.raises(VideoError, match="long.mp4: it has 152 frames, and not 200 to 300"):
        video.spans(1, 64, (200, 300))


def test_frames_are_those_that_ffmpeg_decodes(video_files, tmp_path):
    with Video(video_files["meeting"]) as video:
        images = list(video.read(video.spans(1, 64)))
    # The middles of the seconds, at 2 frames a second.
    run_ffmpeg("-i", video_files["meeting"], "-vf", "select='eq(mod(n,2),1)'", "-vsync", 0, tmp_path / "%02d.png")
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(tmp_path.iterdir())]
    assert len(images) == len(expected) == 7
    for image, array in zip(images, expected, strict=True):
        assert np.abs(np.asarray(image).astype(int) - array).mean() < 1


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.avi", "long.ts", "long.webm", "streamed.webm"])
@pytest.mark.parametrize("seek_seconds", [0.5, 1e9])
def test_seeking_finds_what_decoding_all_finds(long_video, folder, name, seek_seconds, monkeypatch):
    path = folder / name
    if not path.exists():
        codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
        options = ["-i", long_video, "-c:v", codec, "-q:v", 2, "-b:v", "1M"]
        if name == "streamed.webm":
            # Into a pipe, so that neither the length nor an index is written.
            command = ["ffmpeg", "-loglevel", "error", *map(str, options), "-f", "webm", "-"]
            path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        else:
            run_ffmpeg(*options, path)

    monkeypatch.setattr(frames, "_SEEK_SECONDS", seek_seconds)
    with Video(path) as video:
        assert video.duration == pytest.approx(38, abs=0.5)
        # In the middle of shades 2, 7, 12, ...
        spans = np.array([[start, start + 5] for start in range(0, 35, 5)])
        assert numbers(video.read(spans)) == [2, 7, 12, 17, 22, 27, 32]


def test_what_lies_between_is_not_decoded(long_video, monkeypatch):
    monkeypatch.setattr(frames, "_SEEK_SECONDS", 0.5)
    decode, decoded = Video._next, []
    monkeypatch.setattr(Video, "_next", lambda self: decoded.append(self) or decode(self))
    with Video(long_video) as video:
        # Off the grid of the frames, which are 0.25 seconds apart.
        middles = np.arange(1, 38, 5) + 0.13
        assert numbers(video.read(np.stack([middles, middles], axis=1))) == [1, 6, 11, 16, 21, 26, 31, 36]
    assert len(decoded) < 60 < video.frame_count


@pytest.mark.parametrize("lands", [lambda second: second + 3, lambda second: 0, lambda second: 100])
def test_a_seek_that_leads_elsewhere_is_made_up_for(long_video, lands, monkeypatch):
    monkeypatch.setattr(frames, "_SEEK_SECONDS", 0.5)
    seek = Video._seek
    monkeypatch.setattr(Video, "_seek", lambda self, second: seek(self, lands(second)))
    with Video(long_video) as video:
        assert numbers(video.read(np.array([[start, start + 5] for start in range(0, 35, 5)]))) == list(range(2, 35, 5))


@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv"])
@pytest.mark.parametrize("seek_seconds", [0.5, 1e9])
def test_a_varying_frame_rate(folder, name, seek_seconds, monkeypatch):
    # As a screen is recorded: a slide is one frame, however long it is shown.
    shown = [4, 0.5, 0.5, 6, 1, 8]
    pages, path = folder / "slides", folder / name
    if not path.exists():
        pages.mkdir(exist_ok=True)
        lines = []
        for i, (image, seconds) in enumerate(zip(shades(len(shown)), shown, strict=True)):
            image.save(pages / f"{i}.png")
            lines.append(f"file '{pages}/{i}.png'\nduration {seconds}\n")
        (pages / "list.txt").write_text("".join([*lines, f"file '{pages}/{i}.png'\n"]))
        run_ffmpeg("-f", "concat", "-safe", 0, "-i", pages / "list.txt", "-vsync", "vfr", "-pix_fmt", "yuv420p", path)

    monkeypatch.setattr(frames, "_SEEK_SECONDS", seek_seconds)
    with Video(path) as video:
        middles = np.arange(0.25, 19, 0.5)
        spans = np.stack([middles - 0.25, middles + 0.25], axis=1)
        expected = np.searchsorted(np.cumsum(shown), middles, side="right")
        assert numbers(video.read(spans)) == expected.tolist()


def test_a_rotated_video_is_upright(long_video, folder):
    path = folder / "rotated.mp4"
    run_ffmpeg("-display_rotation", 90, "-i", long_video, "-c", "copy", path)
    with Video(path) as video:
        assert (video.width, video.height) == (48, 64)
        assert next(video.read(video.spans(1, 1))).size == (48, 64)


def test_a_video_that_ends_early_is_read_up_to_there(long_video, folder):
    path = folder / "cut.mp4"
    run_ffmpeg("-i", long_video, "-c", "copy", "-movflags", "faststart", path)
    content = path.read_bytes()
    path.write_bytes(content[: (content.index(b"mdat") + len(content)) // 2])
    with Video(path) as video:
        spans = video.spans(1, 64)
        found = numbers(video.read(spans))
        assert len(spans) == 38 and 5 < len(found) < 30
        # A player shows the last frame that there is for a while.
        assert found[:-1] == list(range(len(found) - 1)) and found[-1] >= found[-2]


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("missing.mp4", None, "FileNotFoundError"),
        ("empty.mp4", b"", "none of MP4, MOV"),
        ("text.mp4", b"not a video, but some words", "none of MP4, MOV"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n", "none of MP4, MOV"),
        ("header.mp4", b"\0\0\0\x20ftypisom" + bytes(1000), "holds no video that OpenCV can read"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=f"{name}: .*{reason}"):
        Video(tmp_path / name)


def test_sound_alone_is_refused(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.mp4")
    with pytest.raises(VideoError, match="sound.mp4: .*holds no video"):
        Video(tmp_path / "sound.mp4")


def test_neither_pipes_nor_urls_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="a pipe or a device"):
        Video(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="videos are not downloaded"):
        Video("http://127.0.0.1/video.mp4")
