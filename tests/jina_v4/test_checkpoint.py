"""A checkpoint is complete and what it says it is, or one error names what is wrong with it."""

import json
import shutil

import pytest
from jina_embeddings_v4.jina_v4.checkpoint import TRUSTED_FILES, WEIGHT_INDEX, CheckpointError, read_config, resolve

SHARD = "model-00002-of-00002.safetensors"
JSON_FILES = [name for name in TRUSTED_FILES if name.endswith(".json")]


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def test_a_directory_may_be_written_in_any_way(copy, monkeypatch):
    assert resolve(copy) == resolve(str(copy)) == copy

    monkeypatch.setenv("HOME", str(copy.parent))
    assert resolve("~/checkpoint") == copy

    monkeypatch.chdir(copy.parent)
    assert resolve("checkpoint").samefile(copy)


@pytest.mark.parametrize("reference", ["/no/such/directory", "../checkpoint", "one-word", "a/b/c", "a/b@", "a b/c"])
def test_what_is_neither_a_directory_nor_a_repository_is_told(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"no checkpoint at '{reference}'.*'org/name' or 'org/name@revision'"):
        resolve(reference)


@pytest.mark.parametrize(
    "names",
    [
        ["config.json"],
        ["preprocessor_config.json"],
        ["tokenizer_config.json"],
        ["adapters/adapter_config.json", "adapters/adapter_model.safetensors"],
        [WEIGHT_INDEX],
        [SHARD],
        ["config.json", SHARD],
    ],
    ids=" ".join,
)
def test_missing_files_are_all_named(copy, names):
    for name in names:
        (copy / name).unlink()

    with pytest.raises(CheckpointError) as error:
        resolve(copy)
    assert f"The checkpoint in {copy} lacks {', '.join(names)}." in str(error.value)


def test_a_checkpoint_without_a_tokenizer_is_incomplete(copy):
    (copy / "tokenizer.json").unlink()
    assert resolve(copy) == copy  # vocab.json and merges.txt suffice

    (copy / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match="lacks tokenizer.json"):
        resolve(copy)


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_damaged_json_file_is_named(copy, name):
    content = (copy / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"\xff\xfe" + content, b""):
        (copy / name).write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            resolve(copy)
        assert f"{copy / name} is not valid JSON" in str(error.value)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "pytorch_model.bin",
        "x.safetensors.py",
        "",
        7,
        None,
    ],
)
def test_the_index_names_only_safetensors_files_beside_it(copy, shard):
    # The file is there: it is refused for where and what it is.
    shutil.copy(copy / SHARD, copy.parent / "x.safetensors")
    shutil.copy(copy / SHARD, copy / "pytorch_model.bin")
    index = json.loads((copy / WEIGHT_INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = shard
    (copy / WEIGHT_INDEX).write_text(json.dumps(index))

    with pytest.raises(CheckpointError) as error:
        resolve(copy)
    assert f"{copy / WEIGHT_INDEX} places 'model.norm.weight' in {shard!r}" in str(error.value)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["model.norm.weight"]}, [], None])
def test_an_index_without_a_weight_map_is_damaged(copy, index):
    (copy / WEIGHT_INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"{WEIGHT_INDEX} has no 'weight_map'"):
        resolve(copy)


@pytest.mark.parametrize("key", ["text_config", "task_names", "multi_vector_projector_dim"])
def test_a_setting_that_config_json_lacks_is_named(copy, key):
    config = json.loads((copy / "config.json").read_text())
    del config[key]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"config.json lacks '{key}'"):
        read_config(copy)
