"""Patches -> visual tokens: the vision tower of Qwen2.5-VL (arXiv 2502.13923, section 2.1) over packed images.

The patches of all images are one sequence. Most blocks attend within windows of 8x8 patches, a few within the whole
image. So patches are ordered by window, and an image's windows by size. Equal windows go through one call of attention.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.functional import gelu, pad

from .attention import rotate_and_attend
from .devices import residual_dtype
from .elementwise import Residual, silu_mul, tokens_at_once
from .linear import make_linear, take_weights
from .packing import Packing
from .transfers import to_device

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

# The base of the rotary angles. It is part of the architecture, and in no checkpoint's settings.
_ROPE_THETA = 10000

# Layouts of images of up to this many visual tokens are cached by size. 256 of them take 20 MB.
_KEPT_LAYOUT = 1024

# GPUs are fastest on matrices whose sides are multiples of this. The real model's 3420 is not.
_ALIGNMENT = 64


@dataclass
class Layout:
    """The order of a pack's patches in the tower, their rotary angles, and the boundaries of attention.

    Args:
        order: an int64 tensor ``(visual_tokens,)``: the index in the pack of each visual token, in the tower's order. A
            visual token's 2x2 patches stay together
        places: an int64 tensor ``(visual_tokens,)``: the inverse of ``order``
        cos: a float32 tensor ``(patches, head_dim / 2)``: the cosines of the rotary angles, in the tower's order. The
            first half of the angles encodes a patch's row in its image, the second half its column
        sin: a tensor like ``cos``: the sines
        windows: the :class:`engine.packing.Packing` of the windows
        images: the :class:`engine.packing.Packing` of the images
    """

    order: torch.Tensor
    places: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    windows: Packing
    images: Packing


class VisionTower:
    """The vision tower. Takes ownership of the module's weights; the module cannot run afterwards.

    Args:
        tower: a :class:`transformers.Qwen2_5_VisionTransformerPretrainedModel`
        int8 (False): whether to round the layers' weights to 8 bits
    """

    def __init__(self, tower: "Qwen2_5_VisionTransformerPretrainedModel", int8: bool = False) -> None:
        self._merge = tower.spatial_merge_size
        self._window = tower.window_size // self._merge // cast(int, tower.patch_size)
        self._head_dim = tower.config.hidden_size // tower.config.num_heads
        self.dtype = torch.float32 if int8 else tower.patch_embed.proj.weight.dtype

        # A convolution whose kernel covers its whole input is a matrix product.
        weight, _ = take_weights([cast(nn.Conv3d, tower.patch_embed.proj)])
        self._patch_embed = make_linear(weight.flatten(1).to(self.dtype))
        self._blocks = [_Block(block, self._head_dim, self.dtype, int8) for block in tower.blocks]
        self._full_attention_blocks = set(tower.fullatt_block_indexes)
        self._merger_norm = tower.merger.ln_q
        self._merger = [
            make_linear(*take_weights([layer]), int8) for layer in tower.merger.mlp if isinstance(layer, nn.Linear)
        ]

    def __call__(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Runs the tower.

        Args:
            patches: a tensor ``(patches, channels * temporal_patch_size * patch_size**2)``, of all images end to end,
                in the order of :func:`engine.images.patchify`
            grids: the list of the images' ``(rows, columns)`` in patches

        Returns:
            a tensor ``(visual_tokens, hidden)``, of all images end to end, in row-major order
        """
        layout = self._lay_out(tuple(grids), patches.device)
        patches = patches.unflatten(0, (-1, self._merge**2))[layout.order].flatten(0, 1)
        residual = Residual(self._patch_embed(patches).to(residual_dtype(self.dtype)))
        for index, block in enumerate(self._blocks):
            packing = layout.images if index in self._full_attention_blocks else layout.windows
            block(residual, layout.cos, layout.sin, packing)

        first, second = self._merger
        merged = residual.norm(self._merger_norm, dtype=self.dtype).unflatten(0, (-1, self._merge**2)).flatten(1)
        return second(gelu(first(merged)))[layout.places]

    def _lay_out(self, grids, device):
        # Cached on a GPU, which would wait for the layout. Packs of equal pages recur. One of 21 pages takes 23 MB.
        make = _kept_pack if device.type == "cuda" else lay_out
        return make(grids, self._merge, self._window, self._head_dim, device)


class _Block:
    """One block of the vision tower."""

    def __init__(self, block, head_dim, dtype, int8):
        mlp = block.mlp
        self._attention_norm, self._mlp_norm = block.norm1, block.norm2
        self._head_dim, self._dtype = head_dim, dtype
        self._query_key_value = make_linear(*take_weights([block.attn.qkv]), int8)
        self._output = make_linear(*take_weights([block.attn.proj]), int8)

        # Zero padding does not change the result.
        padding = -mlp.down_proj.in_features % _ALIGNMENT
        sides = [take_weights([layer]) for layer in (mlp.gate_proj, mlp.up_proj)]
        weight = torch.cat([pad(weight, (0, 0, 0, padding)) for weight, _ in sides])
        # The dimensions of the widest intermediate results, of attention and of the MLP.
        self._widths = 3 * block.attn.proj.in_features, len(weight)
        self._gate_up = make_linear(weight, torch.cat([pad(bias, (0, padding)) for _, bias in sides]), int8)
        weight, bias = take_weights([mlp.down_proj])
        self._down = make_linear(pad(weight, (0, padding)), bias, int8)

    def __call__(self, residual: Residual, cos: torch.Tensor, sin: torch.Tensor, packing: Packing) -> None:
        """Adds the block's output to the :class:`engine.elementwise.Residual`."""
        at_once = functools.partial(tokens_at_once, dtype=self._dtype, device=cos.device)
        for tokens, group in packing.groups(at_once(self._widths[0])):
            part = residual.part(tokens)
            vectors = self._query_key_value(part.norm(self._attention_norm, dtype=self._dtype))
            vectors = vectors.unflatten(-1, (-1, self._head_dim))
            attended = rotate_and_attend(vectors, vectors.shape[1] // 3, cos[tokens], sin[tokens], group)
            part.add(self._output(attended))

        for part in residual.steps(at_once(self._widths[1])):
            gate_up = self._gate_up(part.norm(self._mlp_norm, dtype=self._dtype))
            part.add(self._down(silu_mul(gate_up)))


@functools.lru_cache(maxsize=4)
def _kept_pack(grids, merge, side, head_dim, device):
    return lay_out(grids, merge, side, head_dim, device)


def lay_out(grids: Sequence[tuple[int, int]], merge: int, side: int, head_dim: int, device: torch.device) -> Layout:
    """Computes the layout of a pack of images.

    Args:
        grids: a list of the images' ``(rows, columns)`` in patches
        merge: the side of a visual token, in patches
        side: the side of a window, in visual tokens
        head_dim: the dimensions of a head
        device: the pack's device

    Returns:
        a :class:`Layout`
    """
    images = [_lay_out_image(*grid, merge, side) for grid in grids]
    counts = [len(image.order) for image in images]
    starts = itertools.accumulate(counts[:-1], initial=0)
    order = to_device(torch.cat([image.order + start for image, start in zip(images, starts, strict=True)]), device)
    quarter = head_dim // 4
    frequencies = _ROPE_THETA ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    sides = [[getattr(image, name) for image in images] for name in ("rows", "columns")]
    angles = torch.cat([to_device(torch.cat(side), device)[:, None] * frequencies for side in sides], dim=-1)
    return Layout(
        order,
        order.argsort(),
        angles.cos(),
        angles.sin(),
        Packing([length for image in images for length in image.windows], device),
        Packing([count * merge**2 for count in counts], device),
    )


@dataclass
class _ImageLayout:
    order: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    windows: list[int]


def _lay_out_image(height, width, merge, side):
    # A large image's layout takes much memory, and little time compared to its embedding.
    keeps = height * width // merge**2 <= _KEPT_LAYOUT
    return (_kept_layout if keeps else _new_layout)(height, width, merge, side)


@functools.lru_cache(maxsize=256)
def _kept_layout(height, width, merge, side):
    return _new_layout(height, width, merge, side)


def _new_layout(height, width, merge, side):
    tokens = torch.arange(height * width // merge**2).view(height // merge, width // merge)
    windows = [window.flatten() for strip in tokens.split(side, dim=0) for window in strip.split(side, dim=1)]
    windows.sort(key=len)
    order = torch.cat(windows)

    corner = torch.arange(merge)
    top, left = order // (width // merge) * merge, order % (width // merge) * merge
    return _ImageLayout(
        order,
        (top[:, None, None] + corner[:, None]).expand(-1, merge, merge).flatten(),
        (left[:, None, None] + corner).expand(-1, merge, merge).flatten(),
        [len(window) * merge**2 for window in windows],
    )
