"""FiftyOne's own calls on a dataset of videos."""

import subprocess

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest

from ..conftest import DEMO_MODEL


@pytest.fixture
def with_a_bad_one(videos, tmp_path):
    """The dataset of videos, and a file that is none."""
    (tmp_path / "bad.mp4").write_text("not a video")
    videos.add_sample(fo.Sample(filepath=str(tmp_path / "bad.mp4"), name="bad"))
    return videos


def test_one_vector_for_each_video(videos, load_demo):
    model = load_demo()
    videos.compute_embeddings(model, embeddings_field="jina", skip_failures=False)
    vectors = np.array(videos.values("jina"))
    assert vectors.shape == (3, 256) and not videos.has_frame_field("jina")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(videos.compute_embeddings(model), vectors)
    # FiftyOne has put back what it sets for the call.
    assert model.mode is None and model.media_type == "image"


def test_vectors_of_all_frames_where_the_field_asks_for_them(videos, load_demo):
    model = load_demo()
    video = videos.match({"name": "office"})
    video.compute_embeddings(model, embeddings_field="frames.jina", batch_size=4)
    assert video.count("frames.jina") == 2 and not videos.has_sample_field("jina")
    model.mode = "image"
    assert [vectors.shape for vectors in video.compute_embeddings(model, batch_size=4).values()] == [(2, 256)]


def test_zero_shot_labels(videos, load_demo):
    model = load_demo(classes=["an invoice", "a letter", "a photograph"])
    videos.apply_model(model, label_field="kind", skip_failures=False)
    assert videos.values("kind.label") == ["an invoice", "a photograph", "a letter"]
    model.classes = ["an invoice", "a map", "a bar chart"]
    video = videos.match({"name": "meeting"})
    video.apply_model(model, label_field="frames.kind", batch_size=8)
    assert video.first().frames[1].kind.label == "a map"
    labels = video.values("frames[].kind.label")
    assert labels == ["a map"] * 6 + ["an invoice"] * 6 + ["a bar chart"] * 2


def test_search_by_single_vectors(videos):
    fob.compute_similarity(videos, model=DEMO_MODEL, embeddings_field="jina", brain_key="search")
    for query, name in (("an invoice", "meeting"), ("a photograph", "travel"), ("a letter", "office")):
        assert videos.sort_by_similarity(query, k=1, brain_key="search").values("name") == [name]


def test_search_by_words(videos):
    settings = {"backend": "late-interaction", "model": DEMO_MODEL, "text_field": "name"}
    index = fob.compute_similarity(videos.limit(2), brain_key="words", **settings)
    name = videos.first().name
    assert index.sort_by_similarity(name, mode="text").values("name") == [name]
    videos.delete_brain_run("words")


@pytest.mark.parametrize("settings", [{}, {"pool_factor": 3, "dtype": "int8"}], ids=str)
def test_search_by_late_interaction(videos, load_demo, settings):
    kwargs = {"backend": "late-interaction", "model": DEMO_MODEL, "brain_key": "search"} | settings
    fob.compute_similarity(videos.limit(1), **kwargs)
    # Adds those that are missing.
    index = videos.load_brain_results("search")
    assert index.total_index_size == 1 and index.add_samples(videos, batch_size=3) == 0
    tokens = [len(rows) for rows in index.get_multi_vectors().values()]
    per_frame = -(-261 // 3 // settings.get("pool_factor", 1))
    assert tokens == [7 * per_frame, 2 * per_frame, per_frame]
    for query, name in (("a bar chart", "meeting"), ("a photograph", "travel"), ("a letter", "office")):
        assert videos.sort_by_similarity(query, k=1, brain_key="search").values("name") == [name]
    assert (videos.sort_by_similarity(videos.last().id, k=1, brain_key="search").first().name) == "office"
    videos.delete_brain_run("search")


def test_a_bad_video_costs_only_itself(with_a_bad_one, load_demo, caplog):
    dataset, model = with_a_bad_one, load_demo(classes=["an invoice", "a map"])
    assert [vector is None for vector in dataset.compute_embeddings(model)] == [False] * 3 + [True]
    dataset.apply_model(model, label_field="kind")
    assert [label is None for label in dataset.values("kind")] == [False] * 3 + [True]
    fob.compute_similarity(dataset, backend="late-interaction", model=DEMO_MODEL, brain_key="search")
    assert dataset.load_brain_results("search").total_index_size == 3
    assert "bad.mp4: it is damaged, or none of MP4" in caplog.text
    dataset.delete_brain_run("search")


def test_a_video_whose_header_has_no_length(video_files, tmp_path, load_demo):
    # As a browser or a camera records it. FiftyOne cannot count its frames, nor read it.
    path, model = tmp_path / "streamed.webm", load_demo()
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-i",
        video_files["meeting"],
        "-c:v",
        "libvpx",
        "-b:v",
        "2M",
        "-f",
        "webm",
    ]
    path.write_bytes(subprocess.run([*command, "-"], check=True, capture_output=True).stdout)
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(path)))
    dataset.compute_metadata()
    assert dataset.compute_embeddings(model) == [None]
    fob.compute_similarity(dataset, backend="late-interaction", model=DEMO_MODEL, brain_key="search")
    model.moments(dataset, "an invoice", index=dataset.load_brain_results("search"))
    (moment,) = dataset.first().moments.detections
    assert moment.seconds == pytest.approx([3, 6]) and moment.support == [7, 12]
    dataset.delete_brain_run("search")
    dataset.delete()


def test_clips(videos, load_demo):
    model = load_demo(classes=["an invoice", "a map", "a bar chart"])
    meeting = videos.first()
    meeting["scenes"] = fo.TemporalDetections(
        detections=[fo.TemporalDetection(label="shown", support=support) for support in ([1, 6], [7, 12], [13, 14])]
    )
    meeting.save()
    clips = videos.to_clips("scenes")
    clips.apply_model(model, label_field="kind", skip_failures=False)
    assert clips.values("kind.label") == ["a map", "an invoice", "a bar chart"]
    assert clips.compute_embeddings(model, skip_failures=False).shape == (3, 256)


def test_what_does_not_fit(videos, dataset, load_demo):
    model = load_demo(mode="video")
    with pytest.raises(ValueError, match="Video models can only be applied to video collections"):
        dataset.compute_embeddings(model)
    model.mode = None
    with pytest.raises(ValueError, match="media type image"):
        model.heatmaps(videos, "an invoice")
    with pytest.raises(ValueError, match="media type image"):
        model.compute_task_embeddings(videos, {"code": "code"})
    with pytest.raises(ValueError, match="media type video"):
        model.moments(dataset, "an invoice")
    with pytest.raises(ValueError, match="mode='movie' is not allowed"):
        model.mode = "movie"
    with pytest.raises(ValueError, match="max_video_frames=0 is not allowed"):
        model.max_video_frames = 0
