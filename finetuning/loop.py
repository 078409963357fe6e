"""The training loop: seeded, resumable after a kill, with a progress line and a plot of the losses."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


class Loop:
    """Minimises a loss, and goes on from where it was when it is run again.

    Args:
        directory: where the state and the plot are kept
        parameters: a dict of the parameters to train, by name
        optimizers: the list of :class:`torch.optim.Optimizer` that change them. Their learning rates are peaks, reached
            after a warm-up of one step in twenty, from which they fall in a cosine
        steps: the number of steps
        save_every (100): steps between two saves
        identity (None): a dict of what decides the outcome, beside the parameters' shapes: arguments, and digests of
            data, in types that JSON has

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

        def share(step):
            return min((step + 1) / warm_up, 0.03 + 0.97 * (1 + math.cos(math.pi * min(1, step / steps))) / 2)

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._resume()

    @property
    def _state_file(self):
        return self.directory / "state.pt"

    def run(self, batches: Callable[[int], Iterable[Any]], losses: Callable[[Any], dict[str, torch.Tensor]]) -> None:
        """Trains.

        Args:
            batches: a function of the step to begin with that returns an iterable of batches, one a step. What a
                batch holds depends on its step alone, so that a resumed run is the one that was not interrupted
            losses: a function of a batch that returns a dict of losses, whose sum is minimised. Names with an
                underscore in front are shown and not minimised
        """
        if self.step >= self.steps:
            return

        progress = tqdm(total=self.steps, initial=self.step, desc=self.directory.name, unit="step")
        shown: dict[str, float] = {}
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
                shown[name] = 0.95 * shown.get(name, value) + 0.05 * value
            progress.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
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
        other = [name for name in self._identity | saved if self._identity.get(name) != saved.get(name)]
        if other:
            differences = ", ".join(f"{name}: {saved.get(name)!r}, now {self._identity.get(name)!r}" for name in other)
            raise ValueError(
                f"{self.directory} holds the state of another training ({differences}): choose another folder, or "
                "delete this one to begin anew"
            )


def plot_losses(history: Sequence[dict[str, float]], path: str | os.PathLike) -> None:
    """Draws the losses over the steps.

    Args:
        history: a list of dicts, one a step
        path: the PNG to write
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
