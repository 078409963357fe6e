"""Packs of sequences are cut into groups of whole ones."""

import pytest
import torch
from jina_embeddings_v4.engine.packing import Packing

CPU = torch.device("cpu")


@pytest.mark.parametrize("lengths, tokens", [([4, 4, 4, 16, 16], 20), ([16] * 7, 40), ([50, 3, 3], 10), ([3], 1)])
def test_groups_hold_each_sequence_once_within_the_limit(lengths, tokens):
    groups = Packing(lengths, CPU).groups(tokens)
    assert [length for _, group in groups for length in group.lengths] == lengths
    places = [place for part, _ in groups for place in range(sum(lengths))[part]]
    assert places == list(range(sum(lengths)))
    for part, group in groups:
        assert len(range(sum(lengths))[part]) == sum(group.lengths)
        assert sum(group.lengths) <= tokens or len(group.lengths) == 1


def test_what_is_within_the_limit_is_one_group():
    packing = Packing([4, 4], CPU)
    assert packing.groups(8) == [(slice(None), packing)]


def test_runs_are_of_equal_lengths():
    assert list(Packing([4, 4, 2, 4], CPU).runs()) == [(slice(0, 8), 2), (slice(8, 10), 1), (slice(10, 14), 1)]
