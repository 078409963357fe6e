import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def prompts():
    random = np.random.default_rng(0)
    return Embeddings(unit(random.standard_normal((2, 16))), [unit(random.standard_normal((n, 8))) for n in (3, 9)])


def test_the_sum_of_the_best_products_is_the_mean_of_the_prompts_scores(prompts):
    page = unit(np.random.default_rng(1).standard_normal((20, 8)))
    query = Query.from_embeddings(prompts)
    score = (query.multi @ page.T).max(axis=1).sum()
    assert score == pytest.approx(np.mean([(multi @ page.T).max(axis=1).mean() for multi in prompts.multi]), abs=1e-6)


def test_a_page_scores_one_with_itself(prompts):
    multi = Query.from_embeddings(Embeddings(prompts.single[:1], prompts.multi[:1])).multi
    assert (multi @ prompts.multi[0].T).max(axis=1).sum() == pytest.approx(1, abs=1e-6)


def test_vectors_of_any_length_are_told_apart_by_their_shape(prompts):
    one = Query.from_vectors(3 * prompts.single[0], 16, 8)
    assert one.multi is None
    np.testing.assert_allclose(one.single, prompts.single[0], atol=1e-6)

    many = Query.from_vectors(3 * prompts.multi[0], 16, 8)
    assert many.single is None
    np.testing.assert_allclose(many.multi, prompts.multi[0] / 3, atol=1e-6)

    several = Query.from_vectors(prompts.single, 16, 8)
    np.testing.assert_allclose(several.single, prompts.single.mean(axis=0), atol=1e-6)

    with pytest.raises(ValueError, match=r"\(5, 7\)"):
        Query.from_vectors(np.zeros((5, 7)), 16, 8)
