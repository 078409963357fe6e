"""The whole flow as the README tells it: registered from an archive's URL, used, and asked again by a fresh process."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import textwrap
import threading

import pytest
from jina_embeddings_v4.cli.private_fiftyone import copy_source

FLOW = """
import sys

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
import numpy as np
from PIL import Image

url, folder = sys.argv[1:]
random = np.random.default_rng(51)
samples = []
# Representativeness tells how far an image is from the middle of its cluster, of which FiftyOne makes 20. In a cluster
# of one image or two, that is the same for each. So the last images are much alike, and the others differ.
alike = random.integers(50, 200, (5, 4, 3))
for i in range(24):
    filepath = f"{folder}/image-{i:02}.png"
    pixels = random.integers(0, 255, (5, 4, 3)) if i < 18 else alike + random.integers(-15, 15, (5, 4, 3))
    Image.fromarray(pixels.astype(np.uint8)).resize((120, 150)).save(filepath)
    samples.append(fo.Sample(filepath=filepath))

dataset = fo.Dataset("jina-v4-flow", persistent=True)
dataset.add_samples(samples)

foz.register_zoo_model_source(url)
assert "jina-embeddings-v4-demo" in foz.list_zoo_models(source=url)
model = foz.load_zoo_model("jina-embeddings-v4-demo", task="retrieval")

dataset.compute_embeddings(model, embeddings_field="jina", batch_size=8, num_workers=2)
assert len(dataset) == 24
assert all(vector.shape == (256,) and vector.dtype == np.float32 for vector in dataset.values("jina"))

# The field is filled: the index takes it. It is missing: the index computes and stores it.
index = fob.compute_similarity(
    dataset, model="jina-embeddings-v4-demo", embeddings_field="jina", brain_key="filled"
)
fob.compute_similarity(
    dataset, model="jina-embeddings-v4-demo", embeddings_field="jina_missing", brain_key="missing", batch_size=8
)
for filled, computed in zip(*(dataset.values(field) for field in ("jina", "jina_missing"))):
    np.testing.assert_allclose(filled, computed, atol=2e-6)

view = index.sort_by_similarity("invoice from 2024", k=10)
expected = np.argsort(-np.stack(dataset.values("jina")) @ model.embed_prompt("invoice from 2024"))[:10]
ids = dataset.values("id")
assert view.values("id") == [ids[i] for i in expected]
print("RANKING", *view.values("id"))

by_image = fob.compute_similarity(dataset, backend="sklearn", embeddings="jina", brain_key="by_image")
query_id = dataset.first().id
assert by_image.sort_by_similarity(query_id, k=5).first().id == query_id

fob.compute_representativeness(
    dataset, representativeness_field="representativeness", method="cluster-center", embeddings="jina"
)
fob.compute_uniqueness(dataset, uniqueness_field="uniqueness", embeddings="jina")
for field in ("representativeness", "uniqueness"):
    values = dataset.values(field)
    assert all(0 <= value <= 1 for value in values) and min(values) < 0.95 * max(values)
assert len(set(dataset.values("uniqueness"))) > 20

for label_field, classes, text_prompt in (
    ("document_type", ["invoice", "letter", "receipt"], "A scanned"),
    ("scene", ["a mountain lake", "a city street at night"], "A photo of"),
    ("color", ["red", "green", "blue", "grey"], ""),
):
    model.classes = classes
    model.text_prompt = text_prompt
    dataset.apply_model(model, label_field=label_field, batch_size=8)
    labels = dataset.values(f"{label_field}.label")
    assert len(labels) == 24 and set(labels) <= set(classes)
    assert all(1 / len(classes) <= value <= 1 for value in dataset.values(f"{label_field}.confidence"))

before = index.sort_by_similarity("invoice from 2024", k=10).values("id")
model.pooling_strategy = "max"
dataset.compute_embeddings(model, embeddings_field="jina_max", batch_size=8)
assert all(vector.shape == (128,) for vector in dataset.values("jina_max"))
assert index.sort_by_similarity("invoice from 2024", k=10).values("id") == before

model.pooling_strategy = None
single = dataset.first()["jina"].copy()
dataset.compute_embeddings(model, embeddings_field="jina", batch_size=8)
np.testing.assert_allclose(dataset.first()["jina"], single, atol=2e-6)

model.compute_task_embeddings(dataset, {"retrieval": "by_retrieval", "text-matching": "by_matching"}, batch_size=8)
np.testing.assert_allclose(dataset.first()["by_retrieval"], single, atol=2e-6)
assert abs(dataset.first()["by_matching"] - single).max() > 0.01

fob.compute_similarity(
    dataset, model="jina-embeddings-v4-demo", model_kwargs={"task": "code"}, embeddings_field="jina_code",
    brain_key="code", batch_size=8,
)
assert len(dataset.sort_by_similarity("a sorting function", k=10, brain_key="code")) == 10

embeddings = model.encoder.encode_images([dataset.first().filepath], task="retrieval", max_pixels=1_000_000)
np.testing.assert_allclose(embeddings.single[0], dataset.first()["jina"], atol=2e-6)
"""

FRESH_PROCESS = """
import fiftyone as fo

dataset = fo.load_dataset("jina-v4-flow")
print("RANKING", *dataset.sort_by_similarity("invoice from 2024", k=10, brain_key="filled").values("id"))
"""


@pytest.fixture
def source_url(tmp_path):
    """Serves this repository as an archive, on loopback."""
    copy_source(tmp_path / "archive" / "jina-v4")
    (tmp_path / "served").mkdir()
    shutil.make_archive(tmp_path / "served" / "source", "zip", tmp_path / "archive")

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/source.zip"
        server.shutdown()


def test_flow(source_url, tmp_path):
    (tmp_path / "images").mkdir()
    environment = os.environ | {"FIFTYONE_MODEL_ZOO_DIR": str(tmp_path / "zoo")}

    def ranking(code, *arguments):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code))
        process = subprocess.run(
            [sys.executable, script, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return [line for line in process.stdout.splitlines() if line.startswith("RANKING")]

    first = ranking(FLOW, source_url, tmp_path / "images")
    assert first and ranking(FRESH_PROCESS) == first
