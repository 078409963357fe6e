"""Linear layers, in the form that is fastest on the processor."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import linear

from .kernels import int8_product, multiplies_uint8, pack, pack_int8, packed_linear, packed_uint8_linear, packs

# Tokens at a time, so that intermediate results stay in the cache.
_ROWS = 1024


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, int8: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Creates a linear layer.

    Args:
        weight: a tensor ``(outputs, inputs)``. The layer may keep it
        bias (None): a tensor ``(outputs,)``
        int8 (False): whether to round the weights to 8 bits

    Returns:
        a function from a tensor ``(tokens, inputs)`` to one ``(tokens, outputs)``
    """
    if int8:
        return PackedInt8Linear(weight, bias) if multiplies_uint8() else Int8Linear(weight, bias)

    can_pack = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and packs(weight.dtype)
    return PackedLinear(weight, bias) if can_pack else PlainLinear(weight, bias)


class PlainLinear:
    """A linear layer by PyTorch's own operator."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs, self._weight, self._bias)


class PackedLinear:
    """A linear layer with weights in the layout of oneDNN's kernels for this CPU.

    Without it, each product reorders the weights, which for a short text takes longer than the product.
    torch's compiler uses the same operators for the layers of a frozen model.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = pack(weight), bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return packed_linear(inputs, self._weight, self._bias)


class Int8Linear:
    """A linear layer in 8-bit integers, for CPUs, whose integer units are faster than their float units.

    Each row of the weights has its own scale, and so has each input token, so a token with large values does not
    reduce the precision of the others.

    Args:
        weight: a tensor ``(outputs, inputs)``
        bias (None): a tensor ``(outputs,)``
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._product, largest = int8_product()
        rounded, self._scale = _round_weight(weight, largest)
        # Transposed, since the product reads this layout fastest.
        self._weight = rounded.T.contiguous()
        self._bias = None if bias is None else bias.float()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the layer.

        Args:
            inputs: a float32 tensor ``(tokens, inputs)``

        Returns:
            a float32 tensor ``(tokens, outputs)``
        """
        outputs = inputs.new_empty(len(inputs), self._weight.shape[1])
        for rows, results in zip(inputs.split(_ROWS), outputs.split(_ROWS), strict=True):
            scale = _row_scales(rows, 127)
            rounded = (rows / scale).round_().to(torch.int8)
            results.copy_(self._product(rounded, self._weight)).mul_(self._scale).mul_(scale)
            if self._bias is not None:
                results.add_(self._bias)
        return outputs


class PackedInt8Linear:
    """The same by oneDNN's kernels, which read unsigned inputs, and apply the scales of the weights themselves.

    Args:
        weight: a tensor ``(outputs, inputs)``
        bias (None): a tensor ``(outputs,)``
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        rounded, self._scale = _round_weight(weight, 127)
        self._weight = pack_int8(rounded)
        self._bias = torch.zeros_like(self._scale) if bias is None else bias.float()
        # The zero point, and what makes truncation a rounding.
        self._offset = torch.tensor(128.5)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the layer, see :meth:`Int8Linear.__call__`."""
        outputs = inputs.new_empty(len(inputs), len(self._scale))
        for rows, results in zip(inputs.split(_ROWS), outputs.split(_ROWS), strict=True):
            scale = _row_scales(rows, 127)
            rounded = torch.addcmul(self._offset, rows, scale.reciprocal()).to(torch.uint8)
            product = packed_uint8_linear(rounded, self._weight, self._scale)
            torch.addcmul(self._bias, product, scale, out=results)
        return outputs


def _row_scales(matrix, largest):
    """Returns the scale of each row ``(rows, 1)`` at which its largest value becomes ``largest``."""
    return matrix.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(largest)


def _round_weight(weight, largest):
    """Rounds weights to int8 of up to ``largest``, and returns them and the scale of each row ``(rows,)``."""
    rounded = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), 1)
    # Some rows at a time, since in float32 a matrix takes four times its memory in int8.
    for rows, rounded_rows, scale in zip(*(part.split(_ROWS) for part in (weight, rounded, scales)), strict=True):
        rows = rows.float()
        scale.copy_(_row_scales(rows, largest))
        rounded_rows.copy_((rows / scale).round_())
    return rounded, scales.squeeze(1)


def take_weights(layers: Sequence[nn.Linear | nn.Conv3d]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Takes the weights out of layers that share their input, so that they are in memory once.

    Args:
        layers: a list of :class:`torch.nn.Linear`

    Returns:
        the weights, a tensor ``(sum of the layers' outputs, inputs)``, and the biases, or ``None``
    """
    weights, biases = [layer.weight.data for layer in layers], [layer.bias for layer in layers]
    bias = None if biases[0] is None else torch.cat([cast(torch.Tensor, bias).data for bias in biases])
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    for layer in layers:
        layer.weight.data = layer.weight.data.new_empty(0)
    return weight, bias
