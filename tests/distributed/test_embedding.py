"""Embedding on Ray gives what one process gives, also if a process is killed, and a second call does the rest."""

import os
import signal
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
import ray
from fiftyone.operators.executor import Executor
from jina_embeddings_v4.distributed import embed, iter_embed

from ..conftest import DEMO_MODEL, copy_source

PLAIN = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this file, which like one of other machines knows nothing of this process's FiftyOne."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("FIFTYONE_", "JINA_V4_", "HF_")):
                patch.delenv(name)
        ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


def test_a_killed_actor_costs_no_vector(make_dataset, check, actors):
    dataset = make_dataset(240)
    dataset.set_values("text", [f"No {1000 + i}" for i in range(len(dataset))])
    options = {"model_kwargs": PLAIN, "workers": 2, "tasks": {"code": "code"}, "text_field": "text"}
    killed, seen = [], []
    for report in iter_embed(dataset, DEMO_MODEL, "vector", "pages", **options):
        seen.append(report.done)
        if not killed and 0 < report.done < 100:
            killed = actors()[:1]
            killed[0].send_signal(signal.SIGKILL)
    assert killed and seen == sorted(seen) and seen[0] == 0 and seen[-1] == 241
    assert (report.total, report.embedded, report.present) == (241, 240, 0)
    ((sample_id, path, reason),) = report.failed
    assert dataset[sample_id].filepath == path and "cannot identify image file" in reason
    check(dataset, "vector", "pages")
    found = dataset.sort_by_similarity("a page headed Umbra", k=3, brain_key="pages")
    assert len(found) == 3 and len(dataset.exists("code")) == 240
    # Its words went along with each page.
    by_number = dataset.load_brain_results("pages").sort_by_similarity("1007", mode="text")
    assert by_number.values("text") == ["No 1007"]


def test_a_call_does_what_is_missing_with_a_loaded_model(make_dataset, load_demo, page_files):
    paths, broken = page_files
    dataset = make_dataset(8)
    model = load_demo(truncate_dim=64)
    model.task = "code"
    expected = model.embed_images(paths[:8])
    dataset.limit(3).set_values("vector", list(expected[:3] / 2))
    report = embed(dataset, model, "vector", workers=1, progress=False)
    assert (report.total, report.embedded, report.present) == (6, 5, 3)
    assert [path for _, path, _ in report.failed] == [broken]
    vectors = np.stack([vector for vector in dataset.values("vector") if vector is not None])
    np.testing.assert_allclose(vectors[3:], expected[3:], atol=2e-6)
    # What was there was left as it was.
    np.testing.assert_array_equal(vectors[:3], expected[:3] / 2)


def test_an_error_in_a_worker_reaches_the_person(make_dataset):
    dataset = make_dataset(4)
    dataset.add_sample_field("vector", fo.VectorField)
    first = dataset.first()
    first["vector"] = np.ones(7, np.float32)
    first.save()
    with pytest.raises(RuntimeError, match="'vector' holds vectors of 7 dimensions, and the model gives 256.*goes on"):
        embed(dataset, DEMO_MODEL, "vector", model_kwargs=PLAIN, workers=1, progress=False)
    assert ray.is_initialized()


def test_index_pages_in_the_app_uses_ray(make_dataset, check):
    copy_source(Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "jina_embeddings_v4")
    dataset = make_dataset(12)
    params = {"brain_key": "pages", "model": DEMO_MODEL, "ray": True}
    request = {"dataset_name": dataset.name, "params": params}
    context = foo.ExecutionContext(request_params=request, executor=Executor())
    messages = [one.body.params for one in foo.get_operator("jina_embeddings_v4/index_pages").execute(context)]
    labels = [message["label"] for message in messages if message and "label" in message]
    assert "Indexed 0 of 13 images" in labels and "Indexed 13 of 13 images, 1 failed" in labels
    assert labels[-1] == "12 pages are in the index 'pages'"
    check(dataset, brain_key="pages")
