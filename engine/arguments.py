"""Checks of arguments. Errors name the argument, its value and the allowed values."""

import numbers
from collections.abc import Collection
from typing import Any


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None, or_none: bool = False) -> None:
    """Checks that an argument is a whole number in a range.

    Args:
        name: the argument's name
        value: its value
        minimum: the smallest allowed value
        maximum (None): the largest allowed value
        or_none (False): whether ``None`` is also allowed

    Raises:
        ValueError: naming the argument, its value and the range
    """
    if value is None and or_none:
        return

    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        other = ", or None" if or_none else ""
        raise ValueError(f"{name}={value!r} is not allowed: expected an integer of at least {minimum}{upper}{other}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Checks that an argument is one of a few values.

    Raises:
        ValueError: naming the argument, its value and the allowed values
    """
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}={value!r} is not allowed: expected one of {allowed}")
