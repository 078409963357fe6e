"""The model's arguments: what is taken, and what is refused with a hint."""

import pytest
import torch


def test_defaults(load_demo):
    model = load_demo()
    assert (model.task, model.score, model.temperature) == ("retrieval", "maxsim", 0.02)
    assert (model.query_prompt_name, model.passage_prompt_name, model.text_prompt) == ("query", "passage", "")
    assert model.classes is model.pooling_strategy is model.truncate_dim is model.max_pixels is None
    assert model.encoder.backbone.device.type == "cpu"


def test_loose_types_are_taken(load_demo):
    model = load_demo(classes=("cat", "dog"))
    assert model.classes == ["cat", "dog"]

    import fiftyone.zoo as foz

    assert foz.load_zoo_model("jina-embeddings-v4-demo", device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "mean"}, "'pooling'.*did you mean 'pooling_strategy'"),
        ({"clases": ["cat"]}, "'clases'.*did you mean 'classes'"),
        ({"xyz": 1}, "Unknown argument 'xyz': The arguments are task, classes"),
    ],
)
def test_unknown_arguments_are_refused(load_demo, arguments, message):
    with pytest.raises(TypeError, match=message):
        load_demo(**arguments)


REFUSED = [
    ("task", "search", "'retrieval', 'text-matching', 'code'"),
    ("pooling_strategy", "sum", "'mean', 'max', None"),
    ("truncate_dim", 100, "16, 32, 64, 128"),
    ("max_pixels", 10, "at least 3136"),
    ("score", "cosine", "'maxsim', 'maxsim-sum', 'pooled'"),
    ("temperature", 0, "a number over 0"),
    ("temperature", "hot", "a number over 0"),
    ("query_prompt_name", "document", "'query', 'passage'"),
    ("passage_prompt_name", None, "'query', 'passage'"),
    ("text_prompt", 7, "a string"),
    ("classes", [], "at least one class"),
    ("classes", ["cat", " "], "holds ' '.*not empty"),
    ("classes", ["cat", None], "holds None"),
    ("classes", ["cat", "dog", "cat"], "holds 'cat' twice"),
    ("classes", "cat", "a list of class names"),
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
    [("precision", "int7", "'auto', 'float32', 'bfloat16', 'float16'"), ("device", "tpu", "'cuda', 'mps', 'cpu'")],
)
def test_precision_and_device_are_checked(name, value, allowed):
    import fiftyone.zoo as foz

    with pytest.raises(ValueError, match=f"{name}.*(is not allowed|not there).*|{allowed}"):
        foz.load_zoo_model("jina-embeddings-v4-demo", **{name: value})
