"""The model as FiftyOne uses it: vectors, prompts, labels, and settings that take effect at once."""

import gc
import logging
import shutil
import threading
import weakref
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
import numpy as np
import pytest
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.engine import scoring
from jina_embeddings_v4.engine.checkpoint import CheckpointError
from PIL import Image

from .conftest import DEMO_MODEL

TOLERANCE = 2e-6


@pytest.fixture
def images(image_files):
    return [str(path) for path in image_files]


def softmax(scores, temperature):
    logits = (scores - scores.max(axis=1, keepdims=True)) / temperature
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_vectors_are_the_engine_s(load_demo, images):
    model = load_demo()
    vectors = model.embed_images(images)
    np.testing.assert_allclose(vectors, model.encoder.encode_images(images).single, atol=TOLERANCE)
    assert vectors.dtype == np.float32 and vectors.shape == (12, 256)

    np.testing.assert_allclose(model.embed_all(images), vectors, atol=TOLERANCE)
    np.testing.assert_allclose(model.embed(images[0]), vectors[0], atol=TOLERANCE)
    np.testing.assert_array_equal(model.embed_prompt("a text"), model.embed_prompts(["a text"])[0])
    np.testing.assert_allclose(
        model.embed_prompts(["a", "b"]), model.encoder.encode_texts(["a", "b"]).single, atol=TOLERANCE
    )


def test_images_come_in_every_form(load_demo, images):
    model = load_demo()
    image = Image.open(images[0])
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = model.embed(images[0])
    for form in (image, array, tensor, tensor / 255):
        np.testing.assert_allclose(model.embed(form), expected, atol=TOLERANCE)
    for batch in (np.stack([array, array]), torch.stack([tensor, tensor])):
        np.testing.assert_allclose(model.embed_all(batch), [expected, expected], atol=TOLERANCE)


def test_prompts_are_queries_and_passages_are_passages(load_demo):
    model = load_demo()
    query = model.encoder.encode_texts(["a text"], prompt_name="query").single
    passage = model.encoder.encode_texts(["a text"], prompt_name="passage").single
    np.testing.assert_array_equal(model.embed_prompts(["a text"]), query)
    np.testing.assert_array_equal(model.embed_passages(["a text"]), passage)

    model.query_prompt_name = "passage"
    np.testing.assert_array_equal(model.embed_prompts(["a text"]), passage)


@pytest.mark.parametrize("strategy", ["mean", "max"])
def test_pooled_vectors_of_images_and_prompts(load_demo, images, strategy):
    model = load_demo(pooling_strategy=strategy)
    multi = model.encoder.encode_images(images).multi
    pooled = np.stack([getattr(vectors, strategy)(axis=0) for vectors in multi])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed_images(images), pooled, atol=TOLERANCE)
    assert model.embed_prompt("a text").shape == (128,)


def test_settings_take_effect_on_a_loaded_model(load_demo, images):
    model = load_demo()
    single = model.embed(images[0])

    model.truncate_dim = 32
    np.testing.assert_allclose(model.embed(images[0]), single[:32] / np.linalg.norm(single[:32]), atol=TOLERANCE)
    model.truncate_dim = None

    model.max_pixels = 3136
    assert np.abs(model.embed(images[0]) - single).max() > 1e-4
    model.max_pixels = None

    model.task = "code"
    assert np.abs(model.embed(images[0]) - single).max() > 1e-3
    model.task = "retrieval"
    np.testing.assert_array_equal(model.embed(images[0]), single)


def test_max_pixels_reaches_the_data_loader(load_demo, dataset):
    model = load_demo(max_pixels=3136)
    embeddings = dataset.compute_embeddings(model, batch_size=4, num_workers=2)
    np.testing.assert_allclose(
        embeddings, model.encoder.encode_images(dataset.values("filepath"), max_pixels=3136).single, atol=TOLERANCE
    )


def test_zero_shot_probabilities_are_the_definition(load_demo, dataset):
    classes = ["cat", "an old map of a harbour town", "dog"]
    model = load_demo(classes=classes, text_prompt="A photo of")
    dataset.apply_model(model, label_field="label", batch_size=5, store_logits=True)

    pages = model.encoder.encode_images(dataset.values("filepath")).multi
    texts = model.encoder.encode_texts([f"A photo of {name}" for name in classes]).multi
    scores = np.array([[(text @ page.T).max(axis=1).mean() for text in texts] for page in pages])
    probabilities = softmax(scores, temperature=0.02)

    assert dataset.values("label.label") == [classes[i] for i in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(dataset.values("label.confidence"), probabilities.max(axis=1), atol=1e-4)
    logits = np.stack(dataset.values("label.logits"))
    np.testing.assert_allclose(logits, (scores - scores.max(axis=1, keepdims=True)) / 0.02, atol=1e-3)


def test_labels_can_be_recomputed_from_stored_vectors(load_demo, images):
    model = load_demo(classes=["cat", "an old map of a harbour town"], score="pooled", pooling_strategy="max")
    model.temperature = 0.5
    confidences = [label.confidence for label in model.predict_all(images)]
    cosines = model.embed_images(images) @ model.embed_prompts(model.classes).T
    np.testing.assert_allclose(confidences, softmax(cosines, 0.5).max(axis=1), atol=1e-4)


def test_class_texts_are_embedded_once(load_demo, images, monkeypatch):
    model = load_demo(classes=["cat", "dog"])
    encoded = []
    encode_texts = model.encoder.encode_texts
    monkeypatch.setattr(
        model.encoder, "encode_texts", lambda texts, **kw: encoded.append(texts) or encode_texts(texts, **kw)
    )

    model.predict_all(images[:2])
    model.predict_all(images[2:4])
    assert encoded == [["cat", "dog"]]

    for name, value in (
        ("classes", ["cat", "cow"]),
        ("text_prompt", "a"),
        ("task", "code"),
        ("query_prompt_name", "passage"),
    ):
        setattr(model, name, value)
        model.predict_all(images[:1])
    assert encoded[1:] == [["cat", "cow"], ["a cat", "a cow"], ["a cat", "a cow"], ["a cat", "a cow"]]


def test_classes_changed_between_predictions_change_the_labels(load_demo, images):
    model = load_demo(classes=["cat", "dog"])
    first = model.predict_all(images)
    model.classes = ["invoice", "letter", "map"]
    second = model.predict_all(images)
    assert {label.label for label in first} <= {"cat", "dog"}
    assert {label.label for label in second} <= {"invoice", "letter", "map"}


def test_a_prediction_leaves_pooled_vectors(load_demo, images):
    model = load_demo(classes=["cat", "dog"])
    with pytest.raises(ValueError, match="no embeddings yet"):
        model.get_embeddings()

    model.predict_all(images[:5])
    np.testing.assert_allclose(
        model.get_embeddings(), load_demo(pooling_strategy="mean").embed_images(images[:5]), atol=TOLERANCE
    )
    model.pooling_strategy = "max"
    model.predict(images[0])
    np.testing.assert_allclose(model.get_embeddings()[0], model.embed(images[0]), atol=TOLERANCE)


def test_thresholds_and_filters_leave_empty_labels(load_demo, dataset):
    model = load_demo(classes=["cat", "dog", "cow"], temperature=10)
    dataset.apply_model(model, label_field="doubtful", batch_size=4, confidence_thresh=0.9)
    assert dataset.values("doubtful.label") == [None] * 12

    model.temperature = 1e-5
    dataset.apply_model(model, label_field="all", batch_size=4)
    labels = dataset.values("all.label")
    dataset.apply_model(model, label_field="cats", batch_size=4, classes=["cat"])
    assert dataset.values("cats.label") == [label if label == "cat" else None for label in labels]

    # What was asked of one call is not remembered in the next.
    dataset.apply_model(model, label_field="again", batch_size=4)
    assert dataset.values("again.label") == labels and dataset.first()["again"].logits is None


def test_threshold_and_filter_take_effect_on_a_loaded_model(load_demo, images):
    def predict():
        return [label.label for label in model.predict_all(images)]

    model = load_demo(classes=["cat", "dog", "cow"], temperature=10)
    labels = predict()
    model.filter_classes = [name for name in model.classes if name != labels[0]]
    assert predict() == [None if label == labels[0] else label for label in labels] != labels

    model.filter_classes, model.confidence_thresh = None, 0.9
    assert set(predict()) == {None}
    model.confidence_thresh = None
    assert predict() == labels


def test_thousands_of_classes(load_demo, images):
    model = load_demo(classes=[f"class number {i}" for i in range(3000)])
    labels = model.predict_all(images[:3])
    assert len(labels) == 3
    assert all(label.label in model.classes and 0 < label.confidence <= 1 for label in labels)


def test_predictions_without_classes_say_what_to_do(load_demo, dataset, caplog):
    with pytest.raises(ValueError, match="needs classes: set model.classes"):
        dataset.apply_model(load_demo(), label_field="label")
    assert not caplog.records


def test_instances_share_one_copy_of_the_weights(load_demo, tmp_path):
    # A checkpoint of this test's own, whose weights no other test's leftovers hold.
    checkpoint = str(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint"))
    model = load_demo(task="retrieval", checkpoint=checkpoint)
    other = load_demo(task="code", truncate_dim=32, checkpoint=checkpoint)
    assert other is not model and other.encoder.backbone is model.encoder.backbone
    assert (model.task, other.task) == ("retrieval", "code")
    assert np.abs(model.embed_prompt("a text")[:32] - other.embed_prompt("a text")).max() > 1e-3

    reference = weakref.ref(model.encoder.backbone)
    del model
    gc.collect()
    assert reference() is not None
    del other
    gc.collect()
    assert reference() is None


def test_brain_uses_another_task_s_model(dataset):
    fob.compute_similarity(
        dataset,
        model=DEMO_MODEL,
        model_kwargs={"task": "code"},
        embeddings_field="code",
        brain_key="code",
        batch_size=4,
    )
    model = foz.load_zoo_model(DEMO_MODEL, task="code")
    vectors = np.stack(dataset.values("code"))
    np.testing.assert_allclose(vectors, model.embed_images(dataset.values("filepath")), atol=TOLERANCE)

    best = dataset.sort_by_similarity("a sorting function", brain_key="code", k=1).first()
    assert best.id == dataset.values("id")[int((vectors @ model.embed_prompt("a sorting function")).argmax())]


def test_an_index_does_not_follow_what_is_set_on_a_loaded_model(dataset):
    # Loaded by the name alone, as the index loads it, and not used before that.
    model = foz.load_zoo_model(DEMO_MODEL)
    index = fob.compute_similarity(
        dataset, model=DEMO_MODEL, embeddings_field="vector", brain_key="index", batch_size=4
    )
    before = index.sort_by_similarity("a text", k=12).values("id")

    for name, value in (("truncate_dim", 32), ("task", "code"), ("pooling_strategy", "max")):
        setattr(model, name, value)
        assert index.sort_by_similarity("a text", k=12).values("id") == before

    # Nor does a model that is loaded anew.
    again = foz.load_zoo_model(DEMO_MODEL)
    assert (again.truncate_dim, again.task, again.pooling_strategy) == (None, "retrieval", None)


def test_out_of_memory_while_scoring_costs_nothing(load_demo, dataset, monkeypatch):
    model = load_demo(classes=["cat", "dog"])
    dataset.apply_model(model, label_field="expected", batch_size=6)
    # The first step that takes memory. The public functions are what must go on when it fails.
    sums = scoring._sums_of_maxima

    def limited(images, classes):
        if len(images) > 2:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
        return sums(images, classes)

    monkeypatch.setattr(scoring, "_sums_of_maxima", limited)
    dataset.apply_model(model, label_field="found", batch_size=6)
    assert dataset.values("found.label") == dataset.values("expected.label") != [None] * 12


def test_one_image_or_very_many(load_demo, images):
    model = load_demo()
    expected = model.embed_images(images[:1])
    array = np.array(Image.open(images[0]))
    for one in (images[0], Path(images[0]), Image.open(images[0]), array):
        np.testing.assert_allclose(model.embed_images(one), expected, atol=TOLERANCE)

    many = model.embed_images(images * 12)
    assert many.shape == (144, 256) and model.get_embeddings() is many
    np.testing.assert_allclose(many[-1], model.embed(images[-1]), atol=TOLERANCE)
    assert model.embed_images([]).shape == (0, 256)


def test_switching_the_task_of_a_shared_copy_between_batches(load_demo, images):
    retrieval, code = load_demo(task="retrieval"), load_demo(task="code")
    expected = retrieval.embed_images(images), code.embed_images(images)
    for _ in range(2):
        np.testing.assert_array_equal(retrieval.embed_images(images), expected[0])
        np.testing.assert_array_equal(code.embed_images(images), expected[1])


def test_manifest_is_complete():
    for name, license in (("jinaai/jina-embeddings-v4", "Qwen Research License"), (DEMO_MODEL, "Apache 2.0")):
        zoo_model = foz.get_zoo_model(name)
        assert zoo_model.license == license and zoo_model.author and zoo_model.description
        assert {"text-embeddings", "classification", "logits", "embeddings", "torch", "zero-shot"} <= set(
            zoo_model.tags
        )
        zoo_model.ensure_requirements(error_level=0, log_success=False)

        # FiftyOne itself, with what it brings, is there when it reads the manifest.
        needed, _, _ = (Path(__file__).parent.parent / "requirements.txt").read_text().partition("#")
        assert zoo_model.requirements.packages == [name for name in needed.split() if not name.startswith("fiftyone")]


def test_nothing_is_logged_when_all_goes_well(load_demo, dataset, caplog):
    with caplog.at_level(logging.WARNING):
        dataset.compute_embeddings(load_demo(classes=["cat", "dog"]), embeddings_field="vector", batch_size=4)
    assert not caplog.records
    assert fo.load_dataset(dataset.name).first()["vector"].dtype == np.float32


def test_threads_that_embed_and_label_at_once_do_not_mix(load_demo, images):
    """One model in a server: each thread gets its own images' vectors, and labels by the classes that were set."""
    model = load_demo(classes=["an invoice", "a letter", "a photograph"])
    expected, labels = model.embed_images(images), [label.label for label in model.predict_all(images)]
    failures = []

    def work(number):
        try:
            for step in range(6):
                first = (number + step) % 9
                part = images[first : first + 3]
                np.testing.assert_allclose(model.embed_images(part), expected[first : first + 3], atol=TOLERANCE)
                found = [label.label for label in model.predict_all(part)]
                assert found == labels[first : first + 3], (found, first)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_classes_that_change_meanwhile_are_never_half_of_each(load_demo, images):
    """Scores are of as many classes as the labels that they are told by, though another thread sets others."""
    model = load_demo(classes=["a", "b"])
    wanted, stop = (["a", "b"], ["c", "d", "e", "f", "g"]), threading.Event()

    def change():
        # With a pause, or the thread would keep the interpreter from the other.
        while not stop.wait(0.0005):
            for classes in wanted:
                model.classes = classes

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(30):
            label = model.predict_all(images[:1])[0]
            assert label.label in {name for classes in wanted for name in classes}
    finally:
        stop.set()
        changing.join()


@pytest.mark.parametrize("patches", [False, True])
def test_a_vision_tower_that_cannot_be_loaded_is_one_error_and_no_skipped_images(
    load_demo, dataset, tmp_path, caplog, patches
):
    checkpoint = shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")
    model = load_demo(checkpoint=str(checkpoint))
    assert model.embed_prompt("a chart").shape == (256,)
    shard = checkpoint / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    arguments = {"embeddings_field": "embedding", "num_workers": 0, "skip_failures": True}
    with pytest.raises(CheckpointError, match="was written to after the model was loaded"):
        if patches:
            for sample in dataset.iter_samples(autosave=True):
                sample["boxes"] = fo.Detections(detections=[fo.Detection(bounding_box=[0.1, 0.1, 0.5, 0.5])])
            dataset.compute_patch_embeddings(model, "boxes", **arguments)
        else:
            dataset.compute_embeddings(model, **arguments)
    assert caplog.text == ""
