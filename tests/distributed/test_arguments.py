"""What embedding on Ray refuses before it starts Ray, and how it plans the workers."""

import sys
from types import SimpleNamespace

import fiftyone as fo
import pytest
from jina_embeddings_v4 import distributed
from jina_embeddings_v4.distributed import cluster, embed, embedding
from jina_embeddings_v4.distributed.cluster import Workers, plan_workers
from jina_embeddings_v4.distributed.report import Report, in_words

from ..conftest import DEMO_MODEL


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({}, ValueError, "nowhere to write"),
        ({"embeddings_field": "v", "model": "clip"}, ValueError, "model='clip'"),
        ({"embeddings_field": "v", "model": 3}, ValueError, "found a int"),
        ({"embeddings_field": "v", "workers": 0}, ValueError, "workers"),
        ({"embeddings_field": "v", "model_kwargs": {"precison": "int8"}}, TypeError, "did you mean 'precision'"),
        ({"embeddings_field": "v", "model_kwargs": {"task": "search"}}, ValueError, "task='search'"),
        ({"tasks": {"search": "v"}}, ValueError, "task='search'"),
        ({"embeddings_field": "v", "tasks": {"code": "v"}}, ValueError, "cannot share a field"),
        ({"embeddings_field": "filepath", "brain_key": "k"}, ValueError, "is no VectorField"),
        ({"embeddings_field": "v", "brain_key": "not a key"}, ValueError, "not a key"),
        ({"embeddings_field": "v", "dtype": "int8"}, TypeError, "'dtype'.*brain_key"),
        ({"brain_key": "k", "dtyp": "int8"}, TypeError, "did you mean 'dtype'"),
        ({"brain_key": "k", "patches_field": "boxes"}, ValueError, "Index patches by"),
        ({"embeddings_field": "v", "address": "ray://head:10001"}, ValueError, "Ray's client"),
    ],
)
def test_wrong_arguments_are_told_before_ray_starts(dataset, monkeypatch, arguments, error, message):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(error, match=message):
        embed(dataset, **({"model": DEMO_MODEL} | arguments))
    assert not dataset.list_brain_runs() and not dataset.has_field("v")


def test_views_that_no_worker_can_open_are_refused(dataset):
    dataset.add_sample_field("boxes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    with pytest.raises(ValueError, match="whole images"):
        embed(dataset.to_patches("boxes"), DEMO_MODEL, "v")
    video = fo.Dataset()
    video.add_sample(fo.Sample(filepath="/tmp/a.mp4"))
    with pytest.raises(ValueError, match="image"):
        embed(video, DEMO_MODEL, "v")
    video.delete()


def test_a_dataset_that_has_its_vectors_needs_no_ray(dataset, load_demo, monkeypatch):
    dataset.compute_embeddings(load_demo(), embeddings_field="v", batch_size=12, num_workers=0)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    report = embed(dataset, DEMO_MODEL, "v")
    assert (report.total, report.present, report.done) == (0, 12, 0)
    assert str(report) == "0 images embedded, 0 failed, 12 were there before"


def test_without_ray_the_extra_is_named(dataset, monkeypatch):
    message = r"Embedding on Ray needs ray\[data\].*jina-embeddings-v4-fiftyone\[ray\]"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=message):
        embed(dataset, DEMO_MODEL, "v")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=message):
        distributed.embed  # noqa: B018, imported when it is asked for
    assert not dataset.has_field("v")


def fake_ray(*resources, addresses=("10.0.0.1",)):
    nodes = [
        {"Alive": True, "Resources": of_node, "NodeManagerAddress": addresses[i % len(addresses)]}
        for i, of_node in enumerate(resources)
    ]
    return SimpleNamespace(nodes=lambda: nodes)


@pytest.mark.parametrize(
    "resources, on_cpu, workers, expected, words",
    [
        ([{"CPU": 64, "GPU": 8}], False, None, Workers(8, 1, None), "8 GPUs"),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}, {"CPU": 8}], False, None, Workers(2, 1, None), "2 GPUs"),
        ([{"CPU": 4, "GPU": 1}], False, 3, Workers(3, 0.3333, None), "3 processes on 1 GPU"),
        ([{"CPU": 1, "GPU": 1}], False, None, Workers(1, 1, None), "1 GPU"),
        ([{"CPU": 64, "GPU": 8}], True, None, Workers(1, 0, 64), "1 process of 64 CPU threads"),
        ([{"CPU": 2}], False, 2, Workers(2, 0, 1), "2 processes of 1 CPU thread"),
        ([{"CPU": 8}, {"CPU": 6}], False, None, Workers(2, 0, 6), "2 processes of 6 CPU threads"),
        ([{"CPU": 8}, {"CPU": 6}], False, 4, Workers(4, 0, 3), "4 processes of 3 CPU threads"),
    ],
)
def test_workers_are_planned_by_what_there_is(resources, on_cpu, workers, expected, words):
    plan = plan_workers(fake_ray(*resources), on_cpu, workers)
    assert plan == expected and plan.describe() == words


def test_a_cluster_needs_a_database_that_it_reaches(monkeypatch):
    one = fake_ray({}, {}, addresses=("10.0.0.1",))
    two = fake_ray({}, {}, addresses=("10.0.0.1", "10.0.0.2"))
    environment = embedding._environment(one)
    assert environment["FIFTYONE_DATABASE_URI"] == fo.config.database_uri
    assert environment["FIFTYONE_DATABASE_NAME"] == "jina-embeddings-v4-demo"
    with pytest.raises(ValueError, match="127.0.0.1.*FIFTYONE_DATABASE_URI"):
        embedding._environment(two)


def test_a_package_that_only_the_zoo_has_is_found_by_its_folder(monkeypatch):
    assert cluster.importable() == {}
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setenv("PYTHONPATH", "/mine")
    path = cluster.importable()["runtime_env"]["env_vars"]["PYTHONPATH"]
    assert path.startswith("/mine:")


def test_the_time_that_is_left_is_told_in_words(monkeypatch):
    report = Report(total=100_000, workers="2 GPUs")
    assert report.in_words() == "0 of 100,000 images" and report.seconds_left is None
    moments = iter((0, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    report.add(10, 10, 2.16, [], workers=2)
    assert report.in_words() == "10 of 100,000 images, about 3 h left on 2 GPUs"
    report.add(990, 989, 0, [("id", "path", "why")], workers=2)
    assert report.seconds_left == 99_000 * 20 / 990 and report.embedded == 999
    words = [in_words(seconds) for seconds in (0, 59, 130, 5400, 10_800, 200_000)]
    assert words == ["1 s", "59 s", "2 min", "2 h", "3 h", "2 days"]
