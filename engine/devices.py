"""Chooses devices and types, and copies tensors between host and device."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .arguments import check_choice
from .kernels import multiplies_bfloat16

# Overrides "auto" where a model is loaded by its name alone, as by similarity indexes and the App.
AUTO_PRECISION = "JINA_V4_AUTO_PRECISION"

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Chooses the device.

    Args:
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"`` or a :class:`torch.device`. ``None`` means CUDA
            if there is any, else MPS, else the CPU

    Returns:
        a :class:`torch.device`. That of a CUDA GPU has an index

    Raises:
        ValueError: if there is no such device
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not allowed: expected 'cuda', 'cuda:<index>', 'mps' or 'cpu'"
        ) from error

    check_choice("device", device.type, ("cuda", "mps", "cpu"))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={str(device)!r} is not available: torch {torch.__version__} finds no CUDA GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device={str(device)!r} is not available: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps' is not available: torch finds no Apple GPU")

    # The CPU and MPS are single devices, whatever index is given.
    return device if device.type == "cuda" else torch.device(device.type)


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Chooses the type to compute in.

    Args:
        precision: one of :data:`PRECISIONS`. ``"auto"`` is bfloat16 on a GPU or CPU that multiplies it, float16 on an
            older NVIDIA GPU, and float32 elsewhere, unless the environment variable :data:`AUTO_PRECISION` is set.
            ``"int8"`` is for the CPU only
        device: a :class:`torch.device`

    Returns:
        a :class:`torch.dtype`

    Raises:
        ValueError: if ``precision`` is unknown, or not supported on the device
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "auto" and os.environ.get(AUTO_PRECISION):
        precision = os.environ[AUTO_PRECISION]
        check_choice(AUTO_PRECISION, precision, PRECISIONS)
    if precision == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if multiplies_bfloat16() else torch.float32
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    if precision == "int8" and device.type != "cpu":
        raise ValueError(f"precision='int8' is for the CPU, and the device is {str(device)!r}: use 'auto' there")

    return getattr(torch, precision)


def residual_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the type of the residual stream: float32 for float16, in which the sum could overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


class _ExactFloat32:
    """A context in which float32 products and convolutions are not rounded to TF32 or bfloat16.

    A user may have allowed that, as by ``torch.set_float32_matmul_precision("high")``. The settings are global to the
    process, so the first thread that enters changes them, and the last that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                backends = (
                    torch.backends.cuda.matmul,
                    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
                    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
                )
                self._before = [(backend, backend.fp32_precision) for backend in backends]
                for backend in backends:
                    backend.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for backend, precision in self._before:
                    backend.fp32_precision = precision


exact_float32 = _ExactFloat32()


def free_cache(device: torch.device) -> None:
    """Returns the unused memory that a GPU's allocator caches.

    Args:
        device: a :class:`torch.device`
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


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
