"""Copies tensors between host and device, without a GPU that waits for it."""

from collections.abc import Sequence

import numpy as np
import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor from the host. To a GPU, the copy is asynchronous, from pinned memory."""
    if device.type != "cuda":
        return tensor.to(device)

    return tensor.pin_memory().to(device, non_blocking=True)


def join_on_device(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Concatenates tensors on the host and copies them. To a GPU, the copy is asynchronous, from pinned memory.

    Args:
        tensors: tensors of one type, which are flattened
        device: a :class:`torch.device`

    Returns:
        a tensor ``(elements of all,)``
    """
    if device.type != "cuda":
        return torch.cat([tensor.flatten() for tensor in tensors]).to(device)

    buffer = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, pin_memory=True)
    for tensor, part in zip(tensors, buffer.split([tensor.numel() for tensor in tensors]), strict=True):
        # By numpy, in this thread: torch's threads would wait for each other while a data loader's workers keep the
        # cores busy.
        np.copyto(part.numpy(), tensor.flatten().numpy())
    return buffer.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copies a tensor to the host. From a GPU, the copy is asynchronous: record an event, and wait for it."""
    return tensor.to("cpu", non_blocking=tensor.is_cuda)
