"""A checkpoint is complete and what it says it is, or one error names what is wrong with it."""

import json
import shutil

import pytest
from jina_embeddings_v4.engine.checkpoint import TRUSTED_FILES, WEIGHT_INDEX, CheckpointError, read_config, resolve
from jina_embeddings_v4.engine.images import ImageSettings

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
        "x" * 300 + ".safetensors",
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


@pytest.mark.parametrize(
    "keys, value, words",
    [
        (["text_config"], None, "'text_config'"),
        (["text_config", "num_hidden_layers"], "3", "'text_config.num_hidden_layers' '3', expected an integer"),
        (["text_config", "hidden_size"], True, "'text_config.hidden_size' True"),
        (["text_config", "rms_norm_eps"], float("nan"), "'text_config.rms_norm_eps' nan, expected a number"),
        (["text_config", "num_key_value_heads"], 3, "not a multiple of num_key_value_heads"),
        (["text_config", "use_sliding_window"], True, "'text_config.use_sliding_window' True, expected False"),
        (["text_config", "hidden_act"], "gelu", "'text_config.hidden_act' 'gelu', expected 'silu'"),
        (["text_config", "rope_scaling"], None, "text_config.rope_scaling"),
        (["text_config", "rope_scaling", "mrope_section"], [2, 3, 4], r"mrope_section \[2, 3, 4\] does not sum up"),
        (["vision_config", "fullatt_block_indexes"], [1, 31], "fullatt_block_indexes names a block beyond the 4"),
        (["vision_config", "window_size"], 1, "window_size is not a multiple"),
        (["image_token_id"], 600, "image_token_id is beyond"),
        (["task_names"], "retrieval", "'task_names' 'retrieval', expected a list"),
        (["task_names"], ["a.b"], "'task_names'.*each item a name"),
        (["matryoshka_dims"], [128, None], "'matryoshka_dims'.*an integer"),
    ],
)
def test_a_setting_of_config_json_that_is_not_allowed_is_named(copy, keys, value, words):
    set_value(copy / "config.json", keys, value)
    with pytest.raises(CheckpointError, match=f"{copy / 'config.json'} .*{words}"):
        read_config(copy)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("image_mean", [0.5], "'image_mean'.*a list of 3 items"),
        ("image_std", [0.5, 0, 0.5], "'image_std'.*each item a number"),
        ("min_pixels", 10**9, "'min_pixels' is over 'max_pixels'"),
        ("max_pixels", "602112", "'max_pixels' '602112', expected an integer"),
        ("merge_size", 4, "'merge_size' 4, but config.json has 'spatial_merge_size' 2"),
        ("temporal_patch_size", 1, "'temporal_patch_size' 1, but config.json"),
    ],
)
def test_a_setting_of_the_images_that_is_not_allowed_is_named(copy, key, value, words):
    set_value(copy / "preprocessor_config.json", [key], value)
    with pytest.raises(CheckpointError, match=f"{copy / 'preprocessor_config.json'} .*{words}"):
        ImageSettings.from_checkpoint(copy)


@pytest.mark.parametrize("name", JSON_FILES)
def test_lists_within_lists_without_end_are_damage(copy, name):
    (copy / name).write_text("[" * 100_000)
    with pytest.raises(CheckpointError) as error:
        resolve(copy)
    assert f"{copy / name} is not valid JSON" in str(error.value)


def set_value(path, keys, value):
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))
