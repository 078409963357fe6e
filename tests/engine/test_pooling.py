import numpy as np
import torch
from jina_embeddings_v4.engine.pooling import multi_vectors, pool_multi_vectors, single_vectors, truncate


def test_single_vector_averages_the_pooled_tokens_only():
    states = torch.tensor([[100.0, 0], [3, 0], [0, 4], [0, 100]])
    vectors = single_vectors(states, [slice(1, 3), slice(3, 4)])
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1]], atol=1e-6)


def test_rounding_of_half_precision_is_not_added_to():
    states = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected = states.double().mean(dim=0)
    np.testing.assert_allclose(single_vectors(states, [slice(0, 500)])[0], expected / expected.norm(), atol=1e-6)
    assert multi_vectors(states).dtype == torch.float32


def test_truncated_vectors_are_normalised_again():
    np.testing.assert_allclose(truncate(torch.tensor([0.6, 0.0, 0.8]), 2), [1, 0])
    assert truncate(torch.ones(3), None).tolist() == [1, 1, 1]


def test_mean_and_max_pooling():
    vectors = [np.array([[1, 0], [0, 1]], dtype=np.float32), np.array([[0.6, 0.8]], dtype=np.float32)]
    np.testing.assert_allclose(pool_multi_vectors(vectors, "mean"), [[0.5**0.5] * 2, [0.6, 0.8]], atol=1e-6)

    vectors = [np.array([[1, -0.5], [0, -0.75]], dtype=np.float32)]
    np.testing.assert_allclose(pool_multi_vectors(vectors, "max"), [np.array([1, -0.5]) / 1.25**0.5], atol=1e-6)
    assert pool_multi_vectors([], "max", dim=2).shape == (0, 2)
