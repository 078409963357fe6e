"""The model's arguments: their defaults, and the checks that they pass when loading and when set on a loaded model."""

import difflib
import math
import numbers

import fiftyone.utils.torch as fout

from .jina_v4.arguments import check_choice

SCORES = ("maxsim", "maxsim-sum", "pooled")


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
        precision ("auto"): ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. ``"auto"`` is bfloat16 on a GPU
            that has it, float16 on an older one, and float32 elsewhere
        checkpoint (None): a local directory, ``"org/name"`` or ``"org/name@revision"`` to load in place of the model's
            own weights
    """

    ARGUMENTS = (
        "task",
        "classes",
        "text_prompt",
        "pooling_strategy",
        "truncate_dim",
        "max_pixels",
        "query_prompt_name",
        "passage_prompt_name",
        "score",
        "temperature",
        "confidence_thresh",
        "filter_classes",
        "device",
        "precision",
        "checkpoint",
    )

    def __init__(self, d):
        _check_arguments(d, self.ARGUMENTS)
        d = {key: value for key, value in d.items() if value is not None}
        # FiftyOne's configurations take lists and strings only.
        if "classes" in d:
            d["classes"] = check_classes(d["classes"])
        if "filter_classes" in d:
            d["filter_classes"] = list(d["filter_classes"])
        if "device" in d:
            d["device"] = str(d["device"])

        super().__init__(d)
        self.raw_inputs = True
        self.ragged_batches = False

        self.task = self.parse_string(d, "task", default="retrieval")
        self.text_prompt = self.parse_raw(d, "text_prompt", default="")
        self.pooling_strategy = self.parse_raw(d, "pooling_strategy", default=None)
        self.truncate_dim = self.parse_raw(d, "truncate_dim", default=None)
        self.max_pixels = self.parse_raw(d, "max_pixels", default=None)
        self.query_prompt_name = self.parse_raw(d, "query_prompt_name", default="query")
        self.passage_prompt_name = self.parse_raw(d, "passage_prompt_name", default="passage")
        self.score = self.parse_raw(d, "score", default="maxsim")
        self.temperature = self.parse_raw(d, "temperature", default=0.02)
        self.precision = self.parse_raw(d, "precision", default="auto")
        self.checkpoint = self.parse_raw(d, "checkpoint", default=None)


def _check_arguments(arguments, known):
    for name in arguments:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {similar[0]!r}? " if similar else ""
            raise TypeError(f"Unknown argument {name!r}: {hint}The arguments are {', '.join(known)}")


class Setting:
    """An argument that can also be set on a loaded model. It is checked each time it is set.

    Args:
        doc: what it is
        check: a function of the model and the new value, which raises an error that names the allowed values
    """

    def __init__(self, doc, check):
        self.__doc__ = doc
        self._check = check

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, model, owner=None):
        return self if model is None else getattr(model.config, self._name)

    def __set__(self, model, value):
        self._check(model, value)
        setattr(model.config, self._name, value)


def one_of(name, choices):
    return lambda model, value: check_choice(name, value, choices)


def check_temperature(model, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"temperature={value!r} is not allowed: expected a number over 0")


def check_text_prompt(model, value):
    if not isinstance(value, str):
        raise ValueError(f"text_prompt={value!r} is not allowed: expected a string, eg 'A photo of a'")


def check_classes(classes):
    if isinstance(classes, str):
        raise ValueError(f"classes={classes!r} is not allowed: expected a list of class names")

    classes = list(classes)
    seen = set()
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"classes holds {name!r}: expected names that are not empty")
        if name in seen:
            raise ValueError(f"classes holds {name!r} twice, and the two would share its probability: name it once")

        seen.add(name)

    if not classes:
        raise ValueError("classes is empty: expected at least one class name")

    return classes
