"""The model's config, and the settings of a loaded model, which pass the same checks."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import fiftyone.utils.torch as fout

from .parameters import PARAMETERS

# Arguments of FiftyOne's methods that people pass to load_zoo_model() by mistake.
_ARGUMENTS_OF_CALLS = ("batch_size", "num_workers", "skip_failures")


class JinaV4Config(fout.TorchImageModelConfig):
    def __init__(self, d: dict):
        for name in d:
            if name not in PARAMETERS:
                raise TypeError(_unknown(name))

        values = {name: parameter.default for name, parameter in PARAMETERS.items()}
        values |= {name: value for name, value in d.items() if value is not None}
        for name, parameter in PARAMETERS.items():
            if parameter.check is not None:
                values[name] = parameter.check(name, values[name])

        check_filter(values["classes"], values["filter_classes"])

        super().__init__({"raw_inputs": True, "ragged_batches": False})
        for name, value in values.items():
            setattr(self, name, value)


JinaV4Config.__doc__ = "Configuration of a :class:`jina_embeddings_v4.zoo.JinaV4`.\n\nArgs:\n" + "\n".join(
    f"    {name} ({parameter.default!r}): {parameter.values}. {parameter.description}".replace("`", "``")
    for name, parameter in PARAMETERS.items()
)


def check_filter(classes: Sequence[str] | None, filter_classes: Sequence[str] | None) -> None:
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


class Setting:
    """A parameter that can be set on a loaded model. It is checked each time, and kept in the model's config.

    Args:
        check (None): a function of the model and the value that raises an error, for what depends on the checkpoint or
            on other settings
    """

    def __init__(self, check: Callable[[Any, Any], Any] | None = None):
        self._check = check

    def __set_name__(self, owner, name):
        self._name = name
        self._parameter = PARAMETERS[name]
        self.__doc__ = self._parameter.description

    def __get__(self, model, owner=None):
        return self if model is None else getattr(model.config, self._name)

    def __set__(self, model, value):
        if self._parameter.check is not None:
            value = self._parameter.check(self._name, value)
        if self._check is not None:
            self._check(model, value)

        setattr(model.config, self._name, value)


class Settings:
    """What can be set on a loaded model, which has an :attr:`encoder` and a :attr:`config`."""

    classes = Setting(lambda model, value: check_filter(value, model.filter_classes))
    text_prompt = Setting()
    pooling_strategy = Setting()
    truncate_dim = Setting(lambda model, value: model.encoder.check_truncate_dim(value))
    max_pixels = Setting(lambda model, value: model.encoder.processor.image_settings.check_max_pixels(value))
    mode = Setting()
    video_fps = Setting()
    max_video_frames = Setting()
    query_prompt_name = Setting()
    passage_prompt_name = Setting()
    score = Setting()
    temperature = Setting()
    confidence_thresh = Setting()
    filter_classes = Setting(lambda model, value: check_filter(model.classes, value))

    # Attributes of an instance. Named here, they are no slips of a setting's name.
    config: Any = None
    encoder: Any = None

    @property
    def task(self) -> str:
        """The task, whose adapter is applied. Setting it loads nothing."""
        return self.encoder.task

    @task.setter
    def task(self, task: str) -> None:
        self.encoder.task = task

    def __setattr__(self, name, value):
        if name in PARAMETERS and not PARAMETERS[name].settable:
            raise AttributeError(f"{name!r} cannot be changed on a loaded model: pass it to load_zoo_model()")
        # Python would take any name, and the setting that a person meant would stay as it was. FiftyOne may set any
        # attribute of its own.
        if not name.startswith("_") and not hasattr(type(self), name) and _is_nearly_a_parameter(name):
            raise AttributeError(_unknown(name))

        super().__setattr__(name, value)


def _unknown(name):
    """The message for an argument that does not exist."""
    similar = difflib.get_close_matches(name, PARAMETERS, n=1)
    if name in _ARGUMENTS_OF_CALLS:
        hint = "it belongs to compute_embeddings() and apply_model(). "
    else:
        hint = f"did you mean {similar[0]!r}? " if similar else ""

    return f"Unknown argument {name!r}: {hint}The arguments are {', '.join(PARAMETERS)}"


def _is_nearly_a_parameter(name):
    return name in _ARGUMENTS_OF_CALLS or bool(difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.75))
