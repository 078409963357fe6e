"""The types and ranges of the values in a checkpoint's JSON files.

A schema maps keys to checks. A check is a function of a value. It returns ``None`` if the value is valid, else a
description of what it expects. A key may be absent if its check is :func:`optional`.
"""

import numbers
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], str | None]
Schema = dict[str, Any]


def integer(minimum: int, maximum: int = 10**12) -> Check:
    """Checks for an integer in a range."""

    def check(value):
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return None
        return f"an integer from {minimum} to {maximum}"

    return check


def number(minimum: float, maximum: float) -> Check:
    """Checks for a number in a range. NaN is in none."""

    def check(value):
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and minimum <= value <= maximum:
            return None
        return f"a number from {minimum} to {maximum}"

    return check


def list_of(item: Check, length: int | None = None) -> Check:
    """Checks for a list that is not empty, of items that pass a check, and of a length, if it is given."""

    def check(value):
        if not isinstance(value, list) or not value or (length is not None and len(value) != length):
            return f"a list of {length} items" if length else "a list that is not empty"
        return next((f"a list, each item {problem}" for problem in map(item, value) if problem), None)

    return check


def one_of(*choices: Any) -> Check:
    """Checks for one of a few values, of the same type."""

    def check(value):
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return None
        return " or ".join(map(repr, choices))

    return check


def present(value: Any) -> str | None:
    """Accepts any value."""
    return None


def name(value: Any) -> str | None:
    """Checks for a name of letters, digits, underscores and hyphens."""
    return None if isinstance(value, str) and re.fullmatch(r"[\w-]{1,100}", value) else "a name"


def optional(check: Check) -> Check:
    """Makes the key of a check optional: it may be absent or ``null``."""
    return _Optional(check)


class _Optional:
    def __init__(self, check):
        self._check = check

    def __call__(self, value):
        return None if value is None else self._check(value)


def find_problem(values: Any, schema: Schema, where: str = "") -> str | None:
    """Checks a JSON object against a schema.

    Args:
        values: the decoded JSON
        schema: a dict of keys to checks, or to nested schemas
        where (""): the prefix of the keys in the message

    Returns:
        the rest of a sentence about the file: the key, its value and what was expected. ``None`` if all is valid
    """
    if not isinstance(values, dict):
        return f"has {_show(values)} {'for ' + repr(where[:-1]) if where else 'in it'}, expected an object"

    for key, check in schema.items():
        if key not in values:
            if not isinstance(check, _Optional):
                return f"lacks {where + key!r}"
        elif isinstance(check, dict):
            problem = find_problem(values[key], check, f"{where}{key}.")
            if problem:
                return problem
        elif expected := check(values[key]):
            return f"has {where + key!r} {_show(values[key])}, expected {expected}"
    return None


def _show(value):
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deeply nested lists
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


_SIZE = integer(1, 10**9)

# The keys of config.json that describe the network.
CONFIG: Schema = {
    "text_config": {
        "hidden_size": _SIZE,
        "intermediate_size": _SIZE,
        "num_hidden_layers": _SIZE,
        "num_attention_heads": _SIZE,
        "num_key_value_heads": _SIZE,
        "vocab_size": _SIZE,
        "rms_norm_eps": number(1e-12, 0.01),
        "hidden_act": optional(one_of("silu")),
        "use_sliding_window": optional(one_of(False)),
    },
    "vision_config": {
        "depth": _SIZE,
        "hidden_size": _SIZE,
        "intermediate_size": _SIZE,
        "num_heads": _SIZE,
        "out_hidden_size": _SIZE,
        "patch_size": integer(1, 1024),
        "spatial_merge_size": integer(1, 64),
        "temporal_patch_size": integer(1, 64),
        "window_size": integer(1, 10**6),
        "fullatt_block_indexes": list_of(integer(0)),
        "hidden_act": optional(one_of("silu")),
    },
    "image_token_id": integer(0),
    "video_token_id": integer(0),
    "task_names": list_of(name),
    "matryoshka_dims": list_of(integer(1)),
    "multi_vector_projector_dim": _SIZE,
}

# The rotary settings in ``text_config``, see :func:`rope_parameters`.
ROPE: Schema = {
    "rope_theta": number(1, 1e12),
    "mrope_section": list_of(integer(1, 10**6), length=3),
    "rope_type": optional(one_of("default", "mrope")),
    "type": optional(one_of("default", "mrope")),
}

_EMPTY = one_of({}, [], False, "none")

ADAPTER: Schema = {
    "r": integer(1, 10**6),
    "lora_alpha": number(1e-6, 1e9),
    "target_modules": present,
    "use_rslora": optional(one_of(True, False)),
    # Settings that would change how the tensors are applied.
    "peft_type": optional(one_of("LORA")),
    "bias": optional(_EMPTY),
    "use_dora": optional(_EMPTY),
    "lora_bias": optional(_EMPTY),
    "alpha_pattern": optional(_EMPTY),
    "rank_pattern": optional(_EMPTY),
    "layers_to_transform": optional(_EMPTY),
    "layer_replication": optional(_EMPTY),
    "modules_to_save": optional(_EMPTY),
}

IMAGES: Schema = {
    "patch_size": integer(1, 1024),
    "merge_size": integer(1, 64),
    "temporal_patch_size": integer(1, 64),
    "min_pixels": integer(1),
    "max_pixels": integer(1),
    "image_mean": list_of(number(-10, 10), length=3),
    "image_std": list_of(number(1e-6, 10), length=3),
}


def find_config_problem(config: Any) -> str | None:
    """Checks the decoded ``config.json``: each value, and then their consistency.

    Returns:
        the rest of a sentence about the file, or ``None`` if all is valid
    """
    problem = find_problem(config, CONFIG)
    if problem is None:
        problem = find_problem(rope_parameters(config["text_config"]), ROPE, "text_config.rope_scaling.")
    if problem is not None:
        return problem

    text, vision = config["text_config"], config["vision_config"]
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    token_size = vision["patch_size"] * vision["spatial_merge_size"]
    section = rope_parameters(text)["mrope_section"]
    requirements = (
        (
            head_dim * text["num_attention_heads"] == text["hidden_size"],
            "text_config.hidden_size is not a multiple of num_attention_heads",
        ),
        (
            text["num_attention_heads"] % text["num_key_value_heads"] == 0,
            "text_config.num_attention_heads is not a multiple of num_key_value_heads",
        ),
        (
            2 * sum(section) == head_dim,
            f"text_config's mrope_section {section} does not sum up to half of a head's {head_dim} dimensions",
        ),
        (
            vision["hidden_size"] % (4 * vision["num_heads"]) == 0,
            "vision_config.hidden_size is not a multiple of 4 times num_heads",
        ),
        (
            vision["out_hidden_size"] == text["hidden_size"],
            "vision_config.out_hidden_size is not text_config.hidden_size",
        ),
        (
            vision["window_size"] % token_size == 0,
            f"vision_config.window_size is not a multiple of a visual token's {token_size} pixels",
        ),
        (
            max(vision["fullatt_block_indexes"]) < vision["depth"],
            f"vision_config.fullatt_block_indexes names a block beyond the {vision['depth']} blocks",
        ),
        (config["image_token_id"] < text["vocab_size"], "image_token_id is beyond text_config.vocab_size"),
        (len(set(config["task_names"])) == len(config["task_names"]), "task_names names a task twice"),
    )
    return next((f"contradicts itself: {problem}" for is_met, problem in requirements if not is_met), None)


def rope_parameters(text_config: dict[str, Any]) -> Any:
    """Returns the rotary settings of a ``text_config``, in the layout since transformers 5 or the older one."""
    settings = text_config.get("rope_parameters") or text_config.get("rope_scaling")
    if not isinstance(settings, dict):
        return settings

    theta = {"rope_theta": text_config["rope_theta"]} if "rope_theta" in text_config else {}
    return theta | settings
