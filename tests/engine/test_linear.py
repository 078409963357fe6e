"""Linear layers of each kind against the plain product."""

import pytest
import torch
from jina_embeddings_v4.engine.linear import Int8Linear, PackedLinear, PlainLinear, make_linear, take_weights
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


@pytest.mark.parametrize("tokens", [1, 7, 1500])
def test_eight_bits_stay_close(layer, tokens):
    inputs = torch.randn(tokens, 64)
    found, expected = Int8Linear(*layer)(inputs), linear(inputs, *layer)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9995


def test_in_eight_bits_a_large_token_does_not_cost_the_others_their_precision(layer):
    inputs = torch.randn(8, 64)
    alone = Int8Linear(*layer)(inputs)
    inputs[3] *= 1000
    others = [i for i in range(8) if i != 3]
    torch.testing.assert_close(Int8Linear(*layer)(inputs)[others], alone[others])


def test_a_token_of_zeros_gives_the_bias(layer):
    weight, bias = layer
    expected = torch.zeros(2, 96) if bias is None else bias.expand(2, -1)
    torch.testing.assert_close(Int8Linear(weight, bias)(torch.zeros(2, 64)), expected)


def test_weights_that_are_taken_are_gone_where_they_were():
    layers = [torch.nn.Linear(4, outputs) for outputs in (3, 2)]
    expected = torch.cat([layer.weight.detach() for layer in layers])
    weight, bias = take_weights(layers)
    assert torch.equal(weight, expected) and bias.shape == (5,)
    assert not any(layer.weight.numel() for layer in layers)
