"""Errors about arguments name what is allowed, and nothing else."""

import pytest
from jina_embeddings_v4.engine.arguments import check_integer


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "2", 9])
def test_none_is_named_where_it_is_allowed(value):
    with pytest.raises(
        ValueError, match=rf"k={value!r} is not allowed: expected an integer of at least 1 and at most 8$"
    ):
        check_integer("k", value, 1, 8)
    with pytest.raises(ValueError, match=r"at least 1 and at most 8, or None$"):
        check_integer("k", value, 1, 8, or_none=True)


def test_none():
    check_integer("k", None, 1, or_none=True)
    with pytest.raises(ValueError, match="k=None is not allowed: expected an integer of at least 1$"):
        check_integer("k", None, 1)
