"""The operations between a layer's matrix products: sums and norms, rotations, gates.

They are bound by memory: with PyTorch's operators, they take as long on a GPU as the products. There, each is one fused
kernel (:mod:`engine.triton_kernels`). Elsewhere, and as the ground truth, PyTorch's operators are used.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import silu

from .kernels import fuses

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm


# The most bytes of an intermediate result on a CPU. The C library keeps freed blocks for the next step, up to some 60
# MB of them. Others come from the system anew each time, which zeroes them page by page.
_STEP_BYTES = 8 * 2**20


def tokens_at_once(width: int, dtype: torch.dtype, device: torch.device) -> int:
    """Chooses the number of tokens for which a layer is computed at once.

    Args:
        width: the dimensions of its widest intermediate result
        dtype: the type of the result
        device: the device. Only on a CPU, the number has a limit

    Returns:
        the number, at least 64
    """
    if device.type != "cpu":
        return sys.maxsize

    return max(64, _STEP_BYTES // (width * dtype.itemsize) // 64 * 64)


class Residual:
    """The residual stream: the embedded tokens, plus the layers' outputs.

    An addition is deferred to the next norm, which reads the sum anyway.

    Args:
        values: a tensor ``(tokens, hidden)``, which is overwritten
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values
        self._added: torch.Tensor | None = None
        self._fuses = fuses(values.device)

    def __len__(self) -> int:
        return len(self._values)

    def steps(self, tokens: int) -> Iterator["Residual"]:
        """Yields the residual streams of consecutive tokens, as views.

        Args:
            tokens: the most tokens of a step
        """
        if len(self) <= tokens:
            yield self
        else:
            for start in range(0, len(self), tokens):
                yield self.part(slice(start, start + tokens))

    def part(self, tokens: slice) -> "Residual":
        """Returns the residual stream of some tokens, a view. ``slice(None)`` is the whole."""
        return self if tokens == slice(None) else Residual(self._values[tokens])

    def add(self, outputs: torch.Tensor) -> None:
        """Adds a layer's output.

        Args:
            outputs: a tensor ``(tokens, hidden)``, which the caller must not change afterwards
        """
        if self._fuses and self._added is None:
            self._added = outputs
        else:
            self._values += outputs

    def norm(
        self, norm: "Qwen2_5_VLRMSNorm", out: torch.Tensor | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Normalises the sum (RMSNorm, arXiv 1910.07467).

        Args:
            norm: a module with ``weight`` and ``variance_epsilon``
            out (None): the tensor to write to, of any floating type
            dtype (None): the type of the result if ``out`` is ``None``. ``None`` means the type of the sum

        Returns:
            ``out``, or a new tensor
        """
        dtype = dtype or self._values.dtype
        if not self._fuses:
            normed = norm(self._values)
            return normed.to(dtype) if out is None else out.copy_(normed)

        from .triton_kernels import add_norm

        if out is None:
            out = torch.empty_like(self._values, dtype=dtype)
        add_norm(self._values, self._added, norm.weight, norm.variance_epsilon, out)
        self._added = None
        return out


def rotate(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the two halves of each head's vector by its position's angles (RoPE, arXiv 2104.09864).

    Args:
        vectors: a tensor ``(tokens, heads, head_dim)``, contiguous in its last two dimensions. May be overwritten
        cos: a tensor ``(tokens, head_dim / 2)``
        sin: a tensor like ``cos``

    Returns:
        a tensor like ``vectors``
    """
    if fuses(vectors.device):
        from .triton_kernels import rotate

        rotate(vectors, cos, sin)
        return vectors

    cos, sin = cos[:, None], sin[:, None]
    exact = vectors.to(cos.dtype)
    first, second = exact.chunk(2, dim=-1)
    rotated = torch.empty_like(exact, memory_format=torch.contiguous_format)
    first_out, second_out = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=first_out).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=second_out).addcmul_(first, sin, value=1)
    return rotated.to(vectors.dtype)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Computes ``silu(gate) * up``, the middle of a gated MLP (SwiGLU, arXiv 2002.05202).

    Args:
        gate_up: a tensor ``(tokens, 2 * inner)``: the gates, then the gated values. May be overwritten
        out (None): the tensor ``(tokens, inner)`` to write to

    Returns:
        ``out``, or a tensor like it
    """
    gate, up = gate_up.chunk(2, dim=-1)
    if not fuses(gate_up.device):
        return torch.mul(silu(gate, inplace=True), up, out=out)

    from .triton_kernels import silu_mul

    out = torch.empty_like(gate, memory_format=torch.contiguous_format) if out is None else out
    silu_mul(gate_up, out)
    return out
