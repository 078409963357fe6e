"""Attention over packed sequences: the tokens of many sequences end to end. A token attends only to its own sequence.

Nothing is padded, and no mask is built. Newer GPUs have a kernel for packed sequences. Elsewhere, consecutive sequences
of equal length go through one call of PyTorch's attention. An image's windows are nearly all of one size, so they take
few calls.
"""

import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from .devices import to_device
from .elementwise import rotate
from .kernels import causal_stages, fuses, plain_only

_HALF = (torch.bfloat16, torch.float16)

# The most bytes of attention scores in one call. Metal aborts the process at a buffer of 4 GiB.
_SCORE_BYTES = {"mps": 2**31}


class Packing:
    """The boundaries of the sequences in a pack.

    Args:
        lengths: the number of tokens of each sequence, in order
        device: the pack's device
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths, self._device = lengths, device
        self.longest = max(lengths)

    @functools.cached_property
    def offsets(self) -> torch.Tensor:
        """The start of each sequence, and the end of the last, an int32 tensor ``(sequences + 1,)``."""
        starts = torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32)
        return to_device(starts, self._device)

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Yields runs of consecutive sequences of equal length: the slice of their tokens, and their number."""
        start = 0
        for length, neighbours in itertools.groupby(self.lengths):
            count = len(list(neighbours))
            yield slice(start, start + count * length), count
            start += count * length


def rotate_and_attend(
    vectors: torch.Tensor,
    key_heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    packing: Packing,
    is_causal: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotates queries and keys by their positions, and computes attention within each sequence.

    Args:
        vectors: a tensor ``(tokens, heads + 2 * key_heads, head_dim)``: the heads of queries, keys and values. May be
            overwritten
        key_heads: the number of heads of the keys, and of the values
        cos: a tensor ``(tokens, head_dim / 2)``, see :func:`engine.elementwise.rotate`
        sin: a tensor like ``cos``
        packing: the :class:`Packing`
        is_causal (False): whether a token attends only to itself and earlier tokens
        out (None): the tensor ``(tokens, heads * head_dim)`` to write to

    Returns:
        ``out``, or a new tensor
    """
    heads = vectors.shape[1] - 2 * key_heads
    kernel = _own_kernel(vectors, key_heads, packing, is_causal)
    if kernel is not None:
        out = vectors.new_empty(len(vectors), heads * vectors.shape[2]) if out is None else out
        kernel(vectors, key_heads, cos, sin, packing, out)
        return out

    query, key = rotate(vectors[:, : heads + key_heads], cos, sin).split((heads, key_heads), dim=1)
    attended = attend(query, key, vectors[:, heads + key_heads :], packing, is_causal)
    return attended if out is None else out.copy_(attended)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, is_causal: bool = False
) -> torch.Tensor:
    """Computes attention within each sequence.

    Args:
        query: a tensor ``(tokens, heads, head_dim)``
        key: a tensor ``(tokens, key_heads, head_dim)``. Each head serves ``heads / key_heads`` query heads
        value: a tensor like ``key``
        packing: the :class:`Packing`
        is_causal (False): whether a token attends only to itself and earlier tokens

    Returns:
        a tensor ``(tokens, heads * head_dim)``
    """
    if _has_kernel(query):
        return _attend_in_one_call(query, key, value, packing, is_causal).flatten(1)

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))

    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    for tokens, count in packing.runs():
        q, k, v = (tensor[tokens].unflatten(0, (count, -1)).transpose(1, 2) for tensor in (query, key, value))
        result = attend_in_parts(q, k, v, is_causal, _SCORE_BYTES.get(query.device.type))
        attended[tokens] = result.transpose(1, 2).flatten(0, 1)

    return attended.flatten(1)


def attend_in_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool = False,
    score_bytes: int | None = None,
) -> torch.Tensor:
    """Calls PyTorch's attention on parts of the sequences, heads and query tokens that keep to a memory limit.

    Args:
        query: a tensor ``(sequences, heads, tokens, head_dim)``
        key: a tensor like ``query``
        value: a tensor like ``query``
        is_causal (False): whether a token attends only to itself and earlier tokens
        score_bytes (None): the most bytes that the float32 scores of one call may take. ``None`` means no limit

    Returns:
        a tensor like ``query``
    """
    sequences, heads, tokens, _ = query.shape
    rows = score_bytes and score_bytes // (4 * tokens)
    if rows is None or sequences * heads * tokens <= rows:
        return scaled_dot_product_attention(query, key, value, is_causal=is_causal)

    for dim, size, share in ((0, sequences, heads * tokens), (1, heads, tokens)):
        if size > 1:
            parts = (tensor.split(max(1, rows // share), dim) for tensor in (query, key, value))
            attended_parts = [attend_in_parts(q, k, v, is_causal, score_bytes) for q, k, v in zip(*parts, strict=True)]
            return torch.cat(attended_parts, dim)

    attended, start = [], 0
    for part in query.split(max(1, rows), dim=2):
        stop = start + part.shape[2]
        visible = stop if is_causal else tokens
        mask = None
        if is_causal:
            mask = torch.ones(stop - start, stop, dtype=torch.bool, device=query.device).tril(start)
        keys, values = key[:, :, :visible], value[:, :, :visible]
        attended.append(scaled_dot_product_attention(part, keys, values, attn_mask=mask))
        start = stop
    return torch.cat(attended, dim=2)


def _own_kernel(vectors, key_heads, packing, is_causal):
    """Returns our Triton kernel for such vectors, or ``None``."""
    if vectors.dtype not in _HALF or not fuses(vectors.device):
        return None

    from . import triton_kernels

    if is_causal:
        stages = causal_stages(vectors.device)
        takes = stages and triton_kernels.attends_causally(vectors.shape[2])
        return functools.partial(_attend_causally, stages=stages) if takes else None

    takes = vectors.shape[1] == 3 * key_heads and packing.longest <= triton_kernels.LONGEST_WINDOW
    return _attend_in_windows if takes else None


def _attend_causally(vectors, key_heads, cos, sin, packing, out, stages):
    from .triton_kernels import attend_causally

    heads = vectors.shape[1] - 2 * key_heads
    rotate(vectors[:, heads : heads + key_heads], cos, sin)
    attend_causally(vectors, key_heads, cos, sin, packing, out, stages)


def _attend_in_windows(vectors, key_heads, cos, sin, packing, out):
    from .triton_kernels import attend_in_windows

    attend_in_windows(vectors, cos, sin, packing.offsets, out)


def _has_kernel(query):
    return query.is_cuda and query.dtype in _HALF and not plain_only() and _has_flash_attention(query.device)


@functools.cache
def _has_flash_attention(device):
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_in_one_call(query, key, value, packing, is_causal):
    from torch.nn.attention.varlen import varlen_attn

    longest = packing.longest
    # A window as long as the longest sequence. Without one, torch 2.14 uses cuDNN on newer GPUs, which compiles a plan
    # for each new combination of lengths, in up to half a second.
    window = (-1, 0) if is_causal else (longest, longest)
    extra = {"enable_gqa": True} if query.shape[1] > key.shape[1] and _takes_enable_gqa() else {}
    return varlen_attn(
        query, key, value, packing.offsets, packing.offsets, longest, longest, window_size=window, **extra
    )


@functools.cache
def _takes_enable_gqa():
    """Whether grouped heads must be announced by ``enable_gqa``, as since torch 2.14."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
