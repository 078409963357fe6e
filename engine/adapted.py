"""Linear layers under one of several LoRA adapters (arXiv 2106.09685), at next to no cost.

An adapter adds ``B(A(x))`` to ``W(x)``, where ``A`` and ``B`` have few dimensions in between. It is never added to the
weights ``W`` themselves, so nothing drifts, however often the adapter is switched.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from .linear import make_linear, take_weights


class AdaptedLinear:
    """Layers that share their input, as one: ``W(x)``, and ``B(A(x))`` added to it.

    The layers' own weights are taken out of them.

    Args:
        module: the module that the layers are parts of
        names: the list of the layers' names in it. Each is a :class:`torch.nn.Linear`, or PEFT's wrapper around one
        int8 (False): whether to round their weights to 8 bits. The adapters' are not
    """

    def __init__(self, module: nn.Module, names: Sequence[str], int8: bool = False) -> None:
        self._module, self._names = module, names
        self._prepared: weakref.WeakKeyDictionary[nn.Module, tuple[torch.Tensor, torch.Tensor]] = (
            weakref.WeakKeyDictionary()
        )
        bases = [getattr(layer, "base_layer", layer) for layer in self._layers()]
        self.inputs, self._outputs = bases[0].in_features, [base.out_features for base in bases]
        self._dtype = torch.float32 if int8 else bases[0].weight.dtype
        self._device = bases[0].weight.device
        self._set_weights(*take_weights(bases), int8)

    def _layers(self):
        return [getattr(self._module, name) for name in self._names]

    def _set_weights(self, weight, bias, int8):
        self._linear = make_linear(weight, bias, int8)

    def use(self, adapter: str) -> None:
        """Applies an adapter from now on.

        Args:
            adapter: its name. To a layer that it does not reach, nothing is added
        """
        self._inner, self._outer = self._factors(adapter)

    def _factors(self, adapter):
        """The layers' ``A``, one above the other, and their scaled ``B``, in blocks along a diagonal."""
        adapted = [layer for layer in self._layers() if adapter in getattr(layer, "lora_A", {})]
        if not adapted:
            return self._new_factors(adapter)

        # As long as PEFT has the adapter.
        key = adapted[0].lora_A[adapter]
        if key not in self._prepared:
            self._prepared[key] = self._new_factors(adapter)
        return self._prepared[key]

    def _new_factors(self, adapter):
        ranks = [
            len(layer.lora_A[adapter].weight) if adapter in getattr(layer, "lora_A", {}) else 0
            for layer in self._layers()
        ]
        width = self._width_for(sum(ranks))
        inner = torch.zeros(width, self.inputs, dtype=self._dtype, device=self._device)
        outer = torch.zeros(sum(self._outputs), width, dtype=self._dtype, device=self._device)
        row = column = 0
        for layer, rank, outputs in zip(self._layers(), ranks, self._outputs, strict=True):
            if rank:
                a, b = inner[column : column + rank], outer[row : row + outputs, column : column + rank]
                a.copy_(layer.lora_A[adapter].weight.data)
                torch.mul(layer.lora_B[adapter].weight.data, layer.scaling[adapter], out=b)
                # Held once.
                layer.lora_A[adapter].weight.data = a
                if layer.scaling[adapter] == 1:
                    layer.lora_B[adapter].weight.data = b
            row, column = row + outputs, column + rank
        return inner, outer

    def _width_for(self, rank):
        """How many dimensions the adapter has in between here, of which it fills ``rank``."""
        return rank

    def adapter_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The tensors that the applied adapter is computed with."""
        return self._inner, self._outer

    def input_buffer(self, tokens: int) -> torch.Tensor:
        """Returns an empty tensor for :meth:`__call__`, whose first :attr:`inputs` columns the caller fills."""
        return torch.empty(tokens, self.inputs, dtype=self._dtype, device=self._device)

    def __call__(self, buffer: torch.Tensor) -> torch.Tensor:
        """Computes the layers.

        Args:
            buffer: what :meth:`input_buffer` gave, a tensor ``(tokens, columns)``, its first columns filled

        Returns:
            a tensor ``(tokens, sum of the layers' outputs)``
        """
        return self._linear(buffer).addmm_(buffer @ self._inner.T, self._outer.T)


class FusedAdaptedLinear(AdaptedLinear):
    """The same in one product, for GPUs, on which to read and write the whole output once more would be felt.

    ``B`` lies beside ``W``, and ``A(x)`` beside ``x``:

        [x, A(x)] @ [W, B].T  =  W(x) + B(A(x))

    To switch, the other adapter's ``B`` is copied to its place.
    """

    def _set_weights(self, weight, bias, int8):
        self._bias = bias
        self._weight = weight
        self._widen(
            sum(
                max((len(a.weight) for a in getattr(layer, "lora_A", {}).values()), default=0)
                for layer in self._layers()
            )
        )

    def _widen(self, rank):
        """Makes place for adapters of a rank."""
        wider = self._weight.new_empty(len(self._weight), self.inputs + rank)
        wider[:, : self.inputs] = self._weight[:, : self.inputs]
        self._weight = wider

    def _width_for(self, rank):
        if self.inputs + rank > self._weight.shape[1]:
            self._widen(rank)
            self._prepared.clear()
        return self._weight.shape[1] - self.inputs

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


def adapted_linear(module: nn.Module, names: Sequence[str], int8: bool = False) -> AdaptedLinear:
    """Makes an :class:`AdaptedLinear` of the kind that suits the device."""
    layer = getattr(module, names[0])
    return _kind(getattr(layer, "base_layer", layer))(module, names, int8)


def _kind(layer):
    return FusedAdaptedLinear if layer.weight.device.type == "cuda" else AdaptedLinear
