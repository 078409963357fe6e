"""Linear layers with one of several LoRA adapters (arXiv 2106.09685), at little extra cost.

An adapter adds ``B(A(x))`` to ``W(x)``, where ``A(x)`` has few dimensions. It is never merged into the weights ``W``,
so switching adapters accumulates no rounding errors.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from .linear import make_linear, take_weights


class AdaptedLinear:
    """Computes layers that share their input as one: ``W(x) + B(A(x))``.

    Takes ownership of the layers' weights; the layers cannot run afterwards.

    Args:
        module: the module that contains the layers
        names: the layers' names in the module. Each is a :class:`torch.nn.Linear`, or PEFT's wrapper around one
        int8 (False): whether to round the layers' weights to 8 bits. The adapters' weights are not rounded
        rank (0): the rank of the adapters to come, for which room may be made
    """

    def __init__(self, module: nn.Module, names: Sequence[str], int8: bool = False, rank: int = 0) -> None:
        self._module, self._names = module, names
        self._prepared: weakref.WeakKeyDictionary[nn.Module, tuple[torch.Tensor, torch.Tensor]] = (
            weakref.WeakKeyDictionary()
        )
        bases = [getattr(layer, "base_layer", layer) for layer in self._layers()]
        self.inputs, self._outputs = bases[0].in_features, [base.out_features for base in bases]
        self._dtype = torch.float32 if int8 else bases[0].weight.dtype
        self._device = bases[0].weight.device
        self._set_weights(*take_weights(bases), int8, rank * len(names))

    def _layers(self):
        return [getattr(self._module, name) for name in self._names]

    def _set_weights(self, weight, bias, int8, rank):
        self._linear = make_linear(weight, bias, int8)

    def use(self, adapter: str) -> None:
        """Applies an adapter from now on.

        Args:
            adapter: its name. Layers that the adapter does not have compute ``W(x)`` alone
        """
        self._inner, self._outer = self._factors(adapter)

    def _factors(self, adapter):
        """Returns the layers' ``A``, stacked, and their scaled ``B``, in the form of :meth:`_empty_outer`."""
        adapted = [layer for layer in self._layers() if adapter in getattr(layer, "lora_A", {})]
        if not adapted:
            return self._new_factors(adapter)

        # A weak key: the factors are freed when PEFT deletes the adapter.
        key = adapted[0].lora_A[adapter]
        if key not in self._prepared:
            self._prepared[key] = self._new_factors(adapter)
        return self._prepared[key]

    def _new_factors(self, adapter):
        ranks = [
            len(layer.lora_A[adapter].weight) if adapter in getattr(layer, "lora_A", {}) else 0
            for layer in self._layers()
        ]
        inner = self._zeros(self._width_for(sum(ranks)), self.inputs)
        outer, blocks = self._empty_outer(ranks, len(inner))
        column = 0
        for layer, rank, b in zip(self._layers(), ranks, blocks, strict=True):
            if rank:
                a = inner[column : column + rank]
                a.copy_(layer.lora_A[adapter].weight.data)
                torch.mul(layer.lora_B[adapter].weight.data, layer.scaling[adapter], out=b)
                # PEFT's parameters become views, so that the weights are in memory once.
                layer.lora_A[adapter].weight.data = a
                if layer.scaling[adapter] == 1:
                    layer.lora_B[adapter].weight.data = b
            column += rank
        return inner, outer

    def _zeros(self, rows, columns):
        return torch.zeros(rows, columns, dtype=self._dtype, device=self._device)

    def _width_for(self, rank):
        """Returns the dimensions reserved for ``A(x)``, of which the adapter fills ``rank``."""
        return rank

    def _empty_outer(self, ranks, width):
        """Makes room for the layers' ``B``: what :meth:`use` applies, and the tensor of each layer in it."""
        blocks = [self._zeros(outputs, rank) for outputs, rank in zip(self._outputs, ranks, strict=True)]
        return blocks, blocks

    def adapter_weights(self) -> tuple[torch.Tensor, ...]:
        """Returns the tensors that the applied adapter is computed with."""
        return self._inner, *self._outer

    def input_buffer(self, tokens: int) -> torch.Tensor:
        """Returns an empty input for :meth:`__call__`. The caller fills its first :attr:`inputs` columns."""
        return torch.empty(tokens, self.inputs, dtype=self._dtype, device=self._device)

    def __call__(self, buffer: torch.Tensor) -> torch.Tensor:
        """Computes the layers.

        Args:
            buffer: the filled tensor ``(tokens, columns)`` from :meth:`input_buffer`

        Returns:
            a tensor ``(tokens, sum of the layers' outputs)``
        """
        outputs, inner = self._linear(buffer), buffer @ self._inner.T
        # Layer by layer: as one block-diagonal matrix, most of which is zeros, they would take twice the memory.
        row = column = 0
        for block in self._outer:
            outputs[:, row : row + len(block)].addmm_(inner[:, column : column + block.shape[1]], block.T)
            row, column = row + len(block), column + block.shape[1]
        return outputs


class FusedAdaptedLinear(AdaptedLinear):
    """The same with one product for ``W`` and ``B``, for GPUs, where a second pass over the output is slow.

    ``B`` is stored next to ``W``, as a block-diagonal matrix, and ``A(x)`` next to ``x``:

        [x, A(x)] @ [W, B].T  =  W(x) + B(A(x))

    Switching copies the other adapter's ``B`` next to ``W``.
    """

    def _set_weights(self, weight, bias, int8, rank):
        self._bias = bias
        self._weight = weight
        self._widen(rank)

    def _widen(self, rank):
        """Reserves columns for adapters of up to a rank."""
        wider = self._weight.new_empty(len(self._weight), self.inputs + rank)
        wider[:, : self.inputs] = self._weight[:, : self.inputs]
        self._weight = wider

    def _width_for(self, rank):
        if self.inputs + rank > self._weight.shape[1]:
            self._widen(rank)
            self._prepared.clear()
        return self._weight.shape[1] - self.inputs

    def _empty_outer(self, ranks, width):
        outer, blocks = self._zeros(sum(self._outputs), width), []
        row = column = 0
        for outputs, rank in zip(self._outputs, ranks, strict=True):
            blocks.append(outer[row : row + outputs, column : column + rank])
            row, column = row + outputs, column + rank
        return outer, blocks

    def use(self, adapter: str) -> None:
        super().use(adapter)
        self._weight[:, self.inputs :] = self._outer

    def adapter_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._inner, self._weight

    def input_buffer(self, tokens: int) -> torch.Tensor:
        return self._weight.new_empty(tokens, self._weight.shape[1])

    def __call__(self, buffer: torch.Tensor) -> torch.Tensor:
        torch.mm(buffer[:, : self.inputs], self._inner.T, out=buffer[:, self.inputs :])
        return linear(buffer, self._weight, self._bias)


def adapted_linear(module: nn.Module, names: Sequence[str], int8: bool = False, rank: int = 0) -> AdaptedLinear:
    """Creates the :class:`AdaptedLinear` that is fastest on the layers' device."""
    layer = getattr(module, names[0])
    return _kind(getattr(layer, "base_layer", layer))(module, names, int8, rank)


def _kind(layer):
    return FusedAdaptedLinear if layer.weight.device.type == "cuda" else AdaptedLinear
