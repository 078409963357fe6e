import numpy as np
import pytest
from jina_embeddings_v4.late_interaction.token_pooling import pool_tokens


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("factor, rows", [(1, 30), (2, 15), (4, 8), (100, 1)])
def test_rows_are_divided_by_the_factor(factor, rows):
    tokens = unit(np.random.default_rng(0).standard_normal((30, 128)))
    pooled = pool_tokens(tokens, factor)
    assert pooled.shape == (rows, 128) and pooled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-6)


def test_tokens_that_say_the_same_become_one():
    random = np.random.default_rng(0)
    meanings = unit(random.standard_normal((5, 128)))
    said = random.permutation(np.repeat(np.arange(5), 6))
    tokens = unit(meanings[said] + 0.01 * random.standard_normal((30, 128)))
    pooled = pool_tokens(tokens, 6)
    assert len(pooled) == 5
    assert (pooled @ meanings.T).max(axis=0).min() > 0.998


def test_a_page_of_one_token_and_of_equal_tokens():
    one = unit(np.ones((1, 128)))
    np.testing.assert_array_equal(pool_tokens(one, 3), one)
    np.testing.assert_allclose(pool_tokens(np.repeat(one, 9, axis=0), 3), one, atol=1e-6)
