"""Splits batches that do not fit into memory."""

import gc
from collections.abc import Callable, Sequence, Sized
from typing import TypeVar

import torch

# The allocators of the CPU, MPS, cuBLAS and cuDNN raise plain RuntimeErrors with these messages. cuBLAS says "not
# initialized" if there was no memory for its workspace.
_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_alloc_failed",
    "invalid buffer size",
)


Input = TypeVar("Input", bound=Sized)
Result = TypeVar("Result")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error).lower() for message in _MESSAGES)


def in_halves(
    function: Callable[[Sequence[Input]], list[Result]],
    inputs: Sequence[Input],
    failed: Callable[[Sequence[Input]], None] | None = None,
) -> list[Result]:
    """Calls a function with a batch. If it runs out of memory, calls it with each half, recursively.

    Args:
        function: a function of a list of inputs that returns a list of results
        inputs: a list of inputs, whose ``len()`` is their number of tokens
        failed (None): a function to call with each list of inputs that did not fit into memory

    Returns:
        the list of results

    Raises:
        MemoryError: if a single input does not fit
    """
    try:
        return function(inputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)

    # Outside the except block, whose traceback keeps the failed call's tensors alive.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

    if len(inputs) == 1:
        raise MemoryError(
            f"One input of {len(inputs[0])} tokens does not fit into memory: {reason}. Lower `max_pixels`, free "
            "memory, or load the model with a smaller `precision`"
        )
    if failed is not None:
        failed(inputs)

    half = len(inputs) // 2
    return in_halves(function, inputs[:half], failed) + in_halves(function, inputs[half:], failed)
