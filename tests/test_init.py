"""What FiftyOne calls to download and to load: the real Hugging Face client, against a hub on loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
from huggingface_hub import constants
from jina_embeddings_v4.engine.checkpoint import REPOSITORY, REVISION, CheckpointError

from .conftest import DEMO_MODEL, FIXTURES, copy_source
from .support.loopback_hub import LoopbackHub
from .support.traps import set_traps

TOLERANCE = 2e-6
GOLDEN = np.load(FIXTURES / "golden" / "embeddings.npz")
TEXTS = json.loads((FIXTURES / "golden" / "texts.json").read_text(encoding="utf-8"))
TEXT_KEY = next(key for key in GOLDEN if key.startswith("text/") and key.endswith("/retrieval/query/single"))

SHARD = "model-00001-of-00002.safetensors"
TRUSTED = {
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    SHARD,
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "adapters/adapter_config.json",
    "adapters/adapter_model.safetensors",
}


@pytest.fixture
def evidence(tmp_path):
    """The file that code from the hub would write, were it run."""
    yield tmp_path / "evidence"
    assert not (tmp_path / "evidence").exists()


@pytest.fixture
def hub(checkpoint, tmp_path, evidence):
    """A hub with the tiny checkpoint, under the real one's name and revision, among files that must not be run."""
    published = shutil.copytree(checkpoint, tmp_path / "published")
    set_traps(published, evidence)

    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    foz.delete_zoo_model(REPOSITORY)
    with LoopbackHub(int(constants.ENDPOINT.rpartition(":")[2])) as hub:
        hub.repositories[REPOSITORY, REVISION] = published
        yield hub
    foz.delete_zoo_model(REPOSITORY)


def load(**kwargs):
    return foz.load_zoo_model(REPOSITORY, cache=False, **({"device": "cpu", "precision": "float32"} | kwargs))


def is_downloaded():
    """Asks FiftyOne, in each of its ways."""
    answer = foz.is_zoo_model_downloaded(REPOSITORY)
    assert (REPOSITORY in foz.list_downloaded_zoo_models()) == answer
    if answer:
        assert os.path.isfile(foz.find_zoo_model(REPOSITORY))
    else:
        with pytest.raises(ValueError, match="not downloaded"):
            foz.find_zoo_model(REPOSITORY)

    return answer


def cached_files():
    """The paths in the Hugging Face cache's snapshot."""
    snapshot = Path(constants.HF_HUB_CACHE) / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION
    return {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}


def assert_golden(model):
    name = TEXT_KEY.split("/")[1]
    np.testing.assert_allclose(model.embed_prompt(TEXTS[name]), GOLDEN[TEXT_KEY], atol=TOLERANCE, rtol=0)

    image = FIXTURES / "golden" / "images" / "rgb_112x112.png"
    expected = GOLDEN["image/rgb_112x112/retrieval/single"]
    np.testing.assert_allclose(model.embed(str(image)), expected, atol=TOLERANCE, rtol=0)


def test_a_download_fetches_trusted_files_only_and_gives_the_original_s_embeddings(hub, tmp_path, monkeypatch):
    # A folder that happens to have the repository's name is not taken for it.
    (tmp_path / REPOSITORY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert not is_downloaded()
    assert_golden(load())
    assert is_downloaded()

    assert sorted(hub.downloads) == sorted(TRUSTED)
    assert {path.split("/resolve/")[0] for _, path, _ in hub.requests if "/resolve/" in path} == {f"/{REPOSITORY}"}
    assert set(cached_files()) == TRUSTED

    # Deleting the model leaves the shared cache alone, so that loading it again downloads nothing.
    foz.delete_zoo_model(REPOSITORY)
    assert not is_downloaded()
    hub.requests.clear()
    assert_golden(load())
    assert is_downloaded() and not hub.requests


def test_a_download_suffices_for_good(hub, tmp_path):
    foz.download_zoo_model(REPOSITORY)
    assert is_downloaded()
    hub.stop()
    assert_golden(load())

    # The source registered anew, in a fresh process: all that FiftyOne kept is gone, and so is the network.
    copy_source(tmp_path / "zoo" / "jina_embeddings_v4")
    script = """
        import sys
        import fiftyone.zoo as foz

        name = sys.argv[1]
        assert not foz.is_zoo_model_downloaded(name)
        model = foz.load_zoo_model(name, device="cpu", precision="float32")
        assert foz.is_zoo_model_downloaded(name)
        print(*model.embed_prompt(sys.argv[2]))
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), REPOSITORY, TEXTS[TEXT_KEY.split("/")[1]]],
        env=os.environ | {"FIFTYONE_MODEL_ZOO_DIR": str(tmp_path / "zoo")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    vector = np.array(process.stdout.splitlines()[-1].split(), dtype=float)
    np.testing.assert_allclose(vector, GOLDEN[TEXT_KEY], atol=TOLERANCE, rtol=0)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10000)  # Of a chunk, 10 MB, the client keeps all or nothing.
    hub.cut[SHARD] = 30000
    assert_golden(load())
    assert [range for method, path, range in hub.requests if method == "GET" and path.endswith(SHARD)] == [
        None,
        "bytes=30000-",
    ]


def test_a_download_that_failed_midway_goes_on_with_what_it_lacks(hub):
    hub.cut[SHARD] = 30000
    hub.lost.add(SHARD)
    with pytest.raises(CheckpointError, match=f"(?s)Could not download '{REPOSITORY}'.*files that did arrive are kept"):
        load()
    assert not is_downloaded()

    arrived = set(cached_files())
    assert arrived and SHARD not in arrived
    hub.lost.clear()
    hub.requests.clear()
    assert_golden(load())
    assert is_downloaded() and set(hub.downloads) == TRUSTED - arrived


@pytest.mark.parametrize("name", [SHARD, "adapters/adapter_model.safetensors", "tokenizer.json"])
def test_what_the_hub_did_not_publish_is_refused_and_does_not_stay(hub, name):
    hub.altered.add(name)
    with pytest.raises(CheckpointError, match=f"{name} twice did not have the hash that the hub publishes"):
        load()
    assert not is_downloaded() and set(cached_files()) == TRUSTED - {name}

    hub.altered.clear()
    hub.requests.clear()
    assert_golden(load())
    assert is_downloaded() and hub.downloads == [name]


def test_what_was_altered_once_is_downloaded_again(hub):
    hub.altered_once.add(SHARD)
    assert_golden(load())
    assert is_downloaded() and sorted(hub.downloads) == sorted([*TRUSTED, SHARD])


def test_wrong_arguments_are_told_before_the_download(hub):
    for arguments, error in (
        ({"clases": ["cat"]}, TypeError),
        ({"score": "cosine"}, ValueError),
        ({"checkpoint": ""}, ValueError),
    ):
        with pytest.raises(error, match="clases.*did you mean 'classes'|score='cosine'|checkpoint=''"):
            load(**arguments)

    assert not hub.requests and not is_downloaded()


def test_files_that_went_missing_are_downloaded_again(hub):
    load()
    cached_files()[SHARD].unlink()
    assert_golden(load())

    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.requests.clear()
    assert_golden(load())
    assert set(hub.downloads) == TRUSTED


@pytest.mark.parametrize(
    "reference", ["nobody/nothing", "nobody/no--thing", f"{REPOSITORY}@nowhere", f"{REPOSITORY}@{'0' * 40}"]
)
def test_what_the_hub_does_not_have_is_named(hub, reference):
    name, _, revision = reference.partition("@")
    with pytest.raises(CheckpointError, match=f"Could not download '{name}' at revision '{revision or 'main'}'"):
        load(checkpoint=reference)
    assert not hub.downloads


def test_no_hub_is_told(hub, monkeypatch):
    hub.stop()

    def wait(seconds):
        pytest.fail("The client tries again")

    monkeypatch.setattr("time.sleep", wait)
    with pytest.raises(CheckpointError, match="Could not download.*Without a network, pass checkpoint='/path/to"):
        load()
    assert not is_downloaded()


def test_a_hub_that_never_answers_is_told_soon(hub, monkeypatch):
    hub.stop()
    # Each load of the zoo imports the source once more, by another name.
    for name, module in list(sys.modules.items()):
        if name.endswith("engine.checkpoint"):
            monkeypatch.setattr(module, "_HUB_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", int(constants.ENDPOINT.rpartition(":")[2]))):
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="Could not download.*Without a network"):
            load()
        # The client by itself takes half a minute.
        assert time.monotonic() - start < 15


def test_a_checkpoint_on_disk_needs_no_hub(hub, checkpoint):
    assert_golden(load(checkpoint=str(checkpoint)))
    assert not hub.requests and not is_downloaded()


def test_a_checkpoint_on_the_hub_is_read_at_its_revision(hub, checkpoint):
    first, second = "1" * 40, "2" * 40
    hub.repositories["someone/tiny", first] = checkpoint
    hub.repositories["someone/tiny", second] = (
        Path(fo.config.model_zoo_dir) / "jina_embeddings_v4" / "demo" / "checkpoint"
    )
    hub.branches["someone/tiny", "v1.0"] = first
    hub.branches["someone/tiny", "main"] = second

    assert_golden(load(checkpoint="someone/tiny@v1.0"))
    assert_golden(load(checkpoint=f"someone/tiny@{first}"))
    assert load(checkpoint="someone/tiny").embed_prompt("a text").shape == (256,)
    assert not is_downloaded()

    # A branch is asked for again, and followed where it went. What was downloaded serves where there is no network.
    hub.branches["someone/tiny", "main"] = first
    hub.requests.clear()
    assert_golden(load(checkpoint="someone/tiny"))
    assert not hub.downloads

    hub.stop()
    for revision in ("", "@v1.0", f"@{first}"):
        assert_golden(load(checkpoint=f"someone/tiny{revision}"))


def test_the_demo_model_needs_no_hub(hub):
    foz.delete_zoo_model(DEMO_MODEL)
    assert not foz.is_zoo_model_downloaded(DEMO_MODEL)
    model = foz.load_zoo_model(DEMO_MODEL, device="cpu", cache=False)
    assert foz.is_zoo_model_downloaded(DEMO_MODEL)
    assert model.embed_prompt("a text").shape == (256,) and not hub.requests


def test_a_machine_that_lacks_the_requirements_hears_so_before_the_download(tmp_path):
    source = tmp_path / "zoo" / "jina_embeddings_v4"
    copy_source(source)
    manifest = json.loads((source / "manifest.json").read_text())
    for model in manifest["models"]:
        model["requirements"]["packages"].append("a-package-that-is-not-here>=1")
    (source / "manifest.json").write_text(json.dumps(manifest))

    script = f"""
        import sys
        import fiftyone.zoo as foz

        sys.path.append({str(source.parent)!r})
        import jina_embeddings_v4

        assert not {{"transformers", "peft", "safetensors", "huggingface_hub"}} & set(sys.modules)
        for name in ("{REPOSITORY}", "{DEMO_MODEL}"):
            try:
                foz.load_zoo_model(name)
            except ImportError as error:
                print(error)
    """
    environment = os.environ | {"FIFTYONE_MODEL_ZOO_DIR": str(source.parent)}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("requires that 'a-package-that-is-not-here>=1' is installed") == 2, process.stdout
