"""Linear layers under one of several LoRA adapters (arXiv 2106.09685), at next to no cost.

An adapter adds ``B(A(x))`` to ``W(x)``, where ``A`` and ``B`` have few dimensions in between. It is never added to the
weights ``W`` themselves, so nothing drifts, however often the adapter is switched.
"""

import torch
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

    def __init__(self, module, names, int8=False):
        self._module, self._names = module, names
        bases = [getattr(layer, "base_layer", layer) for layer in self._layers()]
        self.inputs, self._outputs = bases[0].in_features, [base.out_features for base in bases]
        self._dtype = torch.float32 if int8 else bases[0].weight.dtype
        self._device = bases[0].weight.device
        self._put(*take_weights(bases), int8)

    def _layers(self):
        return [getattr(self._module, name) for name in self._names]

    def _put(self, weight, bias, int8):
        self._linear = make_linear(weight, bias, int8)

    def use(self, adapter):
        """Applies an adapter from now on.

        Args:
            adapter: its name. To a layer that it does not reach, nothing is added
        """
        self._inner, self._outer = self._factors(adapter)

    def _factors(self, adapter):
        """The layers' ``A``, one above the other, and their scaled ``B``, in blocks along a diagonal."""
        inner, outer = [], []
        for layer, outputs in zip(self._layers(), self._outputs, strict=True):
            if adapter in getattr(layer, "lora_A", {}):
                inner.append(layer.lora_A[adapter].weight.data)
                outer.append(layer.lora_B[adapter].weight.data * layer.scaling[adapter])
            else:
                inner.append(torch.empty(0, self.inputs, device=self._device))
                outer.append(torch.empty(outputs, 0, device=self._device))
        return torch.cat(inner).to(self._dtype), torch.block_diag(*outer).to(self._dtype)

    def room(self, tokens):
        """Returns an empty tensor for :meth:`__call__`, whose first :attr:`inputs` columns the caller fills."""
        return torch.empty(tokens, self.inputs, dtype=self._dtype, device=self._device)

    def __call__(self, room):
        """Computes the layers.

        Args:
            room: what :meth:`room` gave, a tensor ``(tokens, columns)``, its first columns filled

        Returns:
            a tensor ``(tokens, sum of the layers' outputs)``
        """
        return self._linear(room).addmm_(room @ self._inner.T, self._outer.T)


class FusedAdaptedLinear(AdaptedLinear):
    """The same in one product, for GPUs, on which to read and write the whole output once more would be felt.

    ``B`` lies beside ``W``, and ``A(x)`` beside ``x``:

        [x, A(x)] @ [W, B].T  =  W(x) + B(A(x))

    To switch, the other adapter's ``B`` is copied to its place.
    """

    def _put(self, weight, bias, int8):
        self._bias = bias
        self._weight = weight
        self._widen(
            sum(
                max((len(a.weight) for a in getattr(layer, "lora_A", {}).values()), default=0)
                for layer in self._layers()
            )
        )

    def _widen(self, rank):
        """Makes room for adapters of a rank."""
        wider = self._weight.new_empty(len(self._weight), self.inputs + rank)
        wider[:, : self.inputs] = self._weight[:, : self.inputs]
        self._weight = wider

    def use(self, adapter):
        inner, outer = self._factors(adapter)
        if self.inputs + len(inner) > self._weight.shape[1]:
            self._widen(len(inner))

        self._inner = inner.new_zeros(self._weight.shape[1] - self.inputs, self.inputs)
        self._inner[: len(inner)] = inner
        self._weight[:, self.inputs :] = 0
        self._weight[:, self.inputs : self.inputs + len(inner)] = outer

    def room(self, tokens):
        return self._weight.new_empty(tokens, self._weight.shape[1])

    def __call__(self, room):
        torch.mm(room[:, : self.inputs], self._inner.T, out=room[:, self.inputs :])
        return linear(room, self._weight, self._bias)


def adapted_linear(module, names, int8=False):
    """Makes an :class:`AdaptedLinear` of the kind that suits the device."""
    layer = getattr(module, names[0])
    return _kind(getattr(layer, "base_layer", layer))(module, names, int8)


def _kind(layer):
    return FusedAdaptedLinear if layer.weight.device.type == "cuda" else AdaptedLinear
