"""What :mod:`jina_v4.elementwise` computes, as kernels for GPUs. Each reads and writes memory once.

Triton comes with torch's builds for GPUs. Its interpreter (``TRITON_INTERPRET=1``) runs the same kernels on a CPU.
"""

import triton
from triton import language as tl

# Columns that one program of the product of gate and up computes.
_COLUMNS = 1024

# The patches of a window of the vision tower.
LONGEST_WINDOW = 64


def add_norm(residual, added, weight, epsilon, out):
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


def rotate(vectors, cos, sin):
    """Turns the heads of ``vectors``, which is overwritten."""
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


def attend_in_windows(vectors, cos, sin, offsets, out):
    """Turns the queries and keys of short sequences, and lets each attend to itself.

    Args:
        vectors: a tensor ``(tokens, 3 * heads, head_dim)`` of queries, keys and values, in 16 bits
        cos: a contiguous tensor ``(tokens, head_dim / 2)``
        sin: a tensor like ``cos``
        offsets: an int32 tensor ``(sequences + 1,)``. No sequence is longer than :data:`LONGEST_WINDOW`
        out: the contiguous tensor ``(tokens, heads * head_dim)`` to write to
    """
    _, heads, head_dim = vectors.shape
    # Heads first: those of a window read the same angles, and lie side by side.
    _attend_in_windows[(heads // 3, len(offsets) - 1)](
        vectors,
        cos,
        sin,
        offsets,
        out,
        vectors.stride(0),
        head_dim**-0.5,
        heads // 3,
        head_dim // 2,
        # The least that tensor cores multiply.
        max(16, triton.next_power_of_2(head_dim // 2)),
        LONGEST_WINDOW,
        num_warps=4,
    )


def silu_mul(gate_up, out):
    """``out = silu(gate) * up``."""
    rows, width = out.shape
    _silu_mul[(rows, triton.cdiv(width, _COLUMNS))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, _COLUMNS, num_warps=4
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
    first = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(places + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(places, (first * cosine - second * sine).to(vectors.dtype.element_ty), mask=inside)
    tl.store(places + half, (second * cosine + first * sine).to(vectors.dtype.element_ty), mask=inside)


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

    # The halves of a head's dimensions are held apart, as the rotation takes them.
    query = vectors + token * token_stride + head * (2 * half) + dims[None, :]
    key = query + heads * (2 * half)
    value = key + heads * (2 * half)
    dtype: tl.constexpr = vectors.dtype.element_ty
    first = tl.load(query, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(query + half, mask=inside, other=0.0).to(tl.float32)
    query_first = (first * cosine - second * sine).to(dtype)
    query_second = (second * cosine + first * sine).to(dtype)
    first = tl.load(key, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(key + half, mask=inside, other=0.0).to(tl.float32)
    key_first = (first * cosine - second * sine).to(dtype)
    key_second = (second * cosine + first * sine).to(dtype)

    scores = tl.dot(query_first, tl.trans(key_first)) + tl.dot(query_second, tl.trans(key_second))
    scores = tl.where(row[None, :] < length, scores * scale, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)[:, None]
    weights = weights.to(dtype)

    places = out + token * (heads * 2 * half) + head * (2 * half) + dims[None, :]
    attended = tl.dot(weights, tl.load(value, mask=inside, other=0.0)) / total
    tl.store(places, attended.to(dtype), mask=inside)
    attended = tl.dot(weights, tl.load(value + half, mask=inside, other=0.0)) / total
    tl.store(places + half, attended.to(dtype), mask=inside)
