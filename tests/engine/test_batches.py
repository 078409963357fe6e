"""Batches hold about equal work, within a budget."""

import math

import numpy as np
import pytest
from jina_embeddings_v4.engine.batches import plan_batches


def test_batches_hold_each_input_once_and_keep_to_the_budget():
    lengths = np.random.default_rng(0).integers(1, 900, 300).tolist() + [5000]
    batches = list(plan_batches(lengths, lambda: 2048))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in batch) for batch in batches]
    # The one input that exceeds it runs alone.
    assert [tokens for tokens in sums if tokens > 2048] == [5000] and [300] in batches
    assert len(batches) < 1.2 * sum(lengths) / 2048


def test_a_budget_that_shrinks_counts_from_the_next_batch_on():
    budgets = iter([100, 100, 30, 30, 30, 30, 30])
    batches = plan_batches([10] * 30, lambda: next(budgets))
    assert [len(batch) for batch in batches] == [10, 10, 3, 3, 2, 2]


@pytest.mark.parametrize("count", [1, 21, 22, 64, 100])
def test_no_few_are_left_over(count):
    sizes = [len(batch) for batch in plan_batches([779] * count, lambda: 16384)]
    assert sum(sizes) == count and len(sizes) == math.ceil(count / 21)
    assert max(sizes) - min(sizes) <= 1 + max(sizes) // 8
