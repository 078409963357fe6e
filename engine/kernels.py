"""Tests which of torch's fast operators work on this processor.

Some of them are private, and may be missing or different in another version of torch. ``torch._int_mm`` is wrong on
CPUs without VNNI. So each operator is first tested on a small product, against the same product in float64. If it is
missing or wrong, a warning is logged, and plain operators are used.

With the environment variable ``JINA_V4_PLAIN_KERNELS=1``, plain operators are used everywhere, to find out whether a
fast operator causes a wrong result.
"""

import functools
import logging
import os
import platform
import timeit
from collections.abc import Callable

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

PLAIN = "JINA_V4_PLAIN_KERNELS"

# Values of ONEDNN_MAX_CPU_ISA that allow bfloat16 units contain one of these.
_BFLOAT16_ISAS = ("BF16", "FP16", "AMX", "AVX10", "DEFAULT", "ALL")

logger = logging.getLogger(__name__)


def plain_only() -> bool:
    """Whether the fast operators are switched off."""
    return os.environ.get(PLAIN, "") not in ("", "0")


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products of prepacked weights are available and right on this CPU.

    Args:
        dtype: ``torch.float32`` or ``torch.bfloat16``
    """
    return not plain_only() and _packs(dtype)


@functools.cache
def _packs(dtype):
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False

    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False

        return _is_right(
            "oneDNN's prepacked product", lambda inputs, weight, bias: packed_linear(inputs, pack(weight), bias), dtype
        )
    except Exception as error:
        return _report_absent("oneDNN's prepacked product", error)


def pack(weight: torch.Tensor) -> torch.Tensor:
    """Reorders weights ``(outputs, inputs)`` to the layout of oneDNN's kernels for this CPU."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def packed_linear(inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Computes a linear layer with weights from :func:`pack`."""
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def fuses(device: torch.device) -> bool:
    """Whether :mod:`engine.triton_kernels` are available and right on a device. They need a GPU.

    Triton compiles them at the first call, which needs a C compiler.

    Args:
        device: a :class:`torch.device`
    """
    return device.type == "cuda" and not plain_only() and _fuses(device)


@functools.cache
def _fuses(device):
    try:
        from .triton_kernels import add_norm, rotate, silu_mul

        generator = torch.Generator().manual_seed(0)
        wide, added, weight, angles = (
            torch.randn(*size, generator=generator) for size in ((3, 2 * 40), (3, 40), (40,), (3, 5))
        )
        values, vectors = wide[:, :40].clone(), wide.unflatten(1, (8, 10)).clone()
        sums = values.double() + added.double()
        expected = (
            sums,
            sums * torch.rsqrt(sums.square().mean(dim=1, keepdim=True) + 1e-6) * weight.double(),
            torch.cat(_rotate(vectors.double(), angles.double()), dim=-1),
            silu(wide[:, :40].double()) * wide[:, 40:].double(),
        )
        values, added, weight, vectors, wide = (tensor.to(device) for tensor in (values, added, weight, vectors, wide))
        normed, product = torch.empty_like(values), torch.empty_like(values)
        with torch.cuda.device_of(values):
            add_norm(values, added, weight, 1e-6, normed)
            rotate(vectors, angles.cos().to(device), angles.sin().to(device))
            silu_mul(wide, product)
            is_right = _attends_in_windows(device)
        results = values, normed, vectors, product
        # The GPU's exponential and root are off by a few units in the last place.
        if is_right and all(
            torch.allclose(result.cpu().double(), exact, rtol=1e-5, atol=1e-5)
            for result, exact in zip(results, expected, strict=True)
        ):
            return True

        logger.warning("Triton's kernels are wrong on this GPU. PyTorch's own are used, which are slower")
    except Exception as error:
        logger.warning("Triton's kernels are not available (%s). PyTorch's own are used, which are slower", error)
    return False


def _attends_in_windows(device):
    from .triton_kernels import attend_in_windows

    vectors, angles = _vectors(70, 6, 32)
    exact = _attention(vectors, 2, angles, [slice(64), slice(64, 70)], is_causal=False)
    vectors, cos, sin = (tensor.to(device) for tensor in (vectors, angles.cos(), angles.sin()))
    out = torch.empty(70, 64, dtype=torch.float16, device=device)
    attend_in_windows(vectors, cos, sin, torch.tensor([0, 64, 70], dtype=torch.int32, device=device), out)
    return _is_close(out, exact)


@functools.cache
def causal_stages(device: torch.device) -> int:
    """Finds out how many pipeline stages of causal attention fit into a GPU's shared memory.

    Args:
        device: a :class:`torch.device` for which :func:`fuses` is true

    Returns:
        the ``stages`` of :func:`engine.triton_kernels.attend_causally`, or 0 if that kernel is unavailable or wrong
    """
    from .packing import Packing
    from .triton_kernels import attend_causally

    # The real model's head sizes, so that the compiled kernel is reused.
    vectors, angles = _vectors(140, 20, 128)
    exact = _attention(vectors, 2, angles, [slice(70), slice(70, 140)], is_causal=True)
    vectors, cos, sin = (tensor.to(device) for tensor in (vectors, angles.cos(), angles.sin()))
    vectors[:, 16:18] = torch.cat(_rotate(vectors[:, 16:18].float(), angles.to(device)), dim=-1).half()
    reason: object = "it is wrong"
    for stages in (3, 2, 1):
        out = torch.empty(140, 16 * 128, dtype=torch.float16, device=device)
        try:
            with torch.cuda.device_of(out):
                attend_causally(vectors, 2, cos, sin, Packing([70, 70], device), out, stages)
            if _is_close(out, exact):
                return stages
        except Exception as error:  # e.g. out of shared memory
            reason = error
    logger.warning("Triton's causal attention is not available (%s). PyTorch's own is used, which is slower", reason)
    return 0


def _vectors(tokens, heads, head_dim):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(tokens, heads, head_dim, generator=generator).to(torch.float16)
    return vectors, torch.randn(tokens, head_dim // 2, generator=generator)


def _attention(vectors, key_heads, angles, sequences, is_causal):
    """Computes attention within slices of the tokens, in float64."""
    heads = vectors.shape[1] - 2 * key_heads
    rotated = torch.cat(_rotate(vectors.double(), angles.double()), dim=-1)
    query, key, value = rotated[:, :heads], rotated[:, heads:-key_heads], vectors[:, -key_heads:].double()
    key, value = (side.repeat_interleave(heads // key_heads, dim=1) for side in (key, value))
    attended = []
    for tokens in sequences:
        sides = (side[tokens].transpose(0, 1) for side in (query, key, value))
        attended.append(scaled_dot_product_attention(*sides, is_causal=is_causal).transpose(0, 1).flatten(1))
    return torch.cat(attended)


def _is_close(attended, exact):
    # Weighted means of values of about 1. The weights, and the scores behind them, are rounded.
    return torch.allclose(attended.cpu().double(), exact, rtol=0, atol=16 * torch.finfo(torch.float16).eps)


def _rotate(vectors, angles):
    first, second = vectors.chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return first * cos - second * sin, second * cos + first * sin


def _is_right(name, product, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*size, generator=generator).to(dtype) for size in ((48, 160), (48,)))
    for tokens in (1, 65):
        inputs = torch.randn(tokens, 160, generator=generator).to(dtype)
        exact = linear(inputs.double(), weight.double(), bias.double())
        size = linear(inputs.double().abs(), weight.double().abs(), bias.double().abs())
        # The rounding error of each sum in float32, and of the result in its own type.
        bound = (160 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps) * size
        if not ((product(inputs, weight, bias).double() - exact).abs() <= bound).all():
            logger.warning("%s in %s is wrong on this CPU. The plain product is used, which is slower", name, dtype)
            return False

    return True


def _report_absent(name, error):
    logger.warning("%s is not available here (%s). The plain product is used, which is slower", name, error)
    return False


def multiplies_uint8() -> bool:
    """Whether oneDNN's products of uint8 inputs and packed int8 weights are exact on this CPU, and fast.

    Inputs are unsigned, since for signed ones oneDNN falls back to a plain loop on CPUs with VNNI but without AMX.
    """
    return not plain_only() and _multiplies_uint8()


@functools.cache
def _multiplies_uint8():
    try:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-127, 128, (1024, 1024), generator=generator, dtype=torch.int8)
        inputs = torch.randint(1, 256, (64, 1024), generator=generator, dtype=torch.uint8)
        # The largest sums of either sign.
        inputs[0], weight[0], weight[1] = 255, 127, -127
        scale = torch.rand(1024, generator=generator) + 0.5
        packed = pack_int8(weight)
        exact = (inputs.double() - 128) @ weight.double().T * scale.double()
        for tokens in (1, 64):
            found = packed_uint8_linear(inputs[:tokens], packed, scale).double()
            if not torch.allclose(found, exact[:tokens], rtol=1e-6, atol=0):
                return False  # as without VNNI, of which the test of the other product tells

        floats = weight.float()
        seconds, plain = (
            min(timeit.repeat(product, number=1, repeat=3))
            for product in (lambda: packed_uint8_linear(inputs, packed, scale), lambda: linear(inputs.float(), floats))
        )
        # A plain loop takes a hundred times as long.
        return seconds < 2 * plain
    except Exception as error:
        logger.warning("oneDNN's packed int8 product is not available (%s). Another one is used", error)
        return False


def pack_int8(weight: torch.Tensor) -> torch.Tensor:
    """Reorders int8 weights ``(outputs, inputs)`` into the layout that oneDNN's kernels for this CPU read."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def packed_uint8_linear(inputs: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Computes ``(inputs - 128) @ weight.T * scale`` with weights from :func:`pack_int8`.

    Args:
        inputs: a uint8 tensor ``(tokens, inputs)``
        packed: the packed weights
        scale: a float32 tensor ``(outputs,)``

    Returns:
        a float32 tensor ``(tokens, outputs)``
    """
    zero = torch.zeros_like(scale, dtype=torch.int32)
    linear_pointwise = torch.ops.onednn.qlinear_pointwise
    return linear_pointwise(inputs, 1.0, 128, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")


def int8_product() -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]:
    """Chooses how this CPU multiplies 8-bit integers.

    Returns:
        a function of two int8 matrices that returns their product, and the largest value that the second may hold.
        CPUs without VNNI add two products in 16 bits. There the largest value is 63: two products of 255 and 63 fit
    """
    return (_plain_int8_product, 127) if plain_only() else _int8_product()


@functools.cache
def _int8_product():
    try:
        for largest in (127, 63):
            if _int8_product_is_right(largest):
                if largest < 127:
                    logger.warning("This CPU adds products of 8 bits in 16 bits (no VNNI). Weights are kept in 7 bits")
                return torch._int_mm, largest
        logger.warning("torch._int_mm is wrong on this CPU. The plain product is used, which is slower")
    except Exception as error:
        _report_absent("torch._int_mm", error)
    return _plain_int8_product, 127


def _int8_product_is_right(largest):
    generator = torch.Generator().manual_seed(0)
    for tokens in (1, 65):
        inputs = torch.randint(-127, 128, (tokens, 160), generator=generator, dtype=torch.int8)
        weight = torch.randint(-largest, largest + 1, (160, 48), generator=generator, dtype=torch.int8)
        # The largest possible sums, of each sign.
        inputs[0], weight[:, 0], weight[:, 1] = 127, largest, -largest
        exact = inputs.double() @ weight.double()
        if not torch.equal(torch._int_mm(inputs, weight).double(), exact):
            return False

    return True


def _plain_int8_product(inputs, weight):
    return inputs.float() @ weight.float()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has bfloat16 units, and torch's attention and products are right in bfloat16.

    The units are AMX or AVX512_BF16: Intel since Sapphire Rapids, AMD since Zen 4. Other CPUs convert bfloat16 to
    float32 and back, slower than float32 itself. Arm's units are not used, since they were not measured.
    """
    has_units = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT").upper()
    if not has_units or not any(isa in limit for isa in _BFLOAT16_ISAS) or not _packs(torch.bfloat16):
        return False

    query = torch.randn(1, 2, 40, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    try:
        found = scaled_dot_product_attention(query, query, query, is_causal=True)
    except RuntimeError:  # e.g. with ATEN_CPU_CAPABILITY=avx2
        return False

    query64 = query.double()
    exact = scaled_dot_product_attention(query64, query64, query64, is_causal=True)
    # Each value is a weighted mean. The weights and the result are rounded.
    return bool(((found.double() - exact).abs() <= 4 * torch.finfo(torch.bfloat16).eps * query.abs().max()).all())
