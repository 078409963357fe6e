"""The losses, against slow and obvious versions."""

import math

import pytest
import torch
from jina_embeddings_v4.finetuning.forward import Vectors
from jina_embeddings_v4.finetuning.losses import cosent, info_nce, joint_loss, late_scores, single_scores
from torch.nn.functional import normalize


def multi_vectors(*lengths):
    return [normalize(torch.randn(length, 128), dim=-1) for length in lengths]


def test_late_scores_are_the_mean_best_cosine():
    torch.manual_seed(51)
    queries, targets = multi_vectors(3, 7, 1), multi_vectors(5, 2, 9, 4)
    expected = [
        [sum(max(float(q @ t) for t in target) for q in query) / len(query) for target in targets] for query in queries
    ]
    torch.testing.assert_close(late_scores(queries, targets), torch.tensor(expected))


def test_single_scores_are_cosines_of_the_first_dimensions():
    torch.manual_seed(51)
    queries, targets = torch.randn(3, 16) * 5, torch.randn(4, 16)
    expected = [[torch.cosine_similarity(q[:8], t[:8], dim=0) for t in targets] for q in queries]
    torch.testing.assert_close(single_scores(queries, targets, 8), torch.tensor(expected))


def test_info_nce_leaves_out_what_is_excluded():
    scores = torch.tensor([[0.9, 0.1, 0.8], [0.2, 0.7, 0.3]])
    excluded = torch.tensor([[False, False, True], [False, False, False]])

    def surprise(own, others):
        return -math.log(math.exp(own / 0.1) / sum(math.exp(score / 0.1) for score in (own, *others)))

    # The third target is a hard negative of the second query only, and is asked for by no query.
    rows = surprise(0.9, [0.1]) + surprise(0.7, [0.2, 0.3])
    columns = surprise(0.9, [0.2]) + surprise(0.7, [0.1])
    assert info_nce(scores, torch.tensor(0.1), excluded).item() == pytest.approx((rows / 2 + columns / 2) / 2, abs=1e-6)


def test_cosent_orders_pairs_by_their_grades():
    grades = torch.tensor([1.0, 0.5, 0.0])
    temperature = torch.tensor(0.05)
    right, wrong = (cosent(torch.tensor(scores), grades, temperature) for scores in ([0.9, 0.5, 0.1], [0.1, 0.5, 0.9]))
    differences = [(0.5 - 0.9) / 0.05, (0.1 - 0.9) / 0.05, (0.1 - 0.5) / 0.05]
    assert right.item() == pytest.approx(math.log(1 + sum(map(math.exp, differences))), abs=1e-6)
    assert wrong > 10


def test_the_joint_loss_is_least_where_pairs_match_in_every_way():
    torch.manual_seed(51)

    def loss(noise, order):
        single, multi = torch.randn(4, 32), multi_vectors(6, 6, 6, 6)
        others = [normalize(vectors + noise * torch.randn_like(vectors), dim=-1) for vectors in multi]
        queries = Vectors(single, multi, None)
        targets = Vectors((single + noise * torch.randn_like(single))[order], [others[i] for i in order], None)
        return joint_loss(queries, targets, torch.tensor(0.05), torch.zeros(4, 4, dtype=torch.bool), [8, 32])

    matching, swapped = loss(0.01, [0, 1, 2, 3]), loss(0.01, [1, 0, 3, 2])
    assert matching["single"] < 0.1 < 5 < swapped["single"]
    assert matching["multi"] < 0.1 < 5 < swapped["multi"]
    assert matching["divergence"] < 0.1
