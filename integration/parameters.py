"""The model's parameters, listed once: the config, its docstring, the App's form and the docs' table follow it."""

import math
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..engine.arguments import check_choice, check_integer
from ..engine.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..engine.devices import PRECISIONS, resolve_device
from ..engine.pooling import POOLING_STRATEGIES
from ..engine.processing import PROMPT_NAMES

SCORES = ("maxsim", "pooled")
MODES = ("image", "video")

# What jina-embeddings-v4 has. Other checkpoints may differ, and the encoder checks against the one that is loaded.
TASKS = ("retrieval", "text-matching", "code")
MATRYOSHKA_DIMS = (128, 256, 512, 1024, 2048)
MIN_PIXELS = 3136


@dataclass(frozen=True)
class Parameter:
    """An argument of ``load_zoo_model``.

    Args:
        default: its default value
        values: the values that it takes, in words, for people
        description: what it is, in one sentence, in Markdown
        check (None): a function of the name and a value that returns the value to keep, or raises a ``ValueError`` that
            names the allowed ones. ``None`` where the loaded checkpoint decides
        settable (True): whether it can be changed on a loaded model
    """

    default: Any
    values: str
    description: str
    check: Callable[[str, Any], Any] | None = None
    settable: bool = True


def _one_of(*choices):
    def check(name, value):
        check_choice(name, value, choices)
        return value

    return check


def _number(minimum, maximum=math.inf, or_none=False):
    def check(name, value):
        if not (value is None and or_none):
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_number or not minimum <= value <= maximum or math.isinf(value):
                upper = "" if math.isinf(maximum) else f" and at most {maximum}"
                raise ValueError(f"{name}={value!r} is not allowed: expected a number of at least {minimum}{upper}")

        return value

    return check


def _count(name, value):
    check_integer(name, value, 1)
    return value


def _string(name, value):
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} is not allowed: expected a string")

    return value


def _class_names(name, value):
    if value is None:
        return None
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r} is not allowed: expected a list of class names")

    value = list(value)
    seen = set()
    for class_name in value:
        if not isinstance(class_name, str):
            raise ValueError(f"{name} holds {class_name!r}: expected strings")
        if not class_name.strip():
            raise ValueError(f"{name} holds {class_name!r}: expected names that are not empty")
        if class_name.strip() in seen:
            raise ValueError(
                f"{name} holds {class_name!r} twice, and the two would share its probability: name it once"
            )

        seen.add(class_name.strip())

    if not value:
        raise ValueError(f"{name} is empty: expected at least one class name, or None")

    return value


def _checkpoint(name, value):
    if value is not None and not (isinstance(value, str | os.PathLike) and str(value).strip()):
        raise ValueError(
            f"{name}={value!r} is not allowed: expected a local directory, 'org/name' or 'org/name@revision'"
        )

    return value


def _device(name, value):
    return str(resolve_device(value))


def _adapter(name, value):
    if value is None:
        return None

    if isinstance(value, str | os.PathLike):
        directory = os.path.abspath(os.path.expanduser(value))
        if all(os.path.isfile(os.path.join(directory, file)) for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
            return directory

    raise ValueError(
        f"{name}={value!r} is not allowed: expected a directory that holds {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
    )


def _quoted(choices):
    return ", ".join(f'`"{choice}"`' for choice in choices)


PARAMETERS = {
    "task": Parameter("retrieval", _quoted(TASKS), "The task, whose adapter is applied."),
    "classes": Parameter(
        None, "a list of distinct strings", "The class names for zero-shot classification.", _class_names
    ),
    "text_prompt": Parameter("", "a string", 'The text before each class name, such as `"A photo of a"`.', _string),
    "pooling_strategy": Parameter(
        None,
        f"`None`, {_quoted(POOLING_STRATEGIES)}",
        "How multi-vectors are pooled into one of 128 dimensions per image or prompt; `None` gives single vectors.",
        _one_of(*POOLING_STRATEGIES, None),
    ),
    "truncate_dim": Parameter(
        None,
        f"`None`, {', '.join(map(str, MATRYOSHKA_DIMS))}",
        "The number of dimensions to which single vectors are truncated.",
    ),
    "max_pixels": Parameter(
        None,
        f"`None`, an integer of at least {MIN_PIXELS}",
        "The area in pixels to which larger images are resized; `None` is 602112 pixels, or 768 visual tokens.",
    ),
    # The names that FiftyOne's own models for videos have.
    "mode": Parameter(
        None,
        f"`None`, {_quoted(MODES)}",
        "Whether a video is embedded by frame or as one; `None` is as one, and by frame into a field `frames.…`.",
        _one_of(*MODES, None),
    ),
    "video_fps": Parameter(
        1.0,
        "a number of at least 0.001",
        "The frames that are read of a second of a video.",
        _number(minimum=0.001),
    ),
    "max_video_frames": Parameter(
        64,
        "an integer of at least 1",
        "The largest number of frames that are read of a video, evenly over its length.",
        _count,
    ),
    "query_prompt_name": Parameter(
        "query", _quoted(PROMPT_NAMES), "The prefix of prompts and class texts.", _one_of(*PROMPT_NAMES)
    ),
    "passage_prompt_name": Parameter(
        "passage", _quoted(PROMPT_NAMES), "The prefix of the texts given to `embed_passages()`.", _one_of(*PROMPT_NAMES)
    ),
    "score": Parameter("maxsim", _quoted(SCORES), "How images and classes are compared.", _one_of(*SCORES)),
    # Divided by a smaller temperature, scores overflow in float32.
    "temperature": Parameter(
        0.02,
        "a number of at least 1e-6",
        "The softmax temperature of the class probabilities; the smaller, the closer the best class comes to 1.",
        _number(minimum=1e-6),
    ),
    "confidence_thresh": Parameter(
        None,
        "`None`, a number in [0, 1]",
        "The confidence below which a prediction is dropped.",
        _number(minimum=0, maximum=1, or_none=True),
    ),
    "filter_classes": Parameter(
        None, "`None`, some of the classes", "The classes to which predictions are restricted.", _class_names
    ),
    "device": Parameter(
        None,
        f"`None`, {_quoted(('cuda', 'cuda:1', 'mps', 'cpu'))}",
        "Where to compute; `None` takes the first of these that there is.",
        _device,
        settable=False,
    ),
    "precision": Parameter(
        "auto",
        _quoted(PRECISIONS),
        "The number format of the weights and products; `int8` is for CPUs.",
        _one_of(*PRECISIONS),
        settable=False,
    ),
    "checkpoint": Parameter(
        None,
        '`None`, a directory, `"org/name"`, `"org/name@revision"`',
        "A checkpoint to load in place of the model's own weights.",
        _checkpoint,
        settable=False,
    ),
    "adapter": Parameter(
        None,
        "`None`, a directory",
        "LoRA adapters to apply in place of the checkpoint's for the tasks that they were trained for.",
        _adapter,
        settable=False,
    ),
}


def markdown_table() -> str:
    """Writes the parameters as the Markdown table that the docs show."""
    rows = ["| parameter | default | values | what it is |", "|---|---|---|---|"]
    for name, parameter in PARAMETERS.items():
        default = f'"{parameter.default}"' if isinstance(parameter.default, str) else parameter.default
        star = " *" if parameter.settable else ""
        rows.append(f"| `{name}`{star} | `{default}` | {parameter.values} | {parameter.description} |")

    return "\n".join(rows) + "\n"
