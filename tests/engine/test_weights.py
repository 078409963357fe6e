"""Parts of the weights are read when they are needed: the same ones, once, whatever happens to the files meanwhile."""

import os
import shutil
import threading

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine import vision
from jina_embeddings_v4.engine.backbone import Backbone
from jina_embeddings_v4.engine.checkpoint import CheckpointError
from jina_embeddings_v4.engine.images import resize_image
from jina_embeddings_v4.engine.loading import Weights, load_backbone, load_network
from jina_embeddings_v4.engine.processing import Processor
from jina_embeddings_v4.engine.safetensors_files import OpenFile

from ..support.eager_weights import EagerWeights
from .checkpoint_copies import assert_same_embeddings, edit_tensors, load

CPU = torch.device("cpu")
VISION_SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def read(monkeypatch):
    """The names of the tensors that are read, in order."""
    names, original = [], OpenFile.read

    def note(self, name, device, dtype, copy=False):
        # Other threads may be embedding.
        assert torch.get_default_dtype() == torch.float32
        names.append(name)
        return original(self, name, device, dtype, copy)

    monkeypatch.setattr(OpenFile, "read", note)
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_parts_that_are_loaded_later_are_those_that_are_loaded_at_once(checkpoint, golden_images, dtype):
    int8 = dtype == torch.int8
    network = load_network(checkpoint, CPU, torch.bfloat16 if int8 else dtype)
    eager = Backbone(EagerWeights(network, tuple(network.peft_config), rank=0), int8)
    eager.load_vision_tower()
    processor = Processor(checkpoint)
    settings = processor.image_settings
    images = [processor.image_tokens(resize_image(golden_images["rgb_56x84"], settings)) for _ in range(2)]
    later = load_backbone(checkpoint, CPU, dtype)
    for task in ("code", "retrieval", "text-matching", "code"):
        texts = [processor.text_tokens(text, task) for text in ("a text", "another one of more words")]
        for batch in (texts, images):
            visual = [
                None if batch is texts else backbone.encode_vision(batch, settings) for backbone in (later, eager)
            ]
            for found, expected in zip(
                later.encode_tokens(batch, task, visual[0]), eager.encode_tokens(batch, task, visual[1]), strict=True
            ):
                assert torch.equal(found, expected)


def test_a_text_takes_the_language_model_and_its_task_s_adapter_alone(copy, encoder, golden_images, read):
    own = load(copy, precision="bfloat16")
    assert read and not [name for name in read if "visual." in name or "lora_" in name]

    read.clear()
    own.encode_texts(["a text"])
    assert read and all("lora_" in name and ".retrieval." in name for name in read)

    read.clear()
    own.encode_texts(["another"])
    assert read == []

    own.encode_images([golden_images["rgb_56x84"]], "code")
    assert {name.startswith("visual.") for name in read} == {True, False}
    assert all("visual." in name or ".code." in name for name in read)

    read.clear()
    # Of no images, nothing is needed.
    own.encode_images([], "text-matching")
    own.encode_images([golden_images["rgb_56x84"]], tasks=["code", "retrieval"])
    assert read == []
    assert_same_embeddings(load(copy), encoder, golden_images["rgb_56x84"])


def test_an_adapter_of_one_s_own_leaves_the_checkpoint_s_unread(copy, read, tmp_path):
    own = shutil.copytree(copy / "adapters", tmp_path / "own")
    edit_tensors(
        own / "adapter_model.safetensors",
        lambda tensors: [tensors.pop(key) for key in list(tensors) if ".retrieval." not in key],
    )
    encoder = load(copy, adapter=own)
    read.clear()
    encoder.encode_texts(["a text"])
    assert read == []


@pytest.mark.parametrize("happens", ["deleted", "replaced"])
def test_files_that_are_gone_are_read_to_the_end(copy, encoder, golden_images, happens):
    own = load(copy)
    own.encode_texts(["a text"])
    for path in [*copy.glob("*.safetensors"), *copy.glob("adapters/*.safetensors")]:
        if happens == "deleted":
            path.unlink()
        else:
            other = shutil.copy(path, path.with_suffix(".new"))
            edit_tensors(other, lambda tensors: [tensor.mul_(2) for tensor in tensors.values()])
            os.replace(other, path)
    assert_same_embeddings(own, encoder, golden_images["rgb_56x84"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [VISION_SHARD, "adapters/adapter_model.safetensors"])
def test_a_file_that_is_overwritten_is_noticed_before_it_is_read(copy, encoder, golden_images, name, precision):
    own, image = load(copy, precision=precision), golden_images["rgb_56x84"]
    own.encode_texts(["a text"])
    content = (copy / name).read_bytes()
    # In place, and shorter at first: to read it through its mapping then would end the process.
    (copy / name).write_bytes(content[:1000])
    needs = {
        "image": lambda: own.encode_images([image]),
        "adapter": lambda: own.encode_texts(["a text that is new"], "code"),
        "text": lambda: own.encode_texts(["a text that is new"]),
    }
    refused = {"image"} if name == VISION_SHARD else {"adapter"}
    if precision == "bfloat16" and name == VISION_SHARD:
        # As it is stored. The tokens' embeddings lie in this file, too.
        refused = set(needs)
    for what, encode in needs.items():
        if what not in refused:
            encode()
            continue
        with pytest.raises(CheckpointError, match="was written to after the model was loaded") as error:
            encode()
        assert str(copy / name) in str(error.value)

    (copy / name).write_bytes(content)
    assert load(copy, precision=precision).backbone is not own.backbone
    assert_same_embeddings(load(copy), encoder, image)


def test_queries_are_answered_while_the_vision_tower_is_loaded_once(copy, encoder, golden_images, monkeypatch):
    loading, may_go_on, loaded = threading.Event(), threading.Event(), []
    vision_tower = Weights.vision_tower

    def load_slowly(self):
        loading.set()
        assert may_go_on.wait(60)
        loaded.append(self)
        return vision_tower(self)

    monkeypatch.setattr(Weights, "vision_tower", load_slowly)
    own, image = load(copy), golden_images["rgb_56x84"]
    found = []
    threads = [threading.Thread(target=lambda: found.append(own.encode_images([image]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert loading.wait(60)
    # Of another task, whose adapter is loaded meanwhile, too.
    for task in ("retrieval", "code"):
        texts = own.encode_texts(["a text"], task).single
        np.testing.assert_array_equal(texts, encoder.encode_texts(["a text"], task).single)
    assert not found
    may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and len(loaded) == 1
    for embeddings in found:
        np.testing.assert_array_equal(embeddings.multi[0], encoder.encode_images([image]).multi[0])


def test_a_vision_tower_that_does_not_fit_is_told_and_tried_again(copy, encoder, golden_images, monkeypatch):
    own, image = load(copy), golden_images["rgb_56x84"]
    budget = own.backbone.token_budget
    with monkeypatch.context() as patch:

        def fail(self, *args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        patch.setattr(vision._Block, "__init__", fail)
        with pytest.raises(RuntimeError, match="The vision tower does not fit into memory beside the language model"):
            own.encode_images([image])
    assert own.backbone.token_budget == budget
    assert_same_embeddings(own, encoder, image)


def test_an_adapter_that_could_not_be_loaded_is_loaded_next_time(copy, encoder, golden_images, monkeypatch):
    own = load(copy)
    with monkeypatch.context() as patch:

        def fail(*args, **kwargs):
            raise RuntimeError("could not be set")

        patch.setattr("peft.set_peft_model_state_dict", fail)
        for task in ("retrieval", "code"):
            with pytest.raises(RuntimeError, match="could not be set"):
                own.encode_texts(["a text"], task)
    assert_same_embeddings(own, encoder, golden_images["rgb_56x84"])


def test_loading_shows_no_progress_bar(copy, monkeypatch, capfd, golden_images):
    # The tests' environment switches them off.
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    load(copy).encode_images([golden_images["rgb_56x84"]])
    load_network(copy, CPU, torch.float32)
    assert "%|" not in capfd.readouterr().err
