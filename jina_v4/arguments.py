"""Checks of arguments, with errors that name the argument, its value and the allowed ones."""

import numbers


def check_integer(name, value, minimum, maximum=None):
    """Checks that an argument is a whole number in a range.

    Raises:
        ValueError: naming the argument, its value and the range
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name}={value!r} is not allowed: expected an integer of at least {minimum}{upper}, or None")


def check_choice(name, value, choices):
    """Checks that an argument is one of a few values.

    Raises:
        ValueError: naming the argument, its value and the allowed ones
    """
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}={value!r} is not allowed: expected one of {allowed}")
