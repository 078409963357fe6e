"""The error where an optional package is missing, and its requirement."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jina_embeddings_v4.integration.optional import REQUIREMENTS, import_optional


def test_requirements_are_those_of_the_extras():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert extras == {extra: [requirement] for extra, requirement in REQUIREMENTS.items()}
    assert everything == f"{project['name']}[{','.join(REQUIREMENTS)}]"


def test_a_module_that_is_there_is_imported():
    assert import_optional("json.decoder", "pdf", "This test") is sys.modules["json.decoder"]


@pytest.mark.parametrize("extra", REQUIREMENTS)
def test_a_missing_package_is_named_with_both_ways_to_install_it(extra):
    with pytest.raises(ImportError, match="^This test needs ") as raised:
        import_optional("no_such_package.module", extra, "This test")
    assert raised.value.name == "no_such_package"
    message = str(raised.value)
    assert f"pip install '{REQUIREMENTS[extra]}'" in message
    assert f"'jina-embeddings-v4-fiftyone[{extra}]'" in message and "No module named 'no_such_package'" in message


def test_fiftyone_is_not_imported():
    path = Path(sys.modules[import_optional.__module__].__file__)
    code = f"import runpy, sys; runpy.run_path({str(path)!r}); sys.exit('fiftyone' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
