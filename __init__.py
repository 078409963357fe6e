"""FiftyOne remote zoo model for Jina Embeddings v4: the entry points that FiftyOne calls.

This module is executed anew for each call, the download included, which comes before FiftyOne checks the model's
requirements. So it imports nothing at its top that a plain FiftyOne installation may lack.
"""

import os
from typing import TYPE_CHECKING, Any

from .integration.seams import LOAD_ZOO_MODEL, be_the_package, fiftyone_argument

if TYPE_CHECKING:
    from .zoo import JinaV4

__version__ = "0.1.0"

DEMO_MODEL = "jina-embeddings-v4-demo"
DEMO_CHECKPOINT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo", "checkpoint")


def download_model(model_name: str, model_path: str) -> None:
    """Fetches the model's weights.

    They go to the Hugging Face cache, shared with other tools and kept when this source is registered anew. What is
    written to ``model_path`` is a small file that says where they are.

    Args:
        model_name: the model's name in the manifest
        model_path: the path of that file
    """
    _require_packages(model_name)

    from .integration.config import JinaV4Config

    # The arguments of the model that is being loaded. A wrong one is told before gigabytes are downloaded, and a model
    # with a checkpoint of the person's own needs no other weights.
    config = JinaV4Config(fiftyone_argument(LOAD_ZOO_MODEL, "kwargs", default={}))
    if config.checkpoint is None:
        _fetch(model_name, model_path)


def load_model(model_name: str, model_path: str, **kwargs: Any) -> "JinaV4":
    """Loads the model.

    Args:
        model_name: the model's name in the manifest
        model_path: the path of the file that :func:`download_model` wrote
        **kwargs: arguments of :class:`jina_embeddings_v4.integration.config.JinaV4Config`

    Returns:
        a :class:`jina_embeddings_v4.zoo.JinaV4`
    """
    from .integration.config import JinaV4Config
    from .zoo import JinaV4

    config = JinaV4Config(kwargs)
    if config.checkpoint is None:
        config.checkpoint = _downloaded(model_path) or _fetch(model_name, model_path)

    return JinaV4(config)


def resolve_input(model_name: str, ctx: Any) -> Any:
    """Defines the model's form in the FiftyOne App.

    Args:
        model_name: the model's name in the manifest
        ctx: a :class:`fiftyone.operators.ExecutionContext`

    Returns:
        a :class:`fiftyone.operators.types.Property`
    """
    from .integration.form import build_form

    return build_form(DEMO_CHECKPOINT if model_name == DEMO_MODEL else None)


def parse_parameters(model_name: str, ctx: Any, params: dict) -> None:
    """Turns what the form holds into arguments of :func:`load_model`, in place.

    Args:
        model_name: the model's name in the manifest
        ctx: a :class:`fiftyone.operators.ExecutionContext`
        params: a dict of the form's values
    """
    from .integration.form import parse_form

    parse_form(params)


def register(plugin: Any) -> None:
    """Registers the operators and the panel for the FiftyOne App, where this repository is installed as a plugin.

    Args:
        plugin: a :class:`fiftyone.plugins.context.PluginContext`
    """
    be_the_package(__name__)
    from .app.operators import IndexPages, SearchPages
    from .app.panel import PageSearch, RunPageSearch

    for part in (IndexPages, SearchPages, RunPageSearch, PageSearch):
        plugin.register(part)


def checkpoint_of(model_name: str | None) -> str:
    """Returns the checkpoint of a model in the manifest, a folder or ``"org/name@revision"``.

    Args:
        model_name: the model's name in the manifest
    """
    from .engine.checkpoint import REPOSITORY, REVISION

    # With its revision, the name of the repository cannot be that of a folder that happens to be here.
    return DEMO_CHECKPOINT if model_name == DEMO_MODEL else f"{REPOSITORY}@{REVISION}"


def _require_packages(model_name):
    """Checks or installs the model's requirements, which FiftyOne does only after the download that needs them."""
    import fiftyone.zoo as foz

    error_level = fiftyone_argument(LOAD_ZOO_MODEL, "error_level")
    if fiftyone_argument(LOAD_ZOO_MODEL, "install_requirements", default=False):
        foz.install_zoo_model_requirements(model_name, error_level=error_level)
    elif fiftyone_argument(LOAD_ZOO_MODEL, "ensure_requirements", default=True):
        foz.ensure_zoo_model_requirements(model_name, error_level=error_level, log_success=False)


def _fetch(model_name, model_path):
    """Downloads the weights where they are missing, and writes where they are once all have arrived."""
    import json
    import logging

    from .engine.checkpoint import REPOSITORY, resolve

    if model_name != DEMO_MODEL:
        # Where FiftyOne says that it downloads a model.
        logging.getLogger("fiftyone").info("Looking for the weights of %s", REPOSITORY)
    directory = str(resolve(checkpoint_of(model_name)))

    os.makedirs(os.path.dirname(model_path), exist_ok=True)
    with open(f"{model_path}.part", "w") as file:
        json.dump({"model": model_name, "checkpoint": directory}, file, indent=4)
    os.replace(f"{model_path}.part", model_path)

    return directory


def _downloaded(model_path):
    """Returns the directory of the weights, or ``None`` where a file of them is missing."""
    import json

    from .engine.checkpoint import check_files

    try:
        with open(model_path) as file:
            directory = json.load(file)["checkpoint"]

        check_files(directory)
    except (OSError, ValueError, KeyError, TypeError):
        return None

    return directory
