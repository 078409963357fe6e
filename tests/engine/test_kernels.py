"""Operators that are absent or wrong are noticed, and the plain way is taken."""

import time

import pytest
import torch
from jina_embeddings_v4.engine import kernels
from jina_embeddings_v4.engine.linear import Int8Linear, PlainLinear, make_linear
from torch.nn.functional import linear, scaled_dot_product_attention


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What was found out of the real operators is not what a test makes of them, nor the other way round."""
    monkeypatch.delenv(kernels.PLAIN, raising=False)
    # What was found out is kept by private functions alone.
    cached = kernels._packs, kernels._int8_product, kernels._multiplies_uint8, kernels.multiplies_bfloat16
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def saturating(inputs, weight):
    """The product of a CPU without VNNI: inputs are shifted to be positive, pairs of products are added in 16 bits."""
    products = (inputs.long() + 128)[:, :, None] * weight.long()
    pairs = products.unflatten(1, (-1, 2)).sum(dim=2).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(dim=1) - 128 * weight.long().sum(dim=0)).int()


def test_the_chosen_int8_product_is_exact_on_this_cpu():
    assert_exact(*kernels.int8_product())


def assert_exact(product, largest=127):
    """Asserts that a product of integers is exact, of the largest ones, too."""
    generator = torch.Generator().manual_seed(51)
    inputs = torch.randint(-127, 128, (300, 1280), generator=generator, dtype=torch.int8)
    weight = torch.randint(-largest, largest + 1, (1280, 64), generator=generator, dtype=torch.int8)
    inputs[:4], weight[:, 0], weight[:, 1] = 127, largest, -largest
    exact = inputs.double() @ weight.double()
    # Sums beyond 24 bits are rounded where they are summed in float32.
    torch.testing.assert_close(product(inputs, weight).double(), exact, atol=0, rtol=2**-22)


def test_a_product_that_saturates_gets_weights_of_seven_bits(monkeypatch, caplog):
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert kernels.int8_product() == (saturating, 63)
    assert "no VNNI" in caplog.text and len(caplog.records) == 1

    generator = torch.Generator().manual_seed(51)
    weight, inputs = torch.randn(48, 64, generator=generator), torch.randn(9, 64, generator=generator)
    found, expected = Int8Linear(weight)(inputs), linear(inputs, weight)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9995


@pytest.mark.parametrize("absent", [True, False])
def test_without_a_right_product_of_integers_the_plain_one_is_taken(monkeypatch, caplog, absent):
    if absent:
        monkeypatch.delattr(torch, "_int_mm")
    else:
        monkeypatch.setattr(torch, "_int_mm", lambda inputs, weight: saturating(inputs, weight) + 1)
    product, largest = kernels.int8_product()
    assert largest == 127
    assert_exact(product)
    assert "torch._int_mm" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["absent", "wrong", "slow"])
def test_a_packed_product_of_integers_that_is_no_good_is_not_used(monkeypatch, caplog, kind):
    def product(inputs, packed, scale):
        if kind == "absent":
            raise AttributeError("no such operator")
        if kind == "slow":  # as oneDNN's plain loop
            time.sleep(0.05)
        return linear(inputs.float() - 128, packed.float()) * scale + (kind == "wrong")

    monkeypatch.setattr(kernels, "pack_int8", lambda weight: weight)
    monkeypatch.setattr(kernels, "packed_uint8_linear", product)
    assert isinstance(make_linear(torch.randn(4, 4), int8=True), Int8Linear)
    assert ("no such operator" in caplog.text) == (kind == "absent")


@pytest.mark.parametrize("kind", ["absent", "wrong"])
def test_a_packed_product_that_is_absent_or_wrong_is_not_used(monkeypatch, caplog, kind):
    def product(inputs, weight, bias):
        if kind == "absent":
            raise AttributeError("no such operator")
        return linear(inputs, weight, bias) + 1e-2

    monkeypatch.setattr(kernels, "pack", lambda weight: weight)
    monkeypatch.setattr(kernels, "packed_linear", product)
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert isinstance(make_linear(torch.randn(4, 4)), PlainLinear)
    assert "The plain product is used" in caplog.text and len(caplog.records) == 1


def test_all_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(kernels.PLAIN, "1")
    assert isinstance(make_linear(torch.randn(4, 4)), PlainLinear)
    assert isinstance(make_linear(torch.randn(4, 4), int8=True), Int8Linear)
    monkeypatch.setattr(torch, "_int_mm", lambda inputs, weight: pytest.fail("torch's product is taken"))
    assert kernels.int8_product()[1] == 127
    assert_exact(kernels.int8_product()[0])


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "avx512_core_vnni"])
def test_a_cpu_that_is_told_to_do_without_bfloat16_has_none(monkeypatch, isa):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert not kernels.multiplies_bfloat16()


def test_a_cpu_whose_attention_raises_in_bfloat16_has_none(monkeypatch):
    def right(query, key, value, is_causal):
        sides = (side.double() for side in (query, key, value))
        return scaled_dot_product_attention(*sides, is_causal=is_causal).to(query.dtype)

    def raising(*_, **__):
        raise RuntimeError("pack_vnni2 is only supported when avx512 is supported")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(kernels, "_packs", lambda dtype: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    for attention, has in ((right, True), (raising, False)):
        kernels.multiplies_bfloat16.cache_clear()
        monkeypatch.setattr(kernels, "scaled_dot_product_attention", attention)
        assert kernels.multiplies_bfloat16() is has
