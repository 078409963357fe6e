"""Encoders share one copy of the weights, which holds their adapters, too, and goes with the last of them."""

import gc
import re
import shutil
import threading
import weakref

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine.checkpoint import CheckpointError

from .checkpoint_copies import assert_same_embeddings, edit_json, edit_tensors, load

ADAPTER_KEY = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.code.weight"


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def test_one_copy_of_the_weights_however_the_directory_is_written(copy, tmp_path, monkeypatch):
    first = load(copy, task="code")
    (tmp_path / "link").symlink_to(copy)
    monkeypatch.chdir(tmp_path)
    for same in (load(str(copy)), load("checkpoint"), load("link"), load(f"../{tmp_path.name}/checkpoint")):
        assert same.backbone is first.backbone
        assert same.task == "retrieval" and first.task == "code"

    assert load(copy, precision="bfloat16").backbone is not first.backbone


def test_instances_that_are_made_at_the_same_time_share_the_weights(copy):
    encoders = []
    threads = [threading.Thread(target=lambda: encoders.append(load(copy))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(encoders) == 4 and len({id(encoder.backbone) for encoder in encoders}) == 1


@pytest.fixture
def own_adapter(copy, tmp_path):
    """An adapter for retrieval that is the checkpoint's adapter for code, at twice its rank."""
    directory = shutil.copytree(copy / "adapters", tmp_path / "own")
    edit_json(
        directory / "adapter_config.json",
        lambda config: config.update({name: 2 * config[name] for name in ("r", "lora_alpha")}),
    )

    def rename(tensors):
        code = {key.replace(".code.", ".retrieval."): tensor for key, tensor in tensors.items() if ".code." in key}
        tensors.clear()
        for key, tensor in code.items():
            # The rows, or columns, that are added are zero.
            tensors[key] = torch.cat([tensor, torch.zeros_like(tensor)], dim=0 if "lora_A" in key else 1)

    edit_tensors(directory / "adapter_model.safetensors", rename)
    return directory


def test_an_adapter_of_one_s_own_is_applied_to_its_task_on_the_same_weights(copy, own_adapter, golden_images):
    own, plain = load(copy, adapter=own_adapter), load(copy)
    image = golden_images["rgb_56x84"]
    assert own.backbone is plain.backbone
    for task, as_task in (
        ("retrieval", "code"),
        ("code", "code"),
        ("text-matching", "text-matching"),
        ("retrieval", "code"),
    ):
        np.testing.assert_allclose(
            own.encode_images([image], task).multi[0], plain.encode_images([image], as_task).multi[0], atol=2e-6
        )
    assert_same_embeddings(plain, load(copy), image)


def test_an_adapter_that_was_written_anew_is_read_anew(copy, own_adapter):
    first = load(copy, adapter=own_adapter).encode_texts(["a text"]).single
    assert np.array_equal(load(copy, adapter=str(own_adapter)).encode_texts(["a text"]).single, first)

    edit_tensors(
        own_adapter / "adapter_model.safetensors", lambda tensors: [tensor.mul_(2) for tensor in tensors.values()]
    )
    assert np.abs(load(copy, adapter=own_adapter).encode_texts(["a text"]).single - first).max() > 1e-4


def test_adapters_that_nobody_holds_make_room(copy, own_adapter):
    kept = load(copy, adapter=own_adapter)
    for _ in range(4):
        edit_tensors(
            own_adapter / "adapter_model.safetensors", lambda tensors: [tensor.mul_(2) for tensor in tensors.values()]
        )
        passing = load(copy, adapter=own_adapter)
        expected = passing.encode_texts(["a text"]).single
        added = [name for name in kept.backbone.network.peft_config if name.startswith("added")]
        assert len(added) == 2
        del passing

    assert np.array_equal(load(copy, adapter=own_adapter).encode_texts(["a text"]).single, expected)
    assert np.abs(kept.encode_texts(["a text"]).single - expected).max() > 1e-4


def test_a_damaged_adapter_is_refused_and_leaves_nothing_behind(copy, own_adapter, golden_images):
    plain, weights = load(copy), own_adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    key = ADAPTER_KEY.replace(".code.", ".retrieval.")
    edit_tensors(weights, lambda tensors: tensors.update({key: torch.zeros(64, 16)}))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=re.escape(f"{key!r}")) as error:
            load(copy, adapter=own_adapter)
        assert str(weights) in str(error.value)

    assert_same_embeddings(plain, load(copy), golden_images["rgb_56x84"])
    weights.write_bytes(whole)
    own = load(copy, adapter=own_adapter)
    np.testing.assert_allclose(own.encode_texts(["x"]).single, plain.encode_texts(["x"], "code").single, atol=2e-6)


def test_an_adapter_is_for_tasks_of_the_checkpoint(copy, own_adapter):
    def rename(tensors):
        renamed = {key.replace(".retrieval.", ".search."): tensor for key, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(own_adapter / "adapter_model.safetensors", rename)
    with pytest.raises(ValueError, match="'search' is not allowed: expected one of 'retrieval'"):
        load(copy, adapter=own_adapter)

    edit_tensors(
        own_adapter / "adapter_model.safetensors", lambda tensors: [tensors.clear(), tensors.update(x=torch.ones(1))]
    )
    with pytest.raises(CheckpointError, match="holds no LoRA adapter"):
        load(copy, adapter=own_adapter)


def test_the_weights_go_when_the_last_instance_goes(copy):
    first, second = load(copy), load(copy)
    first.encode_texts(["a text"])
    backbone = weakref.ref(first.backbone)
    weight = weakref.ref(next(first.backbone.parameters()))

    del first
    gc.collect()
    assert backbone() is second.backbone

    del second
    gc.collect()
    assert backbone() is None and weight() is None
