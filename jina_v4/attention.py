"""Attention over packed sequences: tokens of many sequences end to end, each of which attends to its own alone.

Nothing is padded, and no mask is built. Newer GPUs have a kernel for it. Elsewhere neighbours of equal length go
through one call of PyTorch's attention, so that an image's windows, which are nearly all of one size, take few calls.
"""

import functools
import itertools

import torch
from torch.nn.functional import scaled_dot_product_attention

from .devices import to_device
from .kernels import plain_only

# The scores that Metal can hold in one buffer. From 4 GiB on it ends the process.
_SCORE_BYTES = {"mps": 2**31}


class Packing:
    """Where the sequences of a pack lie.

    Args:
        lengths: the list of the sequences' numbers of tokens, in their order
        device: where the pack is
    """

    def __init__(self, lengths, device):
        self.lengths, self._device = lengths, device
        self.longest = max(lengths)

    @functools.cached_property
    def offsets(self):
        """Where each sequence begins, and where the last one ends, an int32 tensor ``(sequences + 1,)``."""
        starts = torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32)
        return to_device(starts, self._device)

    def runs(self):
        """Yields neighbours of equal length: the slice of their tokens, and how many they are."""
        start = 0
        for length, neighbours in itertools.groupby(self.lengths):
            count = len(list(neighbours))
            yield slice(start, start + count * length), count
            start += count * length


def attend(query, key, value, packing, is_causal=False):
    """Lets the tokens of each sequence attend to each other.

    Args:
        query: a tensor ``(tokens, heads, head_dim)``
        key: a tensor ``(tokens, key_heads, head_dim)``. Each of its heads serves a group of ``heads / key_heads``
        value: a tensor like ``key``
        packing: the :class:`Packing`
        is_causal (False): whether a token sees only those before it and itself

    Returns:
        a tensor ``(tokens, heads * head_dim)``
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))

    if _has_kernel(query):
        return _attend_in_one_call(query, key, value, packing, is_causal).flatten(1)

    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    for tokens, count in packing.runs():
        q, k, v = (tensor[tokens].unflatten(0, (count, -1)).transpose(1, 2) for tensor in (query, key, value))
        result = attend_in_parts(q, k, v, is_causal, _SCORE_BYTES.get(query.device.type))
        attended[tokens] = result.transpose(1, 2).flatten(0, 1)

    return attended.flatten(1)


def attend_in_parts(query, key, value, is_causal=False, score_bytes=None):
    """Calls PyTorch's attention on as many sequences, heads and query tokens at a time as a limit allows.

    Args:
        query: a tensor ``(sequences, heads, tokens, head_dim)``
        key: a tensor like ``query``
        value: a tensor like ``query``
        is_causal (False): whether a token sees only those before it and itself
        score_bytes (None): the bytes that the scores of one call may take, in float32. ``None``: any number

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
            return torch.cat([attend_in_parts(*part, is_causal, score_bytes) for part in zip(*parts, strict=True)], dim)

    attended, start = [], 0
    for part in query.split(max(1, rows), dim=2):
        stop = start + part.shape[2]
        seen = stop if is_causal else tokens
        mask = None
        if is_causal:
            mask = torch.ones(stop - start, stop, dtype=torch.bool, device=query.device).tril(start)
        keys, values = key[:, :, :seen], value[:, :, :seen]
        attended.append(scaled_dot_product_attention(part, keys, values, attn_mask=mask))
        start = stop
    return torch.cat(attended, dim=2)


def _has_kernel(query):
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and is_half and not plain_only() and _has_flash_attention(query.device)


@functools.cache
def _has_flash_attention(device):
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_in_one_call(query, key, value, packing, is_causal):
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(
        query,
        key,
        value,
        packing.offsets,
        packing.offsets,
        packing.longest,
        packing.longest,
        window_size=(-1, 0) if is_causal else (-1, -1),
    )


def rotate(vectors, cos, sin):
    """Turns the two halves of each head's vector into each other by an angle that tells its position (RoPE,
    arXiv 2104.09864).

    Args:
        vectors: a tensor ``(tokens, ..., head_dim)``
        cos: a tensor ``(tokens, head_dim / 2)``
        sin: a tensor like ``cos``

    Returns:
        a tensor like ``vectors``
    """
    shape = (len(vectors), *(1,) * (vectors.ndim - 2), -1)
    cos, sin = cos.view(shape), sin.view(shape)
    exact = vectors.to(cos.dtype)
    first, second = exact.chunk(2, dim=-1)
    turned = torch.empty_like(exact, memory_format=torch.contiguous_format)
    for half, one, other, sign in zip(turned.chunk(2, dim=-1), (first, second), (second, first), (-1, 1), strict=True):
        torch.mul(one, cos, out=half).addcmul_(other, sin, value=sign)
    return turned.to(vectors.dtype)
