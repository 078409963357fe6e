"""Packed attention against the plain formula, one sequence and one head at a time."""

import pytest
import torch
from jina_embeddings_v4.engine import attention
from jina_embeddings_v4.engine.attention import attend, attend_in_parts
from jina_embeddings_v4.engine.elementwise import rotate
from jina_embeddings_v4.engine.packing import Packing
from torch.nn.functional import scaled_dot_product_attention


def plain_attention(query, key, value, lengths, is_causal):
    start, rows = 0, []
    for length in lengths:
        tokens = slice(start, start + length)
        start += length
        heads = []
        for head in range(query.shape[1]):
            shared = head * key.shape[1] // query.shape[1]
            scores = query[tokens, head] @ key[tokens, shared].T / query.shape[-1] ** 0.5
            if is_causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(dim=-1) @ value[tokens, shared])
        rows.append(torch.cat(heads, dim=-1))
    return torch.cat(rows)


@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [3, 3, 7, 1, 1, 1, 12], [2, 3, 2, 3]], ids=str)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("is_causal", [False, True])
def test_each_sequence_attends_to_itself_alone(lengths, key_heads, is_causal):
    torch.manual_seed(51)
    query = torch.randn(sum(lengths), 4, 8)
    key, value = torch.randn(2, sum(lengths), key_heads, 8).unbind()
    found = attend(query, key, value, Packing(lengths, "cpu"), is_causal)
    torch.testing.assert_close(found, plain_attention(query, key, value, lengths, is_causal))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 11, 23, 67, 1000])
def test_a_limit_on_scores_changes_nothing_but_their_number(monkeypatch, is_causal, rows):
    torch.manual_seed(51)
    query, key, value = torch.randn(3, 3, 4, 11, 8).unbind()
    expected = scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    sizes = []

    def attend_once(query, key, value, **kwargs):
        sizes.append(4 * query.shape[:3].numel() * key.shape[2])
        return scaled_dot_product_attention(query, key, value, **kwargs)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend_once)
    limit = rows * 11 * 4
    torch.testing.assert_close(attend_in_parts(query, key, value, is_causal, limit), expected)
    assert max(sizes) <= limit and (len(sizes) > 1 or rows == 1000)


def test_equal_neighbours_are_computed_together():
    assert [(tokens.stop, count) for tokens, count in Packing([4, 4, 4, 2, 4], "cpu").runs()] == [
        (12, 3),
        (14, 1),
        (18, 1),
    ]


def test_a_rotated_vector_tells_its_position():
    torch.manual_seed(51)
    query, key = torch.randn(2, 8).unbind()
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.03])

    def score(i, j):
        angles = torch.tensor([i, j])[:, None] * frequencies
        rotated = rotate(torch.stack([query, key])[:, None], angles.cos(), angles.sin())
        return (rotated[0, 0] @ rotated[1, 0]).item()

    assert score(3, 1) == pytest.approx(score(12, 10), abs=1e-5)
    assert score(0, 0) == pytest.approx((query @ key).item(), abs=1e-5)
    assert abs(score(3, 1) - score(1, 3)) > 1e-3
