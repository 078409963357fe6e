"""Adapters of one's own, trained on a FiftyOne dataset, and used by the zoo model."""

import importlib
import json
import logging
import sys
from pathlib import Path

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT, DEMO_MODEL
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.finetuning.finetune import _draw, _images_of, _make_batch, finetune
from safetensors.torch import load_file, save_file

from benchmarks.finetuning import KINDS, draw_calendar, make_dataset, query, score

SOME = KINDS[::3]


@pytest.fixture(scope="module")
def calendars(tmp_path_factory):
    """Calendars to train on, and others to find."""
    folder = tmp_path_factory.mktemp("calendars")
    datasets = make_dataset(folder, 4, "train"), make_dataset(folder, 1, "test")
    yield datasets
    for dataset in datasets:
        dataset.delete()


@pytest.fixture(scope="module")
def adapter(calendars, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapter")
    settings = {"steps": 40, "batch_size": 6, "learning_rate": 1e-3, "device": "cpu"}
    finetune(calendars[0], "question", directory, checkpoint=DEMO_MODEL, **settings)
    return directory


def test_it_finds_what_the_demo_model_was_never_shown(calendars, adapter):
    before, after = (
        score(Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", adapter=own), calendars[1])
        for own in (None, adapter)
    )
    assert after[0] > before[0] + 0.2
    assert after[1] > before[1] + 0.2


def test_it_has_the_layout_of_the_hub(adapter):
    ours, theirs = (
        {key.replace(".text-matching.", ".retrieval.") for key in load_file(path / "adapter_model.safetensors")}
        for path in (adapter, Path(DEMO_CHECKPOINT) / "adapters")
    )
    assert {key for key in ours if ".retrieval." in key} == ours
    assert ours == {key for key in theirs if ".retrieval." in key}
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 16


def test_the_zoo_model_applies_it_to_its_task_alone_and_shares_the_weights(calendars, adapter):
    own, plain = (
        foz.load_zoo_model("jina-embeddings-v4-demo", device="cpu", adapter=path) for path in (str(adapter), None)
    )
    assert own.encoder.backbone is plain.encoder.backbone

    page = calendars[1].first().filepath
    for task, is_same in (("retrieval", False), ("code", True), ("retrieval", False)):
        vectors = [model.encoder.encode_images([page], task=task).single for model in (own, plain)]
        assert np.allclose(*vectors, atol=1e-6) == is_same

    expected = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", adapter=adapter).encode_images([page]).single
    calendars[1].compute_embeddings(own, embeddings_field="own", batch_size=8)
    np.testing.assert_allclose(calendars[1].first()["own"], expected[0], atol=2e-6)


def test_an_adapter_that_was_trained_again_is_read_again(adapter, tmp_path):
    copy = tmp_path / "adapter"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copy / name).write_bytes((adapter / name).read_bytes())
    first = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", adapter=copy).encode_texts(["x"]).single

    plain = load_file(Path(DEMO_CHECKPOINT) / "adapters" / "adapter_model.safetensors")
    save_file(
        {key: tensor for key, tensor in plain.items() if ".retrieval." in key}, copy / "adapter_model.safetensors"
    )
    again = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", adapter=copy).encode_texts(["x"]).single
    expected = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu").encode_texts(["x"]).single
    assert np.allclose(again, expected, atol=1e-6) and not np.allclose(again, first, atol=1e-6)


def test_other_data_or_arguments_are_another_training(calendars, tmp_path):
    settings = {"checkpoint": DEMO_CHECKPOINT, "steps": 1, "device": "cpu", "workers": 0, "batch_size": 4}
    weights = tmp_path / "adapter_model.safetensors"
    finetune(calendars[1], "question", tmp_path, **settings)
    first = weights.read_bytes()

    with pytest.raises(ValueError, match="another training .texts, images and negatives: "):
        finetune(calendars[0], "question", tmp_path, **settings)
    with pytest.raises(ValueError, match="another training .batch_size: 4, now 5"):
        finetune(calendars[1], "question", tmp_path, **settings | {"batch_size": 5})
    assert weights.read_bytes() == first

    finetune(calendars[0], "question", tmp_path, **settings, overwrite=True)
    assert weights.read_bytes() != first


def test_a_directory_that_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        foz.load_zoo_model("jina-embeddings-v4-demo", adapter=str(tmp_path))


def test_an_unreadable_image_costs_its_pair(tmp_path, caplog):
    paths = []
    for i, kind in enumerate(SOME):
        paths.append(tmp_path / f"{i}.png")
        draw_calendar(*kind, i).save(paths[-1])
    paths[2].write_bytes(b"no image")

    dataset = fo.Dataset()
    dataset.add_samples(
        [fo.Sample(filepath=str(path), text=query(*kind)) for path, kind in zip(paths, SOME, strict=True)]
    )
    with caplog.at_level(logging.WARNING):
        finetune(dataset, "text", tmp_path / "out", checkpoint=DEMO_CHECKPOINT, steps=1, device="cpu", workers=0)
    assert "2.png" in caplog.text
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    dataset.delete()


def test_negatives_are_targets_and_equal_texts_are_no_negatives(encoder):
    from jina_embeddings_v4.engine.images import resize_image

    settings = encoder.processor.image_settings
    pairs = [("a", "one", ["c"]), ("b", "one", []), ("d", "two", ["a"])]
    batch = sorted(_draw(pairs, 3, 0, 0))
    assert _images_of(batch) == ["a", "b", "d", "c"]

    images = {name: resize_image(draw_calendar("red", "first", name), settings, 20_000) for name in "abcd"}
    made = _make_batch(encoder.processor, "retrieval", batch, {name: images[name] for name in _images_of(batch)})
    assert [len(made.queries), len(made.targets)] == [3, 4]
    assert torch.equal(made.excluded, torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool))

    # An unreadable negative costs itself alone.
    made = _make_batch(encoder.processor, "retrieval", batch, {**{name: images[name] for name in "abd"}, "c": None})
    assert [len(made.queries), len(made.targets)] == [3, 3]


def test_texts_are_asked_for(dataset):
    with pytest.raises(ValueError, match="'nothing' gives 0 text"):
        dataset.add_sample_field("nothing", fo.StringField)
        finetune(dataset, "nothing", "unused", checkpoint=DEMO_CHECKPOINT)


def test_the_former_import_path_forwards_and_warns():
    sys.modules.pop("jina_embeddings_v4.training.finetune", None)
    with pytest.warns(DeprecationWarning, match="jina_embeddings_v4.finetuning.finetune now"):
        former = importlib.import_module("jina_embeddings_v4.training.finetune")
    assert former.finetune is finetune
