"""Weights load whole or not at all, from any layout of the files and from no file but the trusted."""

import json
import shutil

import pytest
import torch
from jina_embeddings_v4.engine.checkpoint import ADAPTER_FILES, WEIGHT_INDEX, CheckpointError
from safetensors.torch import load_file, save_file

from ..support.traps import set_traps
from .checkpoint_copies import assert_same_embeddings, edit_json, edit_tensors, load

ADAPTER_CONFIG, ADAPTER_WEIGHTS = ADAPTER_FILES
VISION_SHARD, SHARD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
VISION_KEY = "visual.blocks.1.mlp.up_proj.weight"
BASE_KEY = "model.layers.2.mlp.up_proj.weight"
ADAPTER_KEY = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.code.weight"


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def store_weights(directory, shards, rename=lambda key: key):
    """Stores the base model's weights in other files, the tensors dealt out in turn, and under other names."""
    old = sorted(directory.glob("model-*.safetensors"))
    tensors = {rename(key): tensor for path in old for key, tensor in load_file(path).items()}
    for path in old:
        path.unlink()

    weight_map = {key: shards[i % len(shards)] for i, key in enumerate(sorted(tensors))}
    for shard in shards:
        save_file({key: tensors[key] for key in tensors if weight_map[key] == shard}, directory / shard)
    (directory / WEIGHT_INDEX).write_text(json.dumps({"weight_map": weight_map}))


DAMAGES = {
    "a truncated shard": (lambda d: truncate(d / SHARD), [SHARD, "truncated"]),
    "a truncated adapter": (lambda d: truncate(d / ADAPTER_WEIGHTS), [ADAPTER_WEIGHTS, "truncated"]),
    "a text for a shard": (lambda d: (d / SHARD).write_text("<html>Not found</html>"), [SHARD, "not a safetensors"]),
    "an empty shard": (lambda d: (d / SHARD).write_bytes(b""), [SHARD, "truncated"]),
    "an index that lacks a tensor": (
        lambda d: edit_json(d / WEIGHT_INDEX, lambda index: index["weight_map"].pop(BASE_KEY)),
        [WEIGHT_INDEX, "layers.2.mlp.up_proj.weight", "incomplete"],
    ),
    "a shard that lacks a tensor": (
        lambda d: edit_tensors(d / SHARD, lambda tensors: tensors.pop(BASE_KEY)),
        [SHARD, BASE_KEY],
    ),
    "a tensor of another shape": (
        lambda d: edit_tensors(d / SHARD, lambda tensors: tensors.update({BASE_KEY: torch.zeros(96, 32)})),
        [SHARD, "layers.2.mlp.up_proj.weight", "(96, 32)", "(96, 64)"],
    ),
    "a vision tower that lacks a tensor": (
        lambda d: edit_tensors(d / VISION_SHARD, lambda tensors: tensors.pop(VISION_KEY)),
        [VISION_SHARD, VISION_KEY],
    ),
    "a tensor of another shape in the vision tower": (
        lambda d: edit_tensors(
            d / VISION_SHARD, lambda tensors: tensors.update({VISION_KEY: tensors[VISION_KEY][:-1].contiguous()})
        ),
        [VISION_SHARD, VISION_KEY],
    ),
    "a projector of another shape": (
        lambda d: edit_tensors(
            d / SHARD, lambda tensors: tensors.update({"multi_vector_projector.bias": torch.ones(64)})
        ),
        [SHARD, "multi_vector_projector.bias", "(64,)", "(128,)"],
    ),
    "a config.json of fewer layers": (
        lambda d: edit_json(d / "config.json", lambda config: config["text_config"].update(num_hidden_layers=2)),
        ["config.json", "'num_hidden_layers' 2", "weights have 3 such layers"],
    ),
    "a config.json of more layers than memory holds": (
        lambda d: edit_json(d / "config.json", lambda config: config["text_config"].update(num_hidden_layers=10**9)),
        ["config.json", "'num_hidden_layers' 1000000000", "weights have 3 such layers"],
    ),
    "a config.json of more blocks than memory holds": (
        lambda d: edit_json(d / "config.json", lambda config: config["vision_config"].update(depth=10**9)),
        ["config.json", "'depth' 1000000000", "weights have 4 such layers"],
    ),
    "an adapter tensor of another shape": (
        lambda d: edit_tensors(d / ADAPTER_WEIGHTS, lambda tensors: tensors.update({ADAPTER_KEY: torch.zeros(64, 16)})),
        [ADAPTER_WEIGHTS, ADAPTER_KEY, "(64, 16)", "(64, 32)"],
    ),
    "an adapter without one of its tensors": (
        lambda d: edit_tensors(d / ADAPTER_WEIGHTS, lambda tensors: tensors.pop(ADAPTER_KEY)),
        [ADAPTER_WEIGHTS, ADAPTER_KEY],
    ),
    "no adapter for one of the tasks": (
        lambda d: edit_tensors(
            d / ADAPTER_WEIGHTS, lambda tensors: [tensors.pop(key) for key in list(tensors) if ".text-matching." in key]
        ),
        [ADAPTER_WEIGHTS, ".text-matching.weight"],
    ),
    "adapter tensors of no use": (
        lambda d: edit_tensors(d / ADAPTER_WEIGHTS, lambda tensors: tensors.update({"lora_A.other": torch.ones(1)})),
        [ADAPTER_WEIGHTS, "'lora_A.other'"],
    ),
    "an adapter_config.json without a rank": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.pop("r")),
        [ADAPTER_CONFIG, "lacks 'r'"],
    ),
    "an adapter_config.json with a rank of the wrong type": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(r="32")),
        [ADAPTER_CONFIG, "'r' '32', expected an integer"],
    ),
    "an adapter_config.json of another kind of adapter": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(use_dora=True)),
        [ADAPTER_CONFIG, "'use_dora' True"],
    ),
    "an adapter_config.json for layers that there are not": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(target_modules=["q_proj", "lm_head"])),
        [ADAPTER_CONFIG, "'target_modules' ['q_proj', 'lm_head']", "q_proj, up_proj, v_proj"],
    ),
    "an adapter_config.json for no layers": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(target_modules=None)),
        [ADAPTER_CONFIG, "'target_modules' None"],
    ),
    "an adapter_config.json for fewer layers than the file has": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(target_modules=["q_proj"])),
        [ADAPTER_WEIGHTS, "tensors that the model does not have"],
    ),
    "a tokenizer of another vocabulary": (
        lambda d: edit_json(d / "config.json", lambda config: config.update(image_token_id=7)),
        ["", "reads <|image_pad|> as", "config.json as 7"],
    ),
    "a tokenizer.json that is none": (
        lambda d: (d / "tokenizer.json").write_text('{"model": {"type": "none"}}'),
        ["", "The tokenizer in", "cannot be read"],
    ),
    "an adapter_config.json with a rank that would fill the memory": (
        lambda d: edit_json(d / ADAPTER_CONFIG, lambda config: config.update(r=10**6)),
        [ADAPTER_WEIGHTS, "in shape (32, ", ADAPTER_CONFIG.rpartition("/")[2], "1000000"],
    ),
}


@pytest.mark.parametrize("damage, named", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_an_error_that_names_it(copy, damage, named):
    damage(copy)
    with pytest.raises(CheckpointError) as error:
        load(copy)
    file, *words = named
    assert str(copy / file) in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_a_pattern_in_the_adapter_s_settings_is_not_matched(copy, encoder, golden_images):
    """It could match what no adapter reaches, or take longer than anybody waits: this one does."""
    edit_json(copy / ADAPTER_CONFIG, lambda config: config.update(target_modules="(.*.*)*" * 9 + "x"))
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


def test_settings_that_were_not_checked_are_not_handed_on(copy, encoder, golden_images):
    def add(config):
        for part in ("text_config", "vision_config"):
            config[part] |= {"output_attentions": True, "quantization_config": {"x": 1}, "tie_word_embeddings": "what"}
        config["text_config"] |= {"hidden_act": None, "use_sliding_window": None}
        config["text_config"]["rope_scaling"]["factor"] = "a lot"

    edit_json(copy / "config.json", add)
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


def test_what_is_not_trusted_is_neither_run_nor_read(copy, encoder, golden_images, tmp_path):
    set_traps(copy, tmp_path / "evidence")
    # transformers would take these for the weights, or for the way to them.
    weights = {key: tensor + 1 for path in copy.glob("model-*") for key, tensor in load_file(path).items()}
    save_file(weights, copy / "model.safetensors")
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "another/model"}')

    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])
    assert not (tmp_path / "evidence").exists()


def test_tensors_may_be_in_any_shard(copy, encoder, golden_images):
    store_weights(copy, ["model-a.safetensors", "weights.safetensors", "model-00001-of-00009.safetensors"])
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


def test_tensors_may_have_the_names_of_newer_transformers(copy, encoder, golden_images):
    def rename(key):
        if key.startswith("visual."):
            return f"model.{key}"
        return key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key

    store_weights(copy, ["model.safetensors"], rename)
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


@pytest.mark.parametrize("names", [["tokenizer.json"], ["vocab.json", "merges.txt", "added_tokens.json"]])
def test_the_tokenizer_may_be_of_either_layout(copy, encoder, golden_images, names):
    for name in names:
        (copy / name).unlink()
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


def test_the_precision_is_that_of_every_weight(copy):
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        assert {weight.dtype for weight in load(copy, precision=precision).backbone.parameters()} == {dtype}


def test_weights_that_are_stored_as_integers_are_refused(copy):
    shard = copy / "model-00002-of-00002.safetensors"

    def quantise(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    edit_tensors(shard, quantise)
    with pytest.raises(CheckpointError, match="holds 'model.norm.weight' as I8, expected one of F64, F32") as error:
        load(copy)
    assert str(shard) in str(error.value)


def test_weights_that_are_not_finite_are_told_as_such(copy):
    edit_tensors(
        copy / "model-00002-of-00002.safetensors", lambda tensors: tensors["model.norm.weight"].fill_(torch.nan)
    )
    with pytest.raises(FloatingPointError, match="overflowed in float32: the weights in .* are damaged"):
        load(copy).encode_texts(["a text"])
