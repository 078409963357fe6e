"""Linear layers of each kind against the plain product."""

import pytest
import torch
from jina_embeddings_v4.engine.kernels import multiplies_uint8
from jina_embeddings_v4.engine.linear import (
    Int8Linear,
    PackedInt8Linear,
    PackedLinear,
    PlainLinear,
    make_linear,
    take_weights,
)
from torch.nn.functional import linear


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def layer(request):
    torch.manual_seed(51)
    return torch.randn(96, 64), torch.randn(96) if request.param else None


@pytest.mark.parametrize("tokens", [1, 7, 1500])
@pytest.mark.parametrize("make", [make_linear, PackedLinear, PlainLinear])
def test_the_product_is_the_same(make, layer, tokens):
    inputs = torch.randn(tokens, 64)
    torch.testing.assert_close(make(*layer)(inputs), linear(inputs, *layer), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(layer, dtype):
    weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in layer)
    inputs = torch.randn(9, 64, dtype=dtype)
    found = make_linear(weight, bias)(inputs)
    assert found.dtype == dtype
    torch.testing.assert_close(found, linear(inputs, weight, bias), atol=0.3, rtol=0)


@pytest.fixture(params=[Int8Linear, PackedInt8Linear])
def int8_linear(request):
    if request.param is PackedInt8Linear and not multiplies_uint8():
        pytest.skip("oneDNN's packed int8 product is not right on this CPU, and not used")
    return request.param


@pytest.mark.parametrize("tokens", [1, 7, 1500])
def test_eight_bits_stay_close(int8_linear, layer, tokens):
    inputs = torch.randn(tokens, 64)
    found, expected = int8_linear(*layer)(inputs), linear(inputs, *layer)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9995


def test_in_eight_bits_a_large_token_does_not_cost_the_others_their_precision(int8_linear, layer):
    inputs = torch.randn(8, 64)
    alone = int8_linear(*layer)(inputs)
    inputs[3] *= 1000
    others = [i for i in range(8) if i != 3]
    torch.testing.assert_close(int8_linear(*layer)(inputs)[others], alone[others])


def test_a_token_of_zeros_gives_the_bias(int8_linear, layer):
    weight, bias = layer
    expected = torch.zeros(2, 96) if bias is None else bias.expand(2, -1)
    torch.testing.assert_close(int8_linear(weight, bias)(torch.zeros(2, 64)), expected)


def test_both_kinds_of_eight_bits_agree(layer):
    if not multiplies_uint8():
        pytest.skip("oneDNN's packed int8 product is not right on this CPU, and not used")
    inputs = torch.randn(70, 64)
    found, expected = PackedInt8Linear(*layer)(inputs), Int8Linear(*layer)(inputs)
    # Ties round up in one and to even in the other, in few places by one part in 127 of a token's largest input.
    assert (found - expected).abs().max() < 0.05 and (found - expected).abs().mean() < 1e-3


def test_weights_that_are_taken_are_gone_where_they_were():
    layers = [torch.nn.Linear(4, outputs) for outputs in (3, 2)]
    expected = torch.cat([layer.weight.detach() for layer in layers])
    weight, bias = take_weights(layers)
    assert torch.equal(weight, expected) and bias.shape == (5,)
    assert not any(layer.weight.numel() for layer in layers)
