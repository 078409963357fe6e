"""The list of parameters, and what has to agree with it."""

import inspect
from pathlib import Path

import pytest
from jina_embeddings_v4.engine.checkpoint import read_config
from jina_embeddings_v4.engine.images import ImageSettings
from jina_embeddings_v4.integration.config import JinaV4Config, Settings
from jina_embeddings_v4.integration.parameters import MIN_PIXELS, PARAMETERS, TASKS, markdown_table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_docs_show_the_list():
    assert markdown_table() in (DOCS / "parameters.md").read_text(encoding="utf-8"), markdown_table()


def test_the_docstring_shows_the_list():
    documented = inspect.getdoc(JinaV4Config)
    for name, parameter in PARAMETERS.items():
        assert f"{name} ({parameter.default!r}): " in documented
        assert parameter.description.replace("`", "``") in documented
        assert parameter.description.endswith(".") and parameter.description[0].isupper()


def test_what_is_settable_is_set_on_the_model():
    settable = {name for name in PARAMETERS if hasattr(Settings, name)}
    assert settable == {name for name, parameter in PARAMETERS.items() if parameter.settable}


@pytest.mark.parametrize("name", PARAMETERS)
def test_defaults_pass_their_own_checks(name):
    parameter = PARAMETERS[name]
    if parameter.check is not None and name != "device":  # which is looked for
        assert parameter.check(name, parameter.default) == parameter.default


def test_ranges_are_the_checkpoint_s(checkpoint):
    assert tuple(read_config(checkpoint)["task_names"]) == TASKS
    assert ImageSettings.from_checkpoint(checkpoint).min_pixels == MIN_PIXELS
