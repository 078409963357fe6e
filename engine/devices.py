"""Where to compute and in which type, and tensors on their way there and back."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .arguments import check_choice
from .kernels import multiplies_bfloat16

# What "auto" is, where this is set: for indexes and the App, which load models by their names alone.
AUTO_PRECISION = "JINA_V4_AUTO_PRECISION"

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Chooses where to run.

    Args:
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"`` or a :class:`torch.device`. ``None`` means CUDA
            if there is any, else MPS, else the CPU

    Returns:
        a :class:`torch.device`, with its index where it is a CUDA GPU

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
            raise ValueError(f"device={str(device)!r} is not there: torch {torch.__version__} finds no CUDA GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device={str(device)!r} is not there: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps' is not there: torch finds no Apple GPU")

    # There is one of each of the others, by whatever index.
    return device if device.type == "cuda" else torch.device(device.type)


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Chooses the type that the model computes in.

    Args:
        precision: one of :data:`PRECISIONS`. ``"auto"`` is bfloat16 on a GPU or CPU that multiplies it, float16 on an
            older GPU of NVIDIA's, and float32 elsewhere, unless the environment variable :data:`AUTO_PRECISION` names
            another. ``"int8"`` is for the CPU alone
        device: a :class:`torch.device`

    Returns:
        a :class:`torch.dtype`

    Raises:
        ValueError: if ``precision`` is not one of them, or not for the device
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
        raise ValueError(f"precision='int8' is for the CPU, and the device is {str(device)!r}: take 'auto' there")

    return getattr(torch, precision)


def residual_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the type in which layers' outputs are added up: for float16, one in which the sum cannot overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


class _ExactFloat32:
    """While any thread is in it, products and convolutions of float32 are of float32.

    A person may allow others to round to TF32 or bfloat16, as by ``torch.set_float32_matmul_precision("high")``. The
    settings are the process's, so the first thread to enter changes them, and the last one to leave restores them.
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
    """Gives back what the allocator of a GPU holds for later.

    Args:
        device: a :class:`torch.device`
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor from the host. A GPU does not stop for it: it copies when what it was asked before is done."""
    if device.type != "cuda":
        return tensor.to(device)

    return tensor.pin_memory().to(device, non_blocking=True)


def join_on_device(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Copies tensors from the host, end to end, by way of one buffer that a GPU reads without stopping for it.

    Args:
        tensors: a list of tensors of one type, each taken flat
        device: a :class:`torch.device`

    Returns:
        a tensor ``(elements of all,)``
    """
    if device.type != "cuda":
        return torch.cat([tensor.flatten() for tensor in tensors]).to(device)

    buffer = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, pin_memory=True)
    for tensor, part in zip(tensors, buffer.split([tensor.numel() for tensor in tensors]), strict=True):
        # By numpy in this thread: those of torch would wait for each other, while a data loader's workers keep the
        # cores busy.
        np.copyto(part.numpy(), tensor.flatten().numpy())
    return buffer.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copies a tensor to the host. Of a GPU's, the values are there once an event that is recorded next has come."""
    return tensor.to("cpu", non_blocking=tensor.is_cuda)
