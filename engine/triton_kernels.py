"""Fused GPU kernels for :mod:`engine.elementwise` and :mod:`engine.attention`. Each reads and writes memory once.

Triton comes with torch's builds for GPUs. Its interpreter (``TRITON_INTERPRET=1``) runs the same kernels on a CPU.
"""

import math
from typing import TYPE_CHECKING

import torch
import triton
from triton import language as tl

if TYPE_CHECKING:
    from .packing import Packing

# Columns per program of silu_mul.
_COLUMNS = 4096

# Patches in a window of the vision tower.
LONGEST_WINDOW = 64


def add_norm(
    residual: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, epsilon: float, out: torch.Tensor
) -> None:
    """``residual += added``, unless that is ``None``, and ``out = rms_norm(residual) * weight``."""
    rows, width = residual.shape
    _add_norm[(rows,)](
        residual,
        residual if added is None else added,
        weight,
        out,
        residual.stride(0),
        residual.stride(0) if added is None else added.stride(0),
        out.stride(0),
        epsilon,
        width,
        triton.next_power_of_2(width),
        added is not None,
        num_warps=4,
    )


def rotate(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotates the heads of ``vectors`` in place."""
    tokens, heads, head_dim = vectors.shape
    half = head_dim // 2
    _rotate[(tokens,)](
        vectors,
        cos,
        sin,
        vectors.stride(0),
        *cos.stride(),
        *sin.stride(),
        heads,
        half,
        triton.next_power_of_2(heads),
        triton.next_power_of_2(half),
        num_warps=4,
    )


def attend_in_windows(
    vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, offsets: torch.Tensor, out: torch.Tensor
) -> None:
    """Rotates queries and keys, and computes attention within each of many short sequences.

    Args:
        vectors: a tensor ``(tokens, 3 * heads, head_dim)`` of queries, keys and values, in 16 bits
        cos: a contiguous tensor ``(tokens, head_dim / 2)``
        sin: a tensor like ``cos``
        offsets: an int32 tensor ``(sequences + 1,)``. No sequence is longer than :data:`LONGEST_WINDOW`
        out: the tensor ``(tokens, heads * head_dim)`` to write to
    """
    _, heads, head_dim = vectors.shape
    # Heads first: the heads of a window read the same angles and adjacent memory.
    _attend_in_windows[(heads // 3, len(offsets) - 1)](
        vectors,
        cos,
        sin,
        offsets,
        out,
        vectors.stride(0),
        out.stride(0),
        head_dim**-0.5,
        heads // 3,
        head_dim // 2,
        # The smallest size that tensor cores multiply.
        max(16, triton.next_power_of_2(head_dim // 2)),
        LONGEST_WINDOW,
        num_warps=4,
    )


def attends_causally(head_dim: int) -> bool:
    """Whether :func:`attend_causally` supports a head size. Tensor cores multiply halves of at least 16."""
    return head_dim >= 32 and head_dim & (head_dim - 1) == 0


def attend_causally(
    vectors: torch.Tensor,
    key_heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    packing: "Packing",
    out: torch.Tensor,
    stages: int,
) -> None:
    """Rotates queries, and computes causal attention within each sequence.

    Args:
        vectors: a tensor ``(tokens, heads + 2 * key_heads, head_dim)`` of queries, rotated keys and values, in 16 bits
        key_heads: the number of heads of the keys, and of the values
        cos: a contiguous tensor ``(tokens, head_dim / 2)``
        sin: a tensor like ``cos``
        packing: the :class:`engine.packing.Packing`
        out: the tensor ``(tokens, heads * head_dim)`` to write to
        stages: the number of pipeline stages: blocks of keys and values that are in shared memory at a time
    """
    _, heads, head_dim = vectors.shape
    heads -= 2 * key_heads
    rows = 64 if packing.longest > 32 else 32
    _attend_causally[(triton.cdiv(packing.longest, rows), heads, len(packing.offsets) - 1)](
        vectors,
        cos,
        sin,
        packing.offsets,
        out,
        vectors.stride(0),
        out.stride(0),
        # The GPU computes powers of two.
        head_dim**-0.5 * math.log2(math.e),
        heads,
        key_heads,
        head_dim // 2,
        rows,
        rows,
        num_warps=4,
        num_stages=stages,
    )


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """``out = silu(gate) * up``."""
    rows, width = out.shape
    _silu_mul[(rows, triton.cdiv(width, _COLUMNS))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, _COLUMNS, num_warps=8
    )


@triton.jit
def _add_norm(
    residual,
    added,
    weight,
    out,
    residual_stride,
    added_stride,
    out_stride,
    epsilon,
    width: tl.constexpr,
    block: tl.constexpr,
    adds: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    places = residual + row * residual_stride + columns
    values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    if adds:
        values += tl.load(added + row * added_stride + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(residual.dtype.element_ty)
        tl.store(places, rounded, mask=inside)
        values = rounded.to(tl.float32)

    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + epsilon)
    scaled = values * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotated(places, half: tl.constexpr, inside, cosine, sine):
    """Loads both halves of heads' vectors, and rotates them. The result is not stored anywhere."""
    first = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(places + half, mask=inside, other=0.0).to(tl.float32)
    dtype: tl.constexpr = places.dtype.element_ty
    return (first * cosine - second * sine).to(dtype), (second * cosine + first * sine).to(dtype)


@triton.jit
def _rotate(
    vectors,
    cos,
    sin,
    token_stride,
    cos_token_stride,
    cos_stride,
    sin_token_stride,
    sin_stride,
    heads: tl.constexpr,
    half: tl.constexpr,
    head_block: tl.constexpr,
    half_block: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, half_block)
    head = tl.arange(0, head_block)[:, None]
    inside = (head < heads) & (dims[None, :] < half)
    cosine = tl.load(cos + token * cos_token_stride + dims * cos_stride, mask=dims < half, other=0.0)
    sine = tl.load(sin + token * sin_token_stride + dims * sin_stride, mask=dims < half, other=0.0)
    cosine, sine = cosine.to(tl.float32)[None, :], sine.to(tl.float32)[None, :]

    places = vectors + token * token_stride + head * (2 * half) + dims[None, :]
    first, second = _rotated(places, half, inside, cosine, sine)
    tl.store(places, first, mask=inside)
    tl.store(places + half, second, mask=inside)


@triton.jit
def _silu_mul(gate_up, out, in_stride, out_stride, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    places = gate_up + row * in_stride + columns
    gate = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(places + width, mask=inside, other=0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_stride + columns, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _attend_in_windows(
    vectors,
    cos,
    sin,
    offsets,
    out,
    token_stride,
    out_stride,
    scale,
    heads: tl.constexpr,
    half: tl.constexpr,
    half_block: tl.constexpr,
    block: tl.constexpr,
):
    head = tl.program_id(0)
    start = tl.load(offsets + tl.program_id(1)).to(tl.int64)
    length = tl.load(offsets + tl.program_id(1) + 1) - start
    dims = tl.arange(0, half_block)
    row = tl.arange(0, block)
    inside = (row[:, None] < length) & (dims[None, :] < half)
    token = start + row[:, None]

    angle = token * half + dims[None, :]
    cosine = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)

    # The halves of a head's dimensions are loaded separately, as the rotation needs them.
    query = vectors + token * token_stride + head * (2 * half) + dims[None, :]
    key = query + heads * (2 * half)
    value = key + heads * (2 * half)
    dtype: tl.constexpr = vectors.dtype.element_ty
    query_first, query_second = _rotated(query, half, inside, cosine, sine)
    key_first, key_second = _rotated(key, half, inside, cosine, sine)

    scores = tl.dot(query_first, tl.trans(key_first)) + tl.dot(query_second, tl.trans(key_second))
    scores = tl.where(row[None, :] < length, scores * scale, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)[:, None]
    weights = weights.to(dtype)

    places = out + token * out_stride + head * (2 * half) + dims[None, :]
    attended = tl.dot(weights, tl.load(value, mask=inside, other=0.0)) / total
    tl.store(places, attended.to(dtype), mask=inside)
    attended = tl.dot(weights, tl.load(value + half, mask=inside, other=0.0)) / total
    tl.store(places + half, attended.to(dtype), mask=inside)


@triton.jit
def _attend_causally(
    vectors,
    cos,
    sin,
    offsets,
    out,
    token_stride,
    out_stride,
    scale,
    heads: tl.constexpr,
    key_heads: tl.constexpr,
    half: tl.constexpr,
    block: tl.constexpr,
    key_block: tl.constexpr,
):
    # The last rows first, since they take longest.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * block
    head = tl.program_id(1)
    start = tl.load(offsets + tl.program_id(2)).to(tl.int64)
    length = (tl.load(offsets + tl.program_id(2) + 1) - start).to(tl.int32)
    if first_row >= length:
        return

    dtype: tl.constexpr = vectors.dtype.element_ty
    dims = tl.arange(0, half)
    row = first_row + tl.arange(0, block)
    inside = row[:, None] < length
    token = start + row[:, None]
    cosine = tl.load(cos + token * half + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sin + token * half + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    places = vectors + token * token_stride + head * (2 * half) + dims[None, :]
    query_first, query_second = _rotated(places, half, inside, cosine, sine)

    base = vectors + start * token_stride + (heads + head // (heads // key_heads)) * (2 * half)
    wide = tl.arange(0, 2 * half)
    largest = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    attended = tl.zeros([block, 2 * half], tl.float32)
    for begin in tl.range(0, tl.minimum(first_row + block, length), key_block):
        column = begin + tl.arange(0, key_block)
        there = column < length
        keys = base + column[None, :] * token_stride + dims[:, None]
        scores = tl.dot(query_first, tl.load(keys, mask=there[None, :], other=0.0))
        scores = tl.dot(query_second, tl.load(keys + half, mask=there[None, :], other=0.0), scores)
        scores = tl.where(column[None, :] <= row[:, None], scores * scale, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, axis=1)
        values = base + key_heads * (2 * half) + column[:, None] * token_stride + wide[None, :]
        attended = tl.dot(
            weights.to(dtype), tl.load(values, mask=there[:, None], other=0.0), attended * shrink[:, None]
        )
        largest = larger

    places = out + token * out_stride + head * (2 * half) + wide[None, :]
    tl.store(places, (attended / total[:, None]).to(dtype), mask=inside)
