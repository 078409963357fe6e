"""A video's vectors are those of its frames, in whatever batches and workers, and a bad video costs only itself."""

import logging

import fiftyone as fo
import numpy as np
import pytest
from jina_embeddings_v4.integration.failures import FailedImage
from jina_embeddings_v4.videos.embedding import encode_videos
from jina_embeddings_v4.videos.frames import Video, VideoError
from jina_embeddings_v4.videos.loading import VideoPart, load_frames


@pytest.fixture(scope="module")
def frame_files(video_files, tmp_path_factory):
    """The frames that are read of the videos, as image files."""
    folder = tmp_path_factory.mktemp("frames")
    paths = {}
    for name, path in video_files.items():
        with Video(path) as video:
            paths[name] = [folder / f"{name}-{i}.png" for i in range(round(video.duration))]
            for image, image_path in zip(video.read(video.spans(1, 64)), paths[name], strict=True):
                image.save(image_path)
    return paths


@pytest.fixture
def parts(video_files):
    return [VideoPart(str(path)) for path in video_files.values()]


def embedded(model, parts, **kwargs):
    return dict(result for batch in encode_videos(model, parts, **kwargs) for result in batch)


def test_a_video_is_its_frames(load_demo, parts, video_files, frame_files):
    model = load_demo()
    images = fo.Dataset()
    images.add_samples([fo.Sample(filepath=str(path)) for paths in frame_files.values() for path in paths])
    images.compute_embeddings(model, embeddings_field="jina", batch_size=4)
    singles = iter(images.values("jina"))
    found = embedded(model, parts, num_workers=0)
    assert sorted(found) == [0, 1, 2]
    for i, name in enumerate(video_files):
        mean = np.mean([next(singles) for _ in frame_files[name]], axis=0)
        multi = np.concatenate(model.encode_images(frame_files[name])[1].multi)
        joined = found[i].joined()
        assert joined.single.dtype == joined.multi[0].dtype == np.float32
        np.testing.assert_allclose(joined.single[0], mean / np.linalg.norm(mean), atol=2e-6)
        np.testing.assert_allclose(joined.multi[0], multi, atol=2e-5)
    images.delete()


@pytest.mark.parametrize("batch_size, num_workers", [(2, 0), (4, 2)])
def test_batches_and_workers_change_nothing(load_demo, parts, batch_size, num_workers):
    model = load_demo()
    expected = embedded(model, parts, num_workers=0)
    found = embedded(model, [*parts, parts[1]], batch_size=batch_size, num_workers=num_workers)
    for i in range(4):
        same = expected[i if i < 3 else 1]
        np.testing.assert_array_equal(found[i].end.spans, same.end.spans)
        np.testing.assert_allclose(found[i].joined().single, same.joined().single, atol=2e-6)
        np.testing.assert_allclose(found[i].joined().multi[0], same.joined().multi[0], atol=2e-5)


def test_batches_hold_frames_of_several_videos(load_demo, parts):
    batches = list(load_frames(load_demo(), parts, batch_size=6, num_workers=0))
    assert [batch.numbers for batch in batches] == [[0] * 6, [0, 1, 1, 2]]
    assert [[number for number, _ in batch.ends] for batch in batches] == [[], [0, 1, 2]]


def test_the_settings_choose_the_frames(load_demo, parts):
    model = load_demo(video_fps=0.5)
    assert [len(video.frames) for _, video in sorted(embedded(model, parts).items())] == [4, 1, 1]
    model.max_video_frames = 3
    assert [len(video.frames) for _, video in sorted(embedded(model, parts).items())] == [3, 1, 1]
    tokens = [len(embedded(model, parts[2:])[0].frames.multi[0])]
    model.max_pixels = 30_000
    tokens.append(len(embedded(model, parts[2:])[0].frames.multi[0]))
    assert tokens[0] > 1.5 * tokens[1]


def test_a_part_of_a_video(load_demo, parts):
    model = load_demo()
    whole = embedded(model, parts)[0].frames.single
    part = embedded(model, [VideoPart(parts[0].path, (7, 12))])[0]
    assert part.end.spans.tolist() == [[3, 4], [4, 5], [5, 6]]
    np.testing.assert_allclose(part.frames.single, whole[3:6], atol=2e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_video_costs_only_itself(load_demo, parts, tmp_path, num_workers, caplog):
    bad = tmp_path / "bad.mp4"
    bad.write_text("not a video")
    model, parts = load_demo(), [parts[0], VideoPart(str(bad)), parts[1]]
    with caplog.at_level(logging.WARNING):
        found = embedded(model, parts, num_workers=num_workers)
    assert isinstance(found[1], FailedImage) and [len(found[i].frames) for i in (0, 2)] == [7, 2]
    assert "bad.mp4: it is damaged, or none of MP4" in caplog.text
    with pytest.raises(VideoError, match="bad.mp4: it is damaged"):
        embedded(model, parts, num_workers=num_workers, skip_failures=False)


def test_a_video_that_ends_early_is_named(load_demo, parts, tmp_path, caplog):
    from .conftest import run_ffmpeg

    run_ffmpeg("-i", parts[0].path, "-c", "copy", "-movflags", "faststart", tmp_path / "whole.mp4")
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: (content.index(b"mdat") + len(content)) // 2])
    with caplog.at_level(logging.WARNING):
        video = embedded(load_demo(), [VideoPart(str(tmp_path / "cut.mp4"))])[0]
    assert 1 <= len(video.frames) < 7 and video.end.missing == 7 - len(video.frames)
    assert "cut.mp4 ends after" in caplog.text
