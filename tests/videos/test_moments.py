"""The moments at which a video matches a text."""

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
from jina_embeddings_v4.videos import moments

from ..conftest import DEMO_MODEL
from .conftest import write_video


def found(sample, field="moments"):
    return [(d.label, d.support, d.seconds) for d in sample[field].detections]


@pytest.fixture
def index(videos):
    fob.compute_similarity(videos, backend="late-interaction", model=DEMO_MODEL, brain_key="search", num_workers=0)
    yield videos.load_brain_results("search")
    videos.delete_brain_run("search")


def test_the_seconds_that_show_what_is_asked_for(videos, load_demo):
    model = load_demo()
    model.moments(videos, "an invoice")
    meeting = videos.first()
    assert found(meeting) == [("an invoice", [7, 12], [3, 6])]
    detection = meeting.moments.detections[0]
    assert detection.second in (3.5, 4.5, 5.5)
    # The others show none, and have less confidence.
    others = videos.skip(1).values("moments.detections.confidence", unwind=True)
    assert len(others) >= 2 and max(others) < detection.confidence - 0.1
    model.moments(videos.limit(1), "a map")
    assert found(videos.first()) == [("a map", [1, 6], [0, 3])]
    assert videos.last().moments.detections[0].label == "an invoice"


def test_each_time_that_it_is_shown(pages, load_demo, tmp_path):
    kinds = ["map", "letter", "letter", "map", "bar chart", "map", "map"]
    path = write_video(tmp_path / "again.mp4", [pages[kind] for kind in kinds], 10)
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(path)))
    load_demo().moments(dataset, "a map", label_field="maps")
    assert [seconds for _, _, seconds in found(dataset.first(), "maps")] == [[0, 1], [3, 4], [5, 7]]
    assert [support for _, support, _ in found(dataset.first(), "maps")] == [[1, 10], [31, 40], [51, 70]]
    # FiftyOne makes clips of them, and agrees about the seconds.
    dataset.compute_metadata()
    clips = dataset.to_clips("maps")
    assert clips.values("support") == [[1, 10], [31, 40], [51, 70]]
    first, last = dataset.first().maps.detections[1].to_timestamps(sample=dataset.first())
    assert first == pytest.approx(3, abs=0.1) and last == pytest.approx(4, abs=0.1)
    dataset.delete()


def test_confidence_is_the_score_of_the_frame_as_a_page(videos, index, load_demo):
    load_demo().moments(videos, "an invoice")
    view = videos.sort_by_similarity("an invoice", brain_key="search", dist_field="distance")
    best = view.first()
    # All that the video matches by is in one frame, or the video, which may match by several, is nearer.
    assert best.name == "meeting"
    assert best.moments.detections[0].confidence <= 1 - best.distance + 1e-3


@pytest.mark.parametrize("pool_factor", [1, 3])
def test_an_index_spares_embedding(videos, load_demo, monkeypatch, pool_factor):
    settings = {"backend": "late-interaction", "model": DEMO_MODEL, "pool_factor": pool_factor}
    fob.compute_similarity(videos.limit(2), brain_key="search", **settings)
    model, index = load_demo(), videos.load_brain_results("search")
    model.moments(videos, "an invoice", label_field="embedded")
    read = []
    encode = moments.encode_videos
    monkeypatch.setattr(moments, "encode_videos", lambda m, parts, *rest: read.extend(parts) or encode(m, parts, *rest))
    model.moments(videos, "an invoice", index=index)
    assert [part.path for part in read] == [videos.last().filepath]
    for sample in videos:
        assert found(sample) == found(sample, "embedded")
        for a, b in zip(sample.moments.detections, sample.embedded.detections, strict=True):
            assert a.confidence == pytest.approx(b.confidence, abs=0.02 if pool_factor == 1 else 0.1)

    # Under other settings, the index's frames are not those that are asked for.
    read.clear()
    model.video_fps = 2
    model.moments(videos, "an invoice", index=index)
    assert len(read) == 3 and found(videos.first())[0][2] == [3, 6]
    videos.delete_brain_run("search")


def test_a_bad_video_keeps_its_field(videos, load_demo, tmp_path, caplog):
    (tmp_path / "bad.mp4").write_text("not a video")
    videos.add_sample(fo.Sample(filepath=str(tmp_path / "bad.mp4")))
    model = load_demo()
    model.moments(videos, "a map")
    assert [label is None for label in videos.values("moments")] == [False] * 3 + [True]
    assert "bad.mp4: it is damaged" in caplog.text
    with pytest.raises(ValueError, match="bad.mp4: it is damaged"):
        model.moments(videos, "a map", skip_failures=False)


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([0.5, 0.8, 0.8, 0.5], [[1, 3]]),
        ([0.8, 0.5, 0.5, 0.7], [[0, 1], [3, 4]]),
        # All alike, to within the model's noise.
        ([0.51, 0.5, 0.515, 0.5], [[0, 4]]),
        ([0.5], [[0, 1]]),
    ],
)
def test_runs_of_frames(scores, expected):
    seconds = np.arange(len(scores))
    spans = np.stack([seconds, seconds + 1], axis=1)
    labels = moments._moments(np.array(scores), spans, (29.97, 30 * len(scores)), "a map")
    assert [detection.seconds for detection in labels.detections] == expected
    for detection in labels.detections:
        assert 1 <= detection.support[0] <= detection.support[1] <= 30 * len(scores)


def test_what_cannot_be_asked(videos, load_demo):
    model = load_demo()
    with pytest.raises(ValueError, match="The query is empty"):
        model.moments(videos, " ")
    with pytest.raises(TypeError):
        model.moments(videos, 5)
    with pytest.raises(ValueError, match="holds no temporal detections"):
        model.moments(videos, "a map", label_field="name")
    assert videos.values("name") == ["meeting", "travel", "office"]
