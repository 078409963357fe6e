"""The model's arguments: their defaults, and the checks that they pass when loading and when set on a loaded model."""

import difflib
import math
import numbers
import os

import fiftyone.utils.torch as fout

from ..engine.arguments import check_choice
from ..engine.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..engine.devices import PRECISIONS, resolve_device
from ..engine.pooling import POOLING_STRATEGIES
from ..engine.processing import PROMPT_NAMES
from .seams import leave_model_cache

SCORES = ("maxsim", "maxsim-sum", "pooled")

# The arguments that a loaded model keeps.
LOADING_ONLY = ("device", "precision", "checkpoint", "adapter")

# Of FiftyOne's methods, and easily given to load_zoo_model() instead.
_ARGUMENTS_OF_CALLS = ("batch_size", "num_workers", "skip_failures")


class JinaV4Config(fout.TorchImageModelConfig):
    """Configuration of a :class:`JinaV4`.

    Args:
        task ("retrieval"): the task, whose adapter is applied: ``"retrieval"``, ``"text-matching"`` or ``"code"``
        classes (None): the class names for zero-shot classification
        text_prompt (""): what to put before each class name, eg ``"A photo of a"``
        pooling_strategy (None): ``"mean"`` or ``"max"`` to pool the 128-dimensional multi-vectors into one vector per
            image or prompt, or ``None`` for the single vectors
        truncate_dim (None): the number of dimensions to truncate single vectors to, one of the checkpoint's Matryoshka
            dimensions
        max_pixels (None): the area in pixels down to which larger images are resized. By default, the checkpoint's own:
            602112 pixels, which are 768 visual tokens
        query_prompt_name ("query"): the prefix of prompts and class texts: ``"query"`` or ``"passage"``
        passage_prompt_name ("passage"): the prefix of the texts given to :meth:`JinaV4.embed_passages`
        score ("maxsim"): how images and classes are compared: ``"maxsim"``, ``"maxsim-sum"`` or ``"pooled"``
        temperature (0.02): the softmax temperature of the class probabilities
        confidence_thresh (None): the confidence below which a prediction is dropped
        filter_classes (None): the classes to which predictions are restricted
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. By default, the first of these that there is
        precision ("auto"): ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or, on a CPU, ``"int8"``.
            ``"auto"`` is bfloat16 on a GPU or CPU that multiplies it, float16 on an older GPU of NVIDIA's, and float32
            elsewhere
        checkpoint (None): a local directory, ``"org/name"`` or ``"org/name@revision"`` to load in place of the model's
            own weights
        adapter (None): a directory with LoRA adapters of one's own, as ``finetuning/finetune.py`` writes it, to apply
            in place of the checkpoint's for the tasks that they are for
    """

    DEFAULTS = {
        "task": "retrieval",
        "classes": None,
        "text_prompt": "",
        "pooling_strategy": None,
        "truncate_dim": None,
        "max_pixels": None,
        "query_prompt_name": "query",
        "passage_prompt_name": "passage",
        "score": "maxsim",
        "temperature": 0.02,
        "confidence_thresh": None,
        "filter_classes": None,
        "device": None,
        "precision": "auto",
        "checkpoint": None,
        "adapter": None,
    }

    def __init__(self, d):
        for name in d:
            if name not in self.DEFAULTS:
                raise TypeError(unknown(name))

        values = self.DEFAULTS | {name: value for name, value in d.items() if value is not None}
        for name, check in CHECKS.items():
            values[name] = check(name, values[name])

        check_filter(values["classes"], values["filter_classes"])

        super().__init__({"raw_inputs": True, "ragged_batches": False})
        for name, value in values.items():
            setattr(self, name, value)


def unknown(name):
    """Says that there is no such argument, and which ones there are."""
    similar = difflib.get_close_matches(name, JinaV4Config.DEFAULTS, n=1)
    if name in _ARGUMENTS_OF_CALLS:
        hint = "it belongs to compute_embeddings() and apply_model(). "
    else:
        hint = f"did you mean {similar[0]!r}? " if similar else ""

    return f"Unknown argument {name!r}: {hint}The arguments are {', '.join(JinaV4Config.DEFAULTS)}"


def is_nearly_a_setting(name):
    """Whether a name is that of an argument but for a slip, or one of FiftyOne's methods' arguments."""
    return name in _ARGUMENTS_OF_CALLS or bool(difflib.get_close_matches(name, JinaV4Config.DEFAULTS, n=1, cutoff=0.75))


def check_filter(classes, filter_classes):
    """Checks that predictions are restricted to classes that there are, where both are given.

    Raises:
        ValueError: naming the classes that there are not
    """
    if classes is None or filter_classes is None:
        return

    missing = sorted(set(filter_classes) - set(classes))
    if missing:
        raise ValueError(
            f"filter_classes names {missing}, not among the classes: name only classes that there are, or set "
            "filter_classes to None before you set other classes"
        )


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


# Of the arguments that can be checked before there is a checkpoint: a function of the name and the value that returns
# the value to keep, or raises an error that names the allowed ones.
CHECKS = {
    "classes": _class_names,
    "text_prompt": _string,
    "pooling_strategy": _one_of(*POOLING_STRATEGIES, None),
    "query_prompt_name": _one_of(*PROMPT_NAMES),
    "passage_prompt_name": _one_of(*PROMPT_NAMES),
    "score": _one_of(*SCORES),
    # Smaller ones divide by nothing in float32.
    "temperature": _number(minimum=1e-6),
    "confidence_thresh": _number(minimum=0, maximum=1, or_none=True),
    "filter_classes": _class_names,
    "device": _device,
    "precision": _one_of(*PRECISIONS),
    "checkpoint": _checkpoint,
    "adapter": _adapter,
}


class Setting:
    """An argument that can also be set on a loaded model. It is checked each time, and kept in the model's config.

    Args:
        doc: what it is
        check (None): a function of the model and the value that raises an error, for what depends on the checkpoint or
            on other settings
    """

    def __init__(self, doc, check=None):
        self.__doc__ = doc
        self._check = check

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, model, owner=None):
        return self if model is None else getattr(model.config, self._name)

    def __set__(self, model, value):
        if self._name in CHECKS:
            value = CHECKS[self._name](self._name, value)
        if self._check is not None:
            self._check(model, value)

        setattr(model.config, self._name, value)
        leave_model_cache(model)
