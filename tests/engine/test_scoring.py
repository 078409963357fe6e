"""Late interaction against its definition, and the properties that zero-shot classification rests on."""

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine import scoring
from jina_embeddings_v4.engine.scoring import TokenSet, class_logits, maxsim


def unit_vectors(random, count):
    vectors = random.normal(size=(count, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_maxsim(images, classes, normalize):
    """The definition, one class token at a time."""
    scores = np.zeros((len(images), len(classes)))
    for i, image in enumerate(images):
        for j, tokens in enumerate(classes):
            best = [max(float(token @ patch) for patch in image) for token in tokens]
            scores[i, j] = sum(best) / len(best) if normalize else sum(best)

    return scores


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("similarities_at_a_time", [2**26, 100, 1])
def test_maxsim_is_its_definition(monkeypatch, normalize, similarities_at_a_time):
    monkeypatch.setattr(scoring, "_MAX_SIMILARITIES", similarities_at_a_time)
    random = np.random.default_rng(7)
    images = [unit_vectors(random, n) for n in (5, 1, 9)]
    classes = [unit_vectors(random, n) for n in (3, 1, 6, 2)]
    scores = maxsim(images, TokenSet(classes), normalize)
    np.testing.assert_allclose(scores, slow_maxsim(images, classes, normalize), atol=1e-5)


def test_padding_never_wins():
    # Against an image of opposite vectors only, a padded zero would be the best match.
    token = unit_vectors(np.random.default_rng(0), 1)
    scores = maxsim([-token, np.repeat(token, 4, axis=0)], TokenSet([token]))
    np.testing.assert_allclose(scores, [[-1], [1]], atol=1e-6)


def test_length_wins_nothing_unless_asked_for():
    random = np.random.default_rng(3)
    images = [unit_vectors(random, 60) for _ in range(300)]
    classes = TokenSet([unit_vectors(random, 3), unit_vectors(random, 13)])
    long_wins = [
        float((scores[:, 1] > scores[:, 0]).float().mean())
        for scores in (maxsim(images, classes), maxsim(images, classes, normalize=False))
    ]
    assert 0.3 < long_wins[0] < 0.7
    assert long_wins[1] == 1


def test_logits_are_safe_to_exponentiate():
    logits = class_logits(torch.tensor([[1.0, -1, 0.9], [13, 800, 5]]), temperature=0.001)
    assert logits.dtype == torch.float32
    assert (logits <= 0).all() and (logits.amax(dim=1) == 0).all()

    probabilities = class_logits(torch.tensor([[0.5, 0.48]]), temperature=0.02).softmax(dim=1)
    np.testing.assert_allclose(probabilities, [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]], atol=1e-5)
