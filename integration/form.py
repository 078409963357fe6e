"""The model's form in the FiftyOne App, where a person applies it without writing code."""

import os

import fiftyone.operators.types as types

from ..engine.checkpoint import read_config
from ..engine.devices import PRECISIONS
from ..engine.pooling import POOLING_STRATEGIES
from ..engine.processing import PROMPT_NAMES
from .parameters import MATRYOSHKA_DIMS, MIN_PIXELS, MODES, PARAMETERS, SCORES, TASKS

# What has no place in the form: no operator embeds passages, FiftyOne's own form asks for the threshold, and the rest
# is for code.
LEFT_OUT = ("passage_prompt_name", "confidence_thresh", "filter_classes", "checkpoint", "adapter")

# The largest area that published evaluations of the model use, in pixels.
_MAX_PIXELS = 37788800


def build_form(directory: str | os.PathLike | None = None) -> types.Property:
    """Defines the form.

    Args:
        directory (None): the checkpoint's directory, where it is known before loading
    """
    config = {} if directory is None else read_config(directory)
    choices = {
        "task": config.get("task_names", TASKS),
        "score": SCORES,
        "pooling_strategy": POOLING_STRATEGIES,
        "truncate_dim": [str(dim) for dim in config.get("matryoshka_dims", MATRYOSHKA_DIMS)],
        "mode": MODES,
        "query_prompt_name": PROMPT_NAMES,
        "precision": PRECISIONS,
    }
    form = types.Object()
    for name, parameter in PARAMETERS.items():
        if name in LEFT_OUT:
            continue

        described = {
            "label": name.replace("_", " ").capitalize(),
            "description": parameter.description.replace("`", ""),
            "default": parameter.default,
        }
        if name in choices:
            view = types.DropdownView()
            for choice in choices[name]:
                view.add_choice(choice, label=choice)
            form.enum(name, view.values(), view=view, **described)
        elif name == "temperature":
            form.float(name, min=0.001, max=100, **described)
        elif name == "video_fps":
            form.float(name, min=0.001, **described)
        elif name == "max_video_frames":
            form.int(name, min=1, **described)
        elif name == "max_pixels":
            form.int(name, min=MIN_PIXELS, max=_MAX_PIXELS, **described)
        else:
            if name == "classes":
                described["description"] = "The class names for zero-shot classification, separated by commas."
            form.str(name, **described)

    return types.Property(form, view=types.View(label="Jina Embeddings v4"))


def parse_form(params: dict) -> None:
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
