"""The model's form in the FiftyOne App, where a person applies it without writing code."""

import fiftyone.operators.types as types

from ..engine.checkpoint import read_config
from ..engine.devices import PRECISIONS
from ..engine.pooling import POOLING_STRATEGIES
from ..engine.processing import PROMPT_NAMES
from .config import SCORES, JinaV4Config

# An App's form needs its ranges before there is a checkpoint to ask; these are the ones of jina-embeddings-v4.
_TASKS = ("retrieval", "text-matching", "code")
_MATRYOSHKA_DIMS = (128, 256, 512, 1024, 2048)
_MIN_PIXELS, _MAX_PIXELS = 3136, 37788800


def build_form(directory=None):
    """Defines the form.

    Args:
        directory (None): the checkpoint's directory, where it is known before loading

    Returns:
        a :class:`fiftyone.operators.types.Property`
    """
    config = {} if directory is None else read_config(directory)
    form = types.Object()

    _choice(
        form, "task", config.get("task_names", _TASKS), "Task", "Which adapter to apply", JinaV4Config.DEFAULTS["task"]
    )
    form.str(
        "classes",
        label="Classes",
        description="Class names for zero-shot classification, separated by commas. Predictions need them",
    )
    form.str(
        "text_prompt",
        label="Text prompt",
        description="What to put before each class name, eg 'A photo of a'",
    )
    _choice(form, "score", SCORES, "Score", "How images and classes are compared", JinaV4Config.DEFAULTS["score"])
    form.float(
        "temperature",
        min=0.001,
        max=100,
        default=JinaV4Config.DEFAULTS["temperature"],
        label="Temperature",
        description="The softmax temperature of the class probabilities: the smaller, the more decided",
    )
    _choice(
        form,
        "pooling_strategy",
        POOLING_STRATEGIES,
        "Pooling strategy",
        "Pool multi-vectors into 128 dimensions, in place of single vectors",
    )
    _choice(
        form,
        "truncate_dim",
        [str(dim) for dim in config.get("matryoshka_dims", _MATRYOSHKA_DIMS)],
        "Dimensions",
        "Truncate single vectors to their first dimensions",
    )
    form.int(
        "max_pixels",
        min=_MIN_PIXELS,
        max=_MAX_PIXELS,
        label="Maximum pixels",
        description="Resize larger images down to this area. More finds smaller print, and takes longer",
    )
    _choice(
        form,
        "query_prompt_name",
        PROMPT_NAMES,
        "Query prompt",
        "The prefix of prompts and class texts",
        JinaV4Config.DEFAULTS["query_prompt_name"],
    )
    _choice(
        form, "precision", PRECISIONS, "Precision", "What the model computes in", JinaV4Config.DEFAULTS["precision"]
    )
    form.str("device", label="Device", description="cuda, cuda:1, mps or cpu. By default, the first there is")

    return types.Property(form, view=types.View(label="Jina Embeddings v4"))


def _choice(form, name, values, label, description, default=None):
    view = types.DropdownView()
    for value in values:
        view.add_choice(value, label=value)

    form.enum(name, view.values(), default=default, label=label, description=description, view=view)


def parse_form(params):
    """Turns the form's values into arguments of the model, in place.

    Args:
        params: a dict of the form's values. Fields that were left empty are dropped
    """
    classes = params.get("classes")
    if isinstance(classes, str):
        params["classes"] = [name.strip() for name in classes.split(",") if name.strip()]
    if params.get("truncate_dim"):
        params["truncate_dim"] = int(params["truncate_dim"])

    for name in [name for name, value in params.items() if value in (None, "", [])]:
        del params[name]
