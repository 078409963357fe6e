"""Embedded tokens -> hidden states: the language model of Qwen2.5-VL over packed sequences, with one adapter."""

from typing import TYPE_CHECKING

import torch

from .adapted import AdaptedLinear, adapted_linear
from .attention import rotate_and_attend
from .elementwise import Residual, silu_mul, tokens_at_once
from .kernels import fuses
from .packing import Packing

if TYPE_CHECKING:
    from .towers import Towers


class Decoder:
    """The language model and the multi-vector projector.

    Takes ownership of the modules' weights; the modules cannot run afterwards.

    Args:
        towers: the :class:`engine.towers.Towers`, to which PEFT's adapters can be added later
        int8 (False): whether to round the layers' weights to 8 bits
        rank (0): the rank of the adapters to come
    """

    def __init__(self, towers: "Towers", int8: bool = False, rank: int = 0) -> None:
        model = towers.model.language_model
        self._layers = [_Layer(layer, int8, rank) for layer in model.layers]
        self._norm = model.norm
        self._rotary = model.rotary_emb
        self._axes = torch.repeat_interleave(
            torch.arange(3), torch.tensor(model.config.rope_parameters["mrope_section"])
        ).to(model.norm.weight.device)
        self._projector = adapted_linear(towers, ["multi_vector_projector"], rank=rank)
        self.dtype = model.norm.weight.dtype

    def use(self, adapter: str) -> None:
        """Applies an adapter from now on.

        Args:
            adapter: its name
        """
        for layer in self._layers:
            layer.use(adapter)
        self._projector.use(adapter)

    def adapter_weights(self) -> list[torch.Tensor]:
        """Returns the tensors that the applied adapter is computed with. :meth:`use` may overwrite them."""
        linears = [linear for layer in self._layers for linear in layer.linears] + [self._projector]
        return [tensor for linear in linears for tensor in linear.adapter_weights()]

    def __call__(
        self, embedded: torch.Tensor, positions: torch.Tensor, packing: Packing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the language model.

        Args:
            embedded: a tensor ``(tokens, hidden)`` of the type that :func:`engine.devices.residual_dtype` returns. It
                is overwritten
            positions: an int64 tensor ``(3, tokens)``: time, height, width
            packing: the :class:`engine.packing.Packing`

        Returns:
            the hidden states after the final norm, a tensor ``(tokens, hidden)``, and their projections, a tensor
            ``(tokens, 128)``
        """
        cos, sin = self._angles(positions)
        residual = Residual(embedded)
        for layer in self._layers:
            layer(residual, cos, sin, packing)

        hidden_states = residual.norm(self._norm)
        buffer = self._projector.input_buffer(len(hidden_states))
        buffer[:, : self._projector.inputs] = hidden_states
        return hidden_states, self._projector(buffer)

    def _angles(self, positions):
        """Computes the rotation of each pair of dimensions, by one of three axes (arXiv 2409.12191, section 2.1)."""
        angles = positions[self._axes].T.contiguous() * self._rotary.inv_freq
        scaling = self._rotary.attention_scaling
        # The fused kernels read float32 at no extra cost, so the angles are not rounded there.
        dtype = torch.float32 if fuses(angles.device) else self.dtype
        return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


class _Layer:
    """One layer of the language model."""

    def __init__(self, layer, int8, rank):
        attention, mlp = layer.self_attn, layer.mlp
        self._attention_norm, self._mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self._query_key_value = adapted_linear(attention, ["q_proj", "k_proj", "v_proj"], int8, rank)
        self._output = adapted_linear(attention, ["o_proj"], int8, rank)
        self._gate_up = adapted_linear(mlp, ["gate_proj", "up_proj"], int8, rank)
        self._down = adapted_linear(mlp, ["down_proj"], int8, rank)
        self._head_dim = attention.head_dim
        self._key_heads = attention.config.num_key_value_heads

    @property
    def linears(self) -> tuple[AdaptedLinear, ...]:
        """The layer's adapted linear layers."""
        return self._query_key_value, self._output, self._gate_up, self._down

    def use(self, adapter: str) -> None:
        for linear in self.linears:
            linear.use(adapter)

    def __call__(self, residual: Residual, cos: torch.Tensor, sin: torch.Tensor, packing: Packing) -> None:
        """Adds the layer's output to the :class:`engine.elementwise.Residual`."""
        buffer = self._query_key_value.input_buffer(len(residual))
        residual.norm(self._attention_norm, out=buffer[:, : self._query_key_value.inputs])
        vectors = self._query_key_value(buffer).unflatten(-1, (-1, self._head_dim))

        buffer = self._output.input_buffer(len(residual))
        attended = buffer[:, : self._output.inputs]
        rotate_and_attend(vectors, self._key_heads, cos, sin, packing, is_causal=True, out=attended)
        residual.add(self._output(buffer))

        for part in residual.steps(tokens_at_once(2 * self._down.inputs, vectors.dtype, vectors.device)):
            buffer = self._gate_up.input_buffer(len(part))
            part.norm(self._mlp_norm, out=buffer[:, : self._gate_up.inputs])
            gate_up = self._gate_up(buffer)
            buffer = self._down.input_buffer(len(part))
            silu_mul(gate_up, out=buffer[:, : self._down.inputs])
            part.add(self._down(buffer))
