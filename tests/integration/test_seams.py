"""What FiftyOne was asked to do is read where it stands, or missed with an error; its model cache takes others only."""

import fiftyone as fo
import fiftyone.zoo.models as fozm
import pytest
from jina_embeddings_v4.integration.seams import fiftyone_argument, keep_out_of_model_cache


def call(source, name, default=None):
    scope = {"__name__": "some.module", "ask": lambda: fiftyone_argument(("some.module.call",), name, default)}
    exec(source, scope)
    return scope["call"]()


def test_the_variable_of_a_running_function_is_found():
    assert call("def call(skip=3):\n    return ask()", "skip") == 3
    assert call("def call(skip=3):\n    return inner()\ndef inner(skip=5):\n    return ask()", "skip") == 3


def test_without_a_call_the_default_holds():
    assert fiftyone_argument(("some.module.call",), "skip", default=7) == 7
    assert call("def call():\n    result = ask()\n    later = 1\n    return result", "later", default=7) == 7


def test_a_function_that_lost_its_variable_is_an_error_that_names_the_version():
    with pytest.raises(RuntimeError, match=f"FiftyOne {fo.__version__} has no 'skip' in some.module.call"):
        call("def call(skip_all=3):\n    return ask()", "skip")


def test_models_of_other_classes_are_cached_as_before():
    class Ours:
        pass

    class Other:
        pass

    # Twice, as where the source is imported anew.
    keep_out_of_model_cache(Ours)
    keep_out_of_model_cache(Ours)
    ours, other = Ours(), Other()
    # As load_zoo_model() does, after it loaded a model.
    fozm._MODELS["ours"], fozm._MODELS["other"] = ours, other
    assert "ours" not in fozm._MODELS and fozm._MODELS["other"] is other
    del other
    assert "other" not in fozm._MODELS
