"""The training loop, which is resumable and shows its progress and a plot of the losses."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


class Loop:
    """Minimises a loss. If it was interrupted, it continues from the last save.

    Args:
        directory: the folder of the state and the plot
        parameters: a dict of the parameters to train by name
        optimizers: a list of :class:`torch.optim.Optimizer` of these parameters. Their learning rates are peaks, which
            are reached after a warm-up of 5% of the steps, and then decay by a cosine schedule
        steps: the number of steps
        save_every (100): the number of steps between two saves
        identity (None): a dict, of JSON types, of values that determine the outcome, such as arguments and digests of
            data. A saved state is only continued with the same values

    Raises:
        ValueError: if the directory holds the state of a training with another identity
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        parameters: dict[str, torch.nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
        save_every: int = 100,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.steps = steps
        self._identity = {"steps": steps} | (identity or {})
        self._parameters = parameters
        self._save_every = save_every
        self._optimizers = optimizers
        warm_up = max(1, steps // 20)

        def rate_factor(step):
            return min((step + 1) / warm_up, 0.03 + 0.97 * (1 + math.cos(math.pi * min(1, step / steps))) / 2)

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor) for optimizer in optimizers]
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._resume()

    @property
    def _state_file(self):
        return self.directory / "state.pt"

    def run(self, batches: Callable[[int], Iterable[Any]], losses: Callable[[Any], dict[str, torch.Tensor]]) -> None:
        """Trains.

        Args:
            batches: a function of the first step that returns an iterable of batches, one per step. A batch must depend
                only on its step, so that a resumed run equals an uninterrupted one
            losses: a function of a batch that returns a dict of losses by name, whose sum is minimised. Those whose
                names begin with an underscore are shown, and not minimised
        """
        if self.step >= self.steps:
            return

        progress = tqdm(total=self.steps, initial=self.step, desc=self.directory.name, unit="step")
        averages: dict[str, float] = {}
        for batch in batches(self.step):
            parts = losses(batch)
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)
            reduce(torch.add, (value for name, value in parts.items() if not name.startswith("_"))).backward()
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
            for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
                optimizer.step()
                schedule.step()
            self.step += 1

            values = {name.lstrip("_"): float(value.detach()) for name, value in parts.items()}
            self.history.append(values)
            for name, value in values.items():
                averages[name] = 0.95 * averages.get(name, value) + 0.05 * value
            progress.set_postfix({name: f"{value:.3f}" for name, value in averages.items()}, refresh=False)
            progress.update()
            if self.step % self._save_every == 0 or self.step == self.steps:
                self._save()
            if self.step == self.steps:
                break

        progress.close()

    def _save(self):
        state = {
            "identity": self._identity,
            "step": self.step,
            "parameters": {name: parameter.detach() for name, parameter in self._parameters.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "history": self.history,
        }
        unfinished = self._state_file.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, self._state_file)
        plot_losses(self.history, self.directory / "losses.png")

    def _resume(self):
        if not self._state_file.exists():
            return

        state = torch.load(self._state_file, map_location="cpu", weights_only=True)
        self._check_identity(state.get("identity", {}))
        self.step, self.history = state["step"], state["history"]
        for name in ("optimizers", "schedules"):
            for target, saved in zip(getattr(self, f"_{name}"), state[name], strict=True):
                target.load_state_dict(saved)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state["parameters"][name])

    def _check_identity(self, saved):
        changed = [name for name in self._identity | saved if self._identity.get(name) != saved.get(name)]
        if changed:
            values = ", ".join(f"{name}: {saved.get(name)!r}, now {self._identity.get(name)!r}" for name in changed)
            raise ValueError(
                f"{self.directory} holds the state of another training ({values}): choose another folder, or delete "
                "this one to start again"
            )


def plot_losses(history: Sequence[dict[str, float]], path: str | os.PathLike) -> None:
    """Plots the losses over the steps.

    Args:
        history: a list of dicts of losses by name, one per step
        path: the path of the PNG file to write
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for values in history for name in values))
    figure, axes = pyplot.subplots(len(names), figsize=(8, 2 * len(names)), sharex=True, squeeze=False)
    window = max(1, len(history) // 200)
    for (axis,), name in zip(axes, names, strict=True):
        values = [values.get(name, math.nan) for values in history]
        means = [sum(values[i : i + window]) / window for i in range(0, len(values) - window + 1, window)]
        axis.plot(range(window, len(values) + 1, window), means)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)

    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
