"""The App's form, through the operator machinery that shows it, checks it and applies the model."""

import os
from pathlib import Path

import fiftyone.operators as foo
import fiftyone.operators.types as types
import fiftyone.zoo as foz
import pytest
from fiftyone.operators.executor import ExecutionError
from jina_embeddings_v4.integration.form import LEFT_OUT
from jina_embeddings_v4.integration.parameters import PARAMETERS

from ..conftest import DEMO_MODEL

# What the App's own operator for zoo models does with a model's form.
OPERATOR = f"""
import fiftyone.operators as foo
import fiftyone.operators.types as types
import fiftyone.zoo as foz

MODEL = "{DEMO_MODEL}"


class ApplyModel(foo.Operator):
    @property
    def config(self):
        return foo.OperatorConfig(name="apply_model", label="Apply model", dynamic=True)

    def resolve_input(self, ctx):
        inputs = types.Object()
        if ctx.params["mode"] == "predictions":
            inputs.add_property("remote_params", foz.get_zoo_model(MODEL).resolve_input(ctx))
        return types.Property(inputs)

    def execute(self, ctx):
        kwargs = ctx.params.get("remote_params", {{}})
        foz.get_zoo_model(MODEL).parse_parameters(ctx, kwargs)
        model = foz.load_zoo_model(MODEL, **kwargs)
        if ctx.params["mode"] == "predictions":
            ctx.dataset.apply_model(model, label_field="predictions", batch_size=4, num_workers=0)
        else:
            ctx.dataset.compute_embeddings(model, embeddings_field="embeddings", batch_size=4, num_workers=0)
        return {{"task": model.task, "pooling_strategy": model.pooling_strategy, "max_pixels": model.max_pixels}}


def register(plugin):
    plugin.register(ApplyModel)
"""


@pytest.fixture(scope="module", autouse=True)
def plugin():
    folder = Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "apply"
    folder.mkdir(parents=True)
    (folder / "fiftyone.yml").write_text("name: '@tests/apply'\noperators: [apply_model]\n")
    (folder / "__init__.py").write_text(OPERATOR)


def execute(dataset, mode, params=None):
    params = {"mode": mode} | ({} if params is None else {"remote_params": params})
    result = foo.execute_operator("@tests/apply/apply_model", {"dataset": dataset, "params": params})
    result.raise_exceptions()
    return result.result


def test_filled_form_applies_the_model(dataset):
    form = {
        "task": "text-matching",
        "classes": "invoice, letter ,, a map",
        "text_prompt": "A scanned",
        "score": "pooled",
        "temperature": 0.05,
        "pooling_strategy": "max",
        "truncate_dim": "32",
        "max_pixels": 50176,
        "query_prompt_name": "query",
        "precision": "float32",
        "device": "cpu",
    }
    assert execute(dataset, "predictions", form) == {
        "task": "text-matching",
        "pooling_strategy": "max",
        "max_pixels": 50176,
    }
    labels = set(dataset.values("predictions.label"))
    assert labels and labels <= {"invoice", "letter", "a map"}


def test_what_is_left_empty_takes_its_default(dataset):
    form = {"classes": "cat, dog", "text_prompt": "", "pooling_strategy": None, "truncate_dim": None, "device": ""}
    assert execute(dataset, "predictions", form)["task"] == "retrieval"
    assert execute(dataset, "embeddings")["task"] == "retrieval"
    assert dataset.first()["embeddings"].shape == (256,)


@pytest.mark.parametrize(
    "values", [{"task": "search"}, {"truncate_dim": "100"}, {"max_pixels": 100}, {"temperature": 0}, {"score": "x"}]
)
def test_form_refuses_values_out_of_range(dataset, values):
    with pytest.raises(ExecutionError, match=f"Validation error. Path: remote_params.{next(iter(values))}"):
        execute(dataset, "predictions", {"classes": "cat, dog"} | values)


def test_form_offers_every_parameter_that_makes_sense_in_it():
    form = foz.get_zoo_model(DEMO_MODEL).resolve_input(None).type
    choices = {name: prop.type.values for name, prop in form.properties.items() if isinstance(prop.type, types.Enum)}
    assert choices["task"] == ["retrieval", "text-matching", "code"]
    assert choices["pooling_strategy"] == ["mean", "max"]
    assert choices["truncate_dim"] == ["32", "64", "128", "256"]
    assert choices["score"] == ["maxsim", "pooled"]
    assert set(form.properties) == set(PARAMETERS) - set(LEFT_OUT)
    for name, prop in form.properties.items():
        assert prop.view.label and prop.view.description, name
        assert prop.default == PARAMETERS[name].default, name
