"""Trains one task's adapter on a frozen backbone, for both the demo model and the real one.

The tasks differ only in their batches: the queries, the targets, and which pairs belong together.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .files import adapter_tensors
from .forward import embed, visual_tokens
from .loop import Loop
from .losses import cosent, joint_loss, single_scores

if TYPE_CHECKING:
    from peft import PeftModel

    from ..engine.processing import Processor, Tokens


@dataclass
class Batch:
    """A batch of queries and targets.

    Args:
        queries: a list of :class:`engine.processing.Tokens` of texts
        targets: a list of :class:`engine.processing.Tokens`, all of texts or all of pages: the queries' positives in
            their order, then any hard negatives
        excluded: a bool tensor ``(queries, targets)`` of the pairs that are neither positive nor negative
        grades (None): a tensor ``(queries, targets)`` of graded similarities, if they are known
    """

    queries: "list[Tokens]"
    targets: "list[Tokens]"
    excluded: torch.Tensor
    grades: torch.Tensor | None = None


def train_adapter(
    directory: str | os.PathLike,
    network: "PeftModel",
    task: str,
    processor: "Processor",
    matryoshka_dims: Sequence[int],
    batches: Callable[[int], Iterable[Batch]],
    steps: int,
    learning_rate: float = 1e-3,
    save_memory: bool = False,
    identity: dict[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Trains one adapter. All other weights are frozen.

    Args:
        directory: the folder of the training state
        network: the network that :func:`engine.loading.load_network` returns. One of its adapters is trained in place
        task: the adapter's name
        processor: the :class:`engine.processing.Processor`
        matryoshka_dims: the dimensions at which single vectors are trained
        batches: a function of the first step that returns an iterable of :class:`Batch`
        steps: the number of batches
        learning_rate (1e-3): the peak learning rate
        save_memory (False): whether to use gradient checkpointing, which recomputes activations instead of keeping them
        identity (None): further values that determine the outcome, see :class:`finetuning.loop.Loop`

    Returns:
        a dict of the adapter's tensors by PEFT's names
    """
    towers: Any = network.base_model.model
    network.set_adapter(task)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        # The steps are too small for bfloat16, whose significand has 8 bits.
        parameter.data = parameter.data.float()

    if save_memory:
        # transformers checkpoints only in training mode, which changes nothing else: there is no dropout.
        towers.model.language_model.gradient_checkpointing_enable()
        towers.train()

    device = towers.model.device
    log_temperature = nn.Parameter(torch.tensor(0.05, device=device).log())
    parameters = trained | {"log_temperature": log_temperature}
    optimizer = torch.optim.AdamW(parameters.values(), learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    identity = {"task": task, "learning_rate": learning_rate} | (identity or {})
    loop = Loop(directory, parameters, [optimizer], steps, identity=identity)

    def losses(batch):
        visual = None
        if batch.targets[0].image is not None:
            # The vision tower has no adapter, so it needs no gradients.
            with torch.no_grad():
                visual = visual_tokens(towers, batch.targets, processor.image_settings)

        queries, targets = embed(towers, batch.queries), embed(towers, batch.targets, visual)
        temperature = log_temperature.exp().clamp(min=0.02)
        parts = joint_loss(queries, targets, temperature, batch.excluded.to(device), matryoshka_dims)
        if batch.grades is not None:
            scores = single_scores(queries.single, targets.single)
            parts["order"] = cosent(scores.flatten(), batch.grades.to(device).flatten(), temperature)

        return parts | {"_temperature": temperature}

    loop.run(batches, losses)
    network.requires_grad_(False).eval()
    return adapter_tensors(network, task)
