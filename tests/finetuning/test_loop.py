"""A training that is killed goes on as if it had not been."""

import pytest
import torch
from jina_embeddings_v4.finetuning.loop import Loop


class Killed(Exception):
    pass


def train(directory, steps=20, killed_at=None, **identity):
    torch.manual_seed(51)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    bias = torch.nn.Parameter(torch.zeros(4))
    optimizers = [torch.optim.Muon([weight], 0.01), torch.optim.AdamW([bias], 0.01)]
    loop = Loop(directory, {"weight": weight, "bias": bias}, optimizers, steps, 5, identity)

    def batches(start):
        for step in range(start, steps):
            if step == killed_at:
                raise Killed
            yield torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def losses(batch):
        return {"fit": (batch @ weight + bias - batch.flip(1)).square().mean(), "_shown": weight.abs().max()}

    loop.run(batches, losses)
    return weight, bias, loop.history


def test_a_killed_training_goes_on_from_its_last_save(tmp_path):
    weight, bias, history = train(tmp_path / "whole")

    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=13)
    resumed_weight, resumed_bias, resumed_history = train(tmp_path / "killed")

    assert torch.equal(weight, resumed_weight) and torch.equal(bias, resumed_bias)
    assert history == resumed_history and len(history) == 20


def test_a_finished_training_is_not_run_again(tmp_path):
    weight, _, history = train(tmp_path)
    again, _, same_history = train(tmp_path, killed_at=0)
    assert torch.equal(weight, again) and history == same_history


def test_another_training_is_not_taken_for_this_one(tmp_path):
    train(tmp_path, data="abc", rate=0.1)
    for other, told in (
        ({"data": "abd", "rate": 0.1}, "data: 'abc', now 'abd'"),
        ({"data": "abc"}, "rate: 0.1, now None"),
        ({"data": "abc", "rate": 0.1, "steps": 30}, "steps: 20, now 30"),
    ):
        with pytest.raises(ValueError, match=f"holds the state of another training .{told}.: choose another folder"):
            train(tmp_path, **other)


def test_the_losses_fall_and_are_plotted(tmp_path):
    _, _, history = train(tmp_path, steps=200)
    assert history[-1]["fit"] < history[0]["fit"] / 3
    assert (tmp_path / "losses.png").stat().st_size > 1000
