"""What FiftyOne was asked to do is read where it stands, or missed with an error."""

import fiftyone as fo
import pytest
from jina_embeddings_v4.integration.seams import fiftyone_argument


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
