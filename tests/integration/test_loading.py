"""Batches through FiftyOne: what is wrong with an image costs only that image, and nothing else changes a vector."""

import functools
import http.server
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
import torch
from eta.core.video import FFmpegVideoReader
from fiftyone.utils.patches import extract_patch
from jina_embeddings_v4.engine.image_files import ImageError
from PIL import Image

from ..conftest import DEMO_MODEL, copy_source

TOLERANCE = 2e-6


def assert_close(found, expected):
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=TOLERANCE, rtol=0)


#
# Images that cannot be read
#


def first_half(path, format):
    noise = np.random.default_rng(51).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format=format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def png_of_size(path, width, height):
    """Writes a PNG that claims a size, and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + pixels)


# How to make each kind, and what the warning must say of it.
UNREADABLE = {
    "cut.png": (lambda path: first_half(path, "PNG"), "truncated"),
    "cut.jpg": (lambda path: first_half(path, "JPEG"), "truncated"),
    "text.png": (lambda path: path.write_text("not an image"), "cannot identify image file"),
    "empty.png": (lambda path: path.touch(), "cannot identify image file"),
    "missing.png": (lambda path: None, "No such file"),
    "bomb.png": (lambda path: png_of_size(path, 30000, 30000), "decompression bomb"),
    "long.png": (lambda path: Image.new("RGB", (402, 2)).save(path), "aspect ratio of 402x2 pixels is over 200"),
    "folder.png": (lambda path: path.mkdir(), "Is a directory"),
}


@pytest.fixture
def unreadable(tmp_path):
    """The path and the reason of an unreadable image of each kind."""
    for name, (make, _) in UNREADABLE.items():
        make(tmp_path / name)

    return {str(tmp_path / name): reason for name, (_, reason) in UNREADABLE.items()}


@pytest.fixture
def mixed(dataset, unreadable):
    """A dataset in which the unreadable images stand among twelve readable ones."""
    good, bad = dataset.values("filepath"), list(unreadable)
    mixed = fo.Dataset()
    mixed.add_samples([fo.Sample(filepath=path) for path in good[:6] + bad + good[6:]])
    yield mixed
    delete(mixed)


@pytest.fixture
def model(load_demo):
    return load_demo(classes=["invoice", "letter"])


def delete(dataset):
    """Deletes a dataset, and its similarity index, which FiftyOne would keep in memory, the model with it."""
    dataset.delete_brain_runs()
    dataset.delete()


def expect_warnings(caplog, unreadable):
    """Expects one warning for each unreadable image, and no other."""
    messages = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    caplog.clear()
    assert len(messages) == len(unreadable), messages
    for path, reason in unreadable.items():
        assert sum(path in message and reason in message for message in messages) == 1, (path, messages)


@pytest.mark.parametrize("batch_size, num_workers", [(20, 0), (20, 2), (3, 0)])
def test_an_unreadable_image_costs_only_itself(model, mixed, unreadable, batch_size, num_workers, caplog):
    good = mixed.match(~fo.ViewField("filepath").is_in(list(unreadable)))
    bad = mixed.match(fo.ViewField("filepath").is_in(list(unreadable)))
    expected = model.embed_images(good.values("filepath"))
    options = {"batch_size": batch_size, "num_workers": num_workers}

    vectors = mixed.compute_embeddings(model, **options)
    assert isinstance(vectors, list) and [v is None for v in vectors] == [False] * 6 + [True] * 8 + [False] * 6
    assert_close([v for v in vectors if v is not None], expected)
    expect_warnings(caplog, unreadable)

    mixed.compute_embeddings(model, embeddings_field="vector", **options)
    assert_close(good.values("vector"), expected)
    assert bad.values("vector") == [None] * 8
    expect_warnings(caplog, unreadable)

    mixed.apply_model(model, label_field="label", **options)
    assert good.values("label.label") == [label.label for label in model.predict_all(good.values("filepath"))]
    assert bad.values("label") == [None] * 8
    expect_warnings(caplog, unreadable)


def test_an_unreadable_image_raises_where_failures_are_not_skipped(model, mixed, unreadable):
    good, options = mixed.first().filepath, {"batch_size": 2, "num_workers": 0, "skip_failures": False}
    for path, reason in unreadable.items():
        batch = mixed.match(fo.ViewField("filepath").is_in([good, path]))
        with pytest.raises(ImageError, match=f"{path}.*{reason}"):
            batch.compute_embeddings(model, **options)
        with pytest.raises(ImageError, match=f"{path}.*{reason}"):
            batch.apply_model(model, label_field="label", **options)
        with pytest.raises(ImageError, match=f"{path}.*{reason}"):
            model.embed(path)


@pytest.mark.parametrize("batch_size, num_workers", [(1, 0), (8, 2)])
def test_nothing_but_unreadable_images(model, mixed, unreadable, batch_size, num_workers, caplog):
    bad = mixed[6:14]
    options = {"batch_size": batch_size, "num_workers": num_workers}
    assert bad.compute_embeddings(model, **options) == [None] * 8
    expect_warnings(caplog, unreadable)
    bad.compute_embeddings(model, embeddings_field="vector", **options)
    assert bad.values("vector") == [None] * 8
    expect_warnings(caplog, unreadable)
    bad.apply_model(model, label_field="label", **options)
    assert not mixed.has_field("label")
    expect_warnings(caplog, unreadable)


def test_similarity_leaves_unreadable_images_out(mixed):
    index = fob.compute_similarity(mixed, model=DEMO_MODEL, batch_size=20, num_workers=0, brain_key="similarity")
    assert index.total_index_size == 12
    assert len(index.sort_by_similarity("an invoice", k=20)) == 12


#
# What changes nothing
#


@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_batch_size_and_views_change_no_vector(model, dataset, batch_size):
    expected = model.embed_images(dataset.values("filepath"))
    options = {"batch_size": batch_size, "num_workers": 0, "progress": False}

    vectors = dataset.compute_embeddings(model, **options)
    assert isinstance(vectors, np.ndarray) and vectors.shape == (12, 256) and vectors.dtype == np.float32
    assert_close(vectors, expected)
    assert_close(dataset[3:7].compute_embeddings(model, **options), expected[3:7])

    dataset.match(fo.ViewField("filepath").ends_with("7.png")).compute_embeddings(model, "one", **options)
    assert [i for i, vector in enumerate(dataset.values("one")) if vector is not None] == [7]
    dataset.select_fields().compute_embeddings(model, "all", **options)
    assert_close(dataset.values("all"), expected)
    dataset[3:7].apply_model(model, label_field="label", **options)
    assert [label is not None for label in dataset.values("label")] == [3 <= i < 7 for i in range(12)]


def test_images_can_come_from_another_field(model, dataset, caplog):
    paths = dataset.values("filepath")
    dataset.set_values("thumb_path", [*reversed(paths[1:]), None])
    options = {"filepath": "thumb_path", "batch_size": 12, "num_workers": 2}

    vectors = dataset.compute_embeddings(model, **options)
    assert_close(vectors[:-1], model.embed_images(paths[:0:-1]))
    assert vectors[-1] is None and len(caplog.records) == 1
    dataset.apply_model(model, label_field="label", **options)
    assert dataset.values("label.label")[:-1] == [label.label for label in model.predict_all(paths[:0:-1])]


class _Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("num_workers", [0, 1])
def test_urls_of_a_dataset_are_downloaded_where_that_is_allowed(model, dataset, num_workers, caplog, monkeypatch):
    path = Path(dataset.first().filepath)
    handler = functools.partial(_Server, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://user:secret@127.0.0.1:{server.server_port}/{path.name}"
        urls = dataset[:2].clone()
        urls.set_values("filepath", [url, dataset[1:2].first().filepath])

        first, second = urls.compute_embeddings(model, num_workers=num_workers, batch_size=2)
        assert first is None and second is not None
        (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert "JINA_V4_ALLOW_URLS=1" in warning and path.name in warning and "secret" not in warning

        expected = model.embed(str(path))
        assert_close([model.embed(url)], [expected])  # who asks for it gets it
        monkeypatch.setenv("JINA_V4_ALLOW_URLS", "1")
        assert_close(urls.compute_embeddings(model, num_workers=num_workers, batch_size=2), [expected, second])
        delete(urls)
        server.shutdown()


#
# Patches
#


@pytest.fixture
def patches(dataset):
    """A dataset of three images with two patches each, and one without any."""
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.3, 0.2, 0.6, 0.7]]
    for sample in dataset[:3].iter_samples(autosave=True):
        sample["objects"] = fo.Detections(detections=[fo.Detection(label="a", bounding_box=box) for box in boxes])

    patches = dataset[:4].clone()
    yield patches
    delete(patches)


def crops(sample):
    image = np.array(Image.open(sample.filepath))
    return [extract_patch(image, detection) for detection in sample.objects.detections]


@pytest.fixture
def long_patch(patches):
    """That dataset, with a patch of the second image, between its two others, that is too long to be embedded."""
    sample = patches.skip(1).first()
    Image.new("RGB", (450, 60)).save(sample.filepath)
    sample.objects.detections.insert(1, fo.Detection(label="long", bounding_box=[0, 0.5, 1, 2 / 60]))
    sample.save()
    return patches


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_patches_are_embedded_as_their_crops_are(model, patches, batch_size, num_workers):
    options = {"batch_size": batch_size, "num_workers": num_workers, "skip_failures": False}
    found = patches.compute_patch_embeddings(model, "objects", **options)
    patches.compute_patch_embeddings(model, "objects", embeddings_field="vector", **options)
    for sample in patches[:3]:
        expected = [model.embed(crop) for crop in crops(sample)]
        assert_close(found[sample.id], expected)
        assert_close([detection.vector for detection in sample.objects.detections], expected)

    assert found[patches.last().id] is None


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_patch_that_cannot_be_embedded(model, long_patch, batch_size, num_workers, caplog):
    options = {"batch_size": batch_size, "num_workers": num_workers}
    long_patch.compute_patch_embeddings(model, "objects", embeddings_field="vector", **options)
    vectors = long_patch.values("objects.detections.vector")
    assert vectors[1].pop(1) is None and vectors.pop() is None
    for sample, found in zip(long_patch, vectors, strict=False):
        assert_close(found, [model.embed(crop) for crop in crops(sample) if crop.shape[0] > 2])

    bad = long_patch.skip(1).first()
    expect_warnings(caplog, {f"a patch of {bad.filepath}": "aspect ratio of 450x2"})

    # In memory, FiftyOne knows of failed samples only.
    found = long_patch.compute_patch_embeddings(model, "objects", **options)
    assert [found[id] is None for id in long_patch.values("id")] == [False, True, False, True]
    expect_warnings(caplog, {f"a patch of {bad.filepath}": "aspect ratio of 450x2"})
    with pytest.raises(ImageError, match=f"a patch of {bad.filepath}"):
        long_patch.compute_patch_embeddings(model, "objects", skip_failures=False, **options)


@pytest.mark.parametrize("where, size", [("field", 6), ("memory", 4)])
def test_patches_are_searched_by_text(model, long_patch, where, size):
    field = "vector" if where == "field" else None
    if field:
        long_patch.compute_patch_embeddings(model, "objects", embeddings_field=field, num_workers=0)

    options = {"model": DEMO_MODEL, "embeddings_field": field, "batch_size": 2, "num_workers": 0}
    index = fob.compute_similarity(long_patch, patches_field="objects", brain_key="patches", **options)
    assert index.total_index_size == size

    similarity = {}
    for sample in long_patch[:3]:
        for detection, crop in zip(sample.objects.detections, crops(sample), strict=True):
            if detection.id in index.label_ids:
                similarity[detection.id] = model.embed(crop) @ model.embed_prompt("an invoice")

    found = long_patch.to_patches("objects").sort_by_similarity("an invoice", brain_key="patches", k=size)
    assert found.values("id") == sorted(similarity, key=similarity.get, reverse=True)


#
# Worker processes that do not share this one's modules
#

WORKERS = """
import multiprocessing, sys
import fiftyone as fo, fiftyone.zoo as foz, numpy as np

if __name__ == "__main__":
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in sys.argv[1:]])
    model = foz.load_zoo_model("jina-embeddings-v4-demo", device="cpu")
    assert type(model).__module__ == "elsewhere.zoo", type(model)

    expected = dataset.compute_embeddings(model, batch_size=3, num_workers=0)
    for method in ("spawn", "forkserver"):
        multiprocessing.set_start_method(method, force=True)
        found = dataset.compute_embeddings(model, batch_size=3, num_workers=1)
        assert found[1] is None and expected[1] is None
        np.testing.assert_allclose(found[::2], expected[::2], atol=2e-6)
        print("same vectors:", method)
"""


def test_workers_that_import_anew(image_files, unreadable, tmp_path):
    source = tmp_path / "zoo" / "elsewhere"  # not a name under which it is installed
    copy_source(source)
    manifest = source / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "jina_embeddings_v4"', '"name": "elsewhere"'))
    (tmp_path / "script.py").write_text(WORKERS)

    paths = [image_files[0], next(iter(unreadable)), image_files[1]]
    environment = os.environ | {"FIFTYONE_MODEL_ZOO_DIR": str(tmp_path / "zoo")}
    command = [sys.executable, tmp_path / "script.py", *paths]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "same vectors: spawn" in result.stdout and "same vectors: forkserver" in result.stdout


#
# Video
#


@pytest.fixture
def video(tmp_path):
    """A dataset of one video, of four frames."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("FiftyOne reads videos with ffmpeg, which is not installed")

    path = tmp_path / "video.mp4"
    size = (420, 64)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, size)
    for brightness in (40, 90, 160, 240):
        frame = np.full((*size[::-1], 3), brightness, dtype=np.uint8)
        writer.write(cv2.putText(frame, str(brightness), (9, 50), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 255), 5))
    writer.release()

    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(path)))
    yield dataset
    dataset.delete()


def frames(dataset):
    with FFmpegVideoReader(dataset.first().filepath) as reader:
        return list(reader)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_video_frames(model, video, batch_size):
    options = {"batch_size": batch_size, "skip_failures": False}
    expected = [model.embed(frame) for frame in frames(video)]
    video.compute_embeddings(model, embeddings_field="frames.vector", **options)
    assert_close(video.values("frames.vector", unwind=True), expected)

    video.apply_model(model, label_field="frames.label", **options)
    labels = [model.predict(frame).label for frame in frames(video)]
    assert video.values("frames.label.label", unwind=True) == labels


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_patches_of_video_frames(model, video, batch_size):
    sample = video.first()
    boxes = {1: [[0, 0, 0.5, 1], [0, 0.5, 1, 2 / 64], [0.5, 0, 0.5, 1]], 2: [[0.2, 0.1, 0.3, 0.9]]}
    for number in boxes:
        detections = [fo.Detection(label="a", bounding_box=box) for box in boxes[number]]
        sample.frames[number]["objects"] = fo.Detections(detections=detections)
    sample.save()

    video.compute_patch_embeddings(model, "objects", embeddings_field="vector", batch_size=batch_size)
    first, second, *others = video.values("frames.objects.detections.vector")[0]
    images = frames(video)
    assert first.pop(1) is None and others == [None, None]
    assert_close(first, [model.embed(images[0][:, :210]), model.embed(images[0][:, 210:])])
    assert_close(second, [model.embed(extract_patch(images[1], sample.frames[2].objects.detections[0]))])

    found = video.compute_patch_embeddings(model, "objects", batch_size=batch_size)[sample.id]
    assert found[1] is None or found[1][1] is None  # FiftyOne's choice
    assert_close(found[2], second)
    assert found[3] is None


#
# Memory
#


@pytest.fixture
def memory(model, monkeypatch):
    """Limits the memory of the model: what fits is told by a function of the batch.

    There is no telling how large the GPU is, if any, so the error is raised where it would be.
    """
    backbone = model.encoder.backbone
    read = backbone.encode_tokens
    monkeypatch.setattr(backbone, "token_budget", backbone.token_budget)

    def limit(fits):
        def limited(batch, *args):
            if not fits(batch):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return read(batch, *args)

        monkeypatch.setattr(backbone, "encode_tokens", limited)

    return limit


def test_batches_that_do_not_fit_are_split(model, dataset, memory):
    expected = dataset.compute_embeddings(model, batch_size=12, num_workers=0)
    memory(lambda batch: len(batch) <= 6)
    assert_close(dataset.compute_embeddings(model, batch_size=12, num_workers=0), expected)
    dataset.apply_model(model, label_field="label", batch_size=12, num_workers=0)
    assert None not in dataset.values("label.label")


def test_images_that_never_fit_cost_only_themselves(model, dataset, memory, caplog):
    batch = dataset[:4]
    paths = batch.values("filepath")
    expected = model.embed_images(paths)
    lengths = np.array([len(vectors) for vectors in model.encoder.encode_images(paths).multi])
    fits = lengths < max(lengths)
    memory(lambda batch: max(map(len, batch)) < max(lengths))
    reasons = dict.fromkeys(np.array(paths)[~fits], "does not fit into memory")

    vectors = batch.compute_embeddings(model, batch_size=4, num_workers=2)
    assert [vector is not None for vector in vectors] == list(fits)
    assert_close([vector for vector in vectors if vector is not None], expected[fits])
    expect_warnings(caplog, reasons)

    batch.apply_model(model, label_field="label", batch_size=4, num_workers=0)
    assert [label is not None for label in batch.values("label")] == list(fits)
    expect_warnings(caplog, reasons)
    with pytest.raises(MemoryError, match="does not fit into memory"):
        batch.compute_embeddings(model, batch_size=4, num_workers=0, skip_failures=False)


def test_images_on_which_half_precision_overflows_cost_only_themselves(model, dataset, caplog, monkeypatch):
    batch = dataset[:4]
    paths = batch.values("filepath")
    expected = model.embed_images(paths)
    lengths = np.array([len(vectors) for vectors in model.encoder.encode_images(paths).multi])
    fits = lengths < max(lengths)
    read = model.encoder.backbone.encode_tokens

    def overflowing(batch, *args):
        states, rows = read(batch, *args)
        factors = [1 if len(tokens) < max(lengths) else torch.inf for tokens in batch for _ in range(len(tokens))]
        return states * torch.tensor(factors)[:, None], rows

    monkeypatch.setattr(model.encoder.backbone, "encode_tokens", overflowing)
    vectors = batch.compute_embeddings(model, batch_size=4, num_workers=0)
    assert_close([vector for vector in vectors if vector is not None], expected[fits])
    expect_warnings(caplog, dict.fromkeys(np.array(paths)[~fits], "The model overflowed"))


def test_what_stands_for_failures_never_reaches_a_person(model, mixed, unreadable, monkeypatch):
    """FiftyOne stacks no embeddings after a batch that raised."""
    encode, calls = model.encode_images, []

    def fail_late(images, **kwargs):
        calls.append(len(images))
        if len(calls) == 5:
            raise RuntimeError("a broken batch")
        return encode(images, **kwargs)

    monkeypatch.setattr(type(model), "encode_images", lambda self, images, **kwargs: fail_late(images, **kwargs))
    for batch_size in (1, 3, 4):
        calls.clear()
        found = mixed.compute_embeddings(model, batch_size=batch_size, num_workers=0)
        assert len(calls) >= 5 and isinstance(found, list)
        assert {type(row) for row in found} == {np.ndarray, type(None)}
        assert all(row is None for row in found[4 * batch_size : 5 * batch_size])


def test_a_lack_of_memory_in_a_worker_costs_one_image(model, dataset, monkeypatch):
    batches = sys.modules[type(model).__module__.replace("zoo", "integration.failures")]
    resize, bad = batches.resize_image, dataset.values("filepath")[3]

    def exhausted(source, *args):
        if source == bad:
            raise MemoryError
        return resize(source, *args)

    monkeypatch.setattr(batches, "resize_image", exhausted)
    found = dataset.compute_embeddings(model, batch_size=4, num_workers=0)
    assert [row is None for row in found] == [i == 3 for i in range(12)]


def test_what_a_caller_does_between_two_batches_is_in_the_callers_state(model, dataset):
    from jina_embeddings_v4.integration.loading import load_with_samples

    # Also within the model's own call, as where FiftyOne asks for an index.
    with model:
        next(load_with_samples(model, dataset, [], batch_size=4, num_workers=0))
    path = list(sys.path)
    assert torch.is_grad_enabled()
    for _ in load_with_samples(model, dataset, [], batch_size=4, num_workers=0):
        assert torch.is_grad_enabled() and sys.path == path


KILLED = """
import os, sys, time
import fiftyone as fo, fiftyone.zoo as foz
model = foz.load_zoo_model("jina-embeddings-v4-demo", device="cpu")
dataset = fo.load_dataset(sys.argv[1])
loading = __import__(type(model).__module__.replace("zoo", "integration.loading"), fromlist=["x"])
loader = loading.load_images(model, dataset, 4, 2)
next(loader)
print(*[worker.pid for worker in loader._workers], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (900, 900), (i, 0, 0)).save(paths[-1])
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in paths])
    parent = subprocess.Popen([sys.executable, "-c", KILLED, dataset.name], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, workers))


DYING = """
import os, signal, sys
import fiftyone as fo, fiftyone.zoo as foz
model = foz.load_zoo_model("jina-embeddings-v4-demo", device="cpu")
loading = __import__(type(model).__module__.replace("zoo", "integration.loading"), fromlist=["x"])
loader = loading.load_images(model, fo.load_dataset(sys.argv[1]), 1, 2)
next(loader)
os.kill(loader._workers[0].pid, signal.SIGKILL)
for _ in loader:
    pass
print("went on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kills as the system does when memory is short")
def test_a_killed_worker_is_an_error_and_no_wait(dataset):
    """In a process of its own, since torch raises where it hears of it, which may be anywhere."""
    done = subprocess.run([sys.executable, "-c", DYING, dataset.name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "went on" not in done.stdout
    # From the worker's end, or from that of what it was handing over.
    assert "DataLoader worker" in done.stderr or "EOFError" in done.stderr or "ConnectionResetError" in done.stderr


def test_a_call_that_was_interrupted_goes_on(load_demo, dataset, monkeypatch):
    model = load_demo()
    expected = dict(zip(dataset.values("id"), dataset.compute_embeddings(model, batch_size=4), strict=True))
    embed_all, batches = type(model).embed_all, []

    def interrupted(self, images):
        batches.append(len(images))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return embed_all(self, images)

    monkeypatch.setattr(type(model), "embed_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.compute_embeddings(model, embeddings_field="jina", batch_size=4, num_workers=0)
    stored = len(dataset.exists("jina"))
    assert batches == [4, 4, 4] and stored == 8

    dataset.exists("jina", False).compute_embeddings(model, embeddings_field="jina", batch_size=4, num_workers=0)
    assert batches[3:] == [4]
    for sample_id, vector in zip(*dataset.values(["id", "jina"]), strict=True):
        np.testing.assert_allclose(vector, expected[sample_id], atol=2e-6)
