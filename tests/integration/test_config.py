"""The model's arguments: what is taken, and what is refused with a hint."""

import fiftyone.zoo as foz
import pytest
import torch

from ..conftest import DEMO_MODEL


def test_defaults(load_demo):
    model = load_demo()
    assert (model.task, model.score, model.temperature) == ("retrieval", "maxsim", 0.02)
    assert (model.query_prompt_name, model.passage_prompt_name, model.text_prompt) == ("query", "passage", "")
    assert model.classes is model.pooling_strategy is model.truncate_dim is model.max_pixels is None
    assert model.encoder.backbone.device.type == "cpu"


def test_loose_types_are_taken(load_demo):
    model = load_demo(classes=("cat", "dog"))
    assert model.classes == ["cat", "dog"]

    assert foz.load_zoo_model(DEMO_MODEL, device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "mean"}, "'pooling'.*did you mean 'pooling_strategy'"),
        ({"clases": ["cat"]}, "'clases'.*did you mean 'classes'"),
        ({"batch_size": 8}, r"'batch_size': it belongs to compute_embeddings\(\) and apply_model\(\)"),
        ({"num_workers": 2}, "'num_workers': it belongs to"),
        ({"skip_failures": False}, "'skip_failures': it belongs to"),
        ({"xyz": 1}, "Unknown argument 'xyz': The arguments are task, classes"),
    ],
)
def test_unknown_arguments_are_refused(load_demo, arguments, message):
    with pytest.raises(TypeError, match=message):
        load_demo(**arguments)


REFUSED = [
    ("task", "search", "'retrieval', 'text-matching', 'code'"),
    ("pooling_strategy", "sum", "'mean', 'max', None"),
    ("truncate_dim", 100, "32, 64, 128, 256"),
    ("max_pixels", 10, "at least 3136"),
    ("score", "cosine", "'maxsim', 'pooled'"),
    ("temperature", 0, "a number of at least 1e-06"),
    ("temperature", "hot", "a number"),
    ("query_prompt_name", "document", "'query', 'passage'"),
    ("passage_prompt_name", None, "'query', 'passage'"),
    ("text_prompt", 7, "a string"),
    ("classes", [], "at least one class"),
    ("classes", ["cat", " "], "holds ' '.*not empty"),
    ("classes", ["cat", None], "holds None: expected strings"),
    ("classes", [1], "holds 1: expected strings"),
    ("classes", ["cat", "dog", "cat"], "holds 'cat' twice"),
    ("classes", ["cat", "dog", " cat "], "holds ' cat ' twice"),
    ("classes", "cat", "a list of class names"),
    ("task", 3, "'retrieval', 'text-matching', 'code'"),
    ("confidence_thresh", 3, "at most 1"),
    ("filter_classes", "cat", "a list of class names"),
]


@pytest.mark.parametrize("name, value, allowed", REFUSED)
def test_values_are_checked_when_set(load_demo, name, value, allowed):
    model = load_demo()
    before = getattr(model, name)
    with pytest.raises(ValueError, match=f"{name}.*{allowed}"):
        setattr(model, name, value)

    assert getattr(model, name) == before


@pytest.mark.parametrize("name, value, allowed", [row for row in REFUSED if row[1] is not None])
def test_values_are_checked_when_loading(load_demo, name, value, allowed):
    with pytest.raises(ValueError, match=f"{name}.*{allowed}"):
        load_demo(**{name: value})


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("precision", "int7", "'auto', 'float32', 'bfloat16', 'float16'"),
        ("device", "tpu", "'cuda'.*'mps'.*'cpu'"),
        ("device", "cuda:99", "is not available"),
        ("checkpoint", "", "a local directory, 'org/name'"),
        ("checkpoint", 7, "a local directory, 'org/name'"),
    ],
)
def test_values_that_only_loading_takes_are_checked(name, value, allowed):
    with pytest.raises(ValueError, match=f"{name}=.*{allowed}"):
        foz.load_zoo_model(DEMO_MODEL, **{name: value})


@pytest.mark.parametrize("name, value", [("precision", "float32"), ("device", "cpu"), ("checkpoint", "org/name")])
def test_a_loaded_model_refuses_what_only_loading_takes(load_demo, name, value):
    with pytest.raises(AttributeError, match=f"{name}.*on a loaded model: pass it to load_zoo_model"):
        setattr(load_demo(), name, value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("temprature", "'temprature': did you mean 'temperature'"),
        ("batch_size", "'batch_size': it belongs to compute_embeddings"),
        ("max_pixel", "'max_pixel': did you mean 'max_pixels'.*The arguments are task, classes"),
    ],
)
def test_a_loaded_model_refuses_slips_of_its_settings(load_demo, name, message):
    model = load_demo()
    with pytest.raises(AttributeError, match=message):
        setattr(model, name, 1)

    assert not hasattr(model, name)
    # As FiftyOne does, or a later version may.
    model._private, model.store_logits, model.preprocess, model.embedding_layer = 1, True, False, {}
    assert model.embedding_layer == {}


def test_a_filter_names_classes_that_there_are(load_demo):
    message = r"filter_classes names \['cow'\], not among the classes"
    with pytest.raises(ValueError, match=message):
        load_demo(classes=["cat", "dog"], filter_classes=["cow", "cat"])

    # Each may be set first.
    values = {"classes": ["cat", "dog"], "filter_classes": ["cat", "cow"]}
    for first, second in (("classes", "filter_classes"), ("filter_classes", "classes")):
        model = load_demo()
        setattr(model, first, values[first])
        with pytest.raises(ValueError, match=message):
            setattr(model, second, values[second])
        assert getattr(model, second) is None

    model = load_demo(classes=["cat", "dog"], filter_classes=["cat"])
    with pytest.raises(ValueError, match="set filter_classes to None before you set other classes"):
        model.classes = ["invoice", "letter"]

    model.filter_classes = None
    model.classes = ["invoice", "letter"]
    model.filter_classes = ["letter"]
