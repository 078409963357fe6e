"""Trains one task's adapter on a frozen backbone, for the demo model and for the real one alike.

What the tasks differ in is their batches: who asks, in which words, and what is to be found.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..engine.processing import Processor, Tokens
from .files import adapter_tensors
from .forward import embed, visual_tokens
from .loop import Loop
from .losses import cosent, joint_loss, single_scores

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class Batch:
    """Pairs that belong together, and what is known of all the others.

    Args:
        queries: a list of :class:`engine.processing.Tokens`, of texts
        targets: a list of :class:`engine.processing.Tokens`, all of texts or all of pages: the queries' own in their
            order, then any hard negatives
        excluded: a bool tensor ``(queries, targets)`` of the pairs that are neither positive nor negative
        grades (None): a tensor ``(queries, targets)`` that says how alike they are, where that is known
    """

    queries: list[Tokens]
    targets: list[Tokens]
    excluded: torch.Tensor
    grades: torch.Tensor | None = None


def train_adapter(
    directory: str | os.PathLike,
    network: "PeftModel",
    task: str,
    processor: Processor,
    matryoshka_dims: Sequence[int],
    batches: Callable[[int], Iterable[Batch]],
    steps: int,
    learning_rate: float = 1e-3,
    save_memory: bool = False,
    identity: dict[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Trains one adapter. All other weights stay as they are.

    Args:
        directory: where the training's state is kept
        network: what :func:`engine.loading.load_network` gave. One of its adapters is trained in place
        task: the adapter's name
        processor: the :class:`engine.processing.Processor`
        matryoshka_dims: the dimensions at which single vectors must be good
        batches: a function of the step to begin with that returns an iterable of :class:`Batch`
        steps: the number of batches
        learning_rate (1e-3): its peak
        save_memory (False): whether to compute what a layer does again for its gradients, in place of keeping it
        identity (None): what else decides the outcome, see :class:`finetuning.loop.Loop`

    Returns:
        a dict of the adapter's tensors, as PEFT names them
    """
    towers: Any = network.base_model.model
    network.set_adapter(task)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        # Steps are too small for the 8 bits of bfloat16's mantissa.
        parameter.data = parameter.data.float()

    if save_memory:
        # transformers does so only in training mode, which changes nothing else: there is no dropout.
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
            # The vision tower has no adapter.
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
