"""The packed towers against transformers' own, which pad, under PEFT's own adapters.

Two ways to compute in float32 differ by rounding, on each processor by another amount. So both are compared with a run
of transformers' towers in float64, and the packed ones may be off by no more than the padded ones are, but for chance.
"""

import jina_embeddings_v4.engine.adapted
import pytest
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.engine.adapted import AdaptedLinear, FusedAdaptedLinear
from jina_embeddings_v4.engine.images import resize_image
from jina_embeddings_v4.engine.loading import load_backbone, load_network
from jina_embeddings_v4.engine.processing import Processor
from jina_embeddings_v4.engine.vision import _kept_layout, lay_out
from jina_embeddings_v4.finetuning.forward import embed, visual_tokens

TEXTS = ["an invoice", "", "a much longer text that asks for a letter with a red stamp", "two words"]
# Whole windows, parts of windows on each side, images smaller than a window, one row of patches.
SIZES = [(224, 224), (300, 200), (200, 300), (40, 60), (28, 600), (224, 224)]


@pytest.fixture(scope="module", params=["fixture", "demo"])
def directory(request, checkpoint):
    return checkpoint if request.param == "fixture" else DEMO_CHECKPOINT


@pytest.fixture(scope="module", params=[AdaptedLinear, FusedAdaptedLinear], ids=["for CPUs", "for GPUs"])
def backbone(request, directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jina_embeddings_v4.engine.adapted, "_kind", lambda layer: request.param)
        yield load_backbone(directory, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def network(directory):
    """The same weights, run by transformers and PEFT."""
    return load_network(directory, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def exact_network(directory):
    """The same in float64, but for norms and rotations, which transformers always computes in float32."""
    return load_network(directory, torch.device("cpu"), torch.float64)


@pytest.fixture(scope="module")
def processor(directory):
    return Processor(directory)


@pytest.fixture(scope="module")
def pages(processor):
    generator = torch.Generator().manual_seed(51)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]
    return [processor.image_tokens(resize_image(image, processor.image_settings)) for image in images]


def assert_rounded(found, plain, exact):
    """Asserts that values in float32 are as near to the exact ones as another way to compute them in float32 is.

    The largest of the errors varies more than their mean square. On five kinds of processor, the former was up to 1.7
    times that of the plain way, the latter up to 1.4 times.
    """
    error, plain_error = found.double() - exact.double(), plain.double() - exact.double()
    assert error.square().mean().sqrt() <= 2 * plain_error.square().mean().sqrt()
    assert error.abs().max() <= 4 * plain_error.abs().max()


def assert_same(backbone, networks, batch, adapter, visual=None, expected_visuals=(None, None)):
    hidden_states, projected = backbone.encode_tokens(batch, adapter, visual)
    expected_states, expected_multi = [], []
    for network, expected_visual in zip(networks, expected_visuals, strict=True):
        network.set_adapter(adapter)
        with torch.no_grad():
            expected = embed(network.base_model.model, batch, expected_visual)
        rows = zip(expected.hidden_states, batch, strict=True)
        expected_states.append(torch.cat([states[: len(tokens)] for states, tokens in rows]))
        expected_multi.append(torch.cat(expected.multi))
    assert_rounded(hidden_states, *expected_states)
    assert_rounded(torch.nn.functional.normalize(projected, dim=-1), *expected_multi)


def test_images(backbone, network, exact_network, processor, pages):
    visual = backbone.encode_vision(pages, processor.image_settings)
    networks = network, exact_network
    with torch.no_grad():
        expected = [visual_tokens(one.base_model.model, pages, processor.image_settings) for one in networks]
    assert_rounded(visual, *(torch.cat(tokens) for tokens in expected))
    for task in ("retrieval", "code"):
        assert_same(backbone, networks, pages, task, visual, expected)


@pytest.mark.parametrize("task", ["retrieval", "text-matching", "code"])
def test_texts(backbone, network, exact_network, processor, task):
    batch = [processor.text_tokens(text, task) for text in TEXTS]
    assert_same(backbone, (network, exact_network), batch, task)


def test_switching_adapters_never_drifts(backbone, processor):
    batch = [processor.text_tokens(text, "retrieval") for text in TEXTS]
    first = {task: backbone.encode_tokens(batch, task)[0] for task in ("retrieval", "text-matching", "code")}
    for _ in range(34):
        for task, expected in first.items():
            assert torch.equal(backbone.encode_tokens(batch, task)[0], expected)

    assert not torch.equal(first["retrieval"], first["code"])


def test_weights_are_held_once(backbone, network):
    """What the packed layers compute with is not kept in the network, too."""
    embeddings = network.base_model.model.model.get_input_embeddings().weight.numel()
    adapters = sum(weight.numel() for name, weight in network.named_parameters() if "lora" in name)
    everything = sum(weight.numel() for weight in network.parameters())
    kept = sum(weight.numel() for weight in backbone.network.parameters())
    assert kept < embeddings + adapters + 0.05 * everything


def test_a_switch_that_failed_half_way_is_not_taken_for_granted(backbone, processor, monkeypatch):
    batch = [processor.text_tokens("a", "retrieval")]
    expected = backbone.encode_tokens(batch, "retrieval")[0]
    # Nobody else is to have the layers, of which one must fail when those before it have switched.
    last = backbone._decoder._layers[-1]
    with monkeypatch.context() as patch:

        def fail(adapter):
            raise MemoryError

        patch.setattr(last, "use", fail)
        with pytest.raises(MemoryError):
            backbone.encode_tokens(batch, "code")

    assert torch.equal(backbone.encode_tokens(batch, "retrieval")[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8], ids=str)
def test_rotary_frequencies_are_not_rounded(directory, network, dtype):
    rounded = load_backbone(directory, torch.device("cpu"), dtype).towers.model.language_model.rotary_emb.inv_freq
    assert torch.equal(rounded, network.base_model.model.model.language_model.rotary_emb.inv_freq)


def test_adapters_of_a_higher_rank_find_room():
    torch.manual_seed(51)
    weight, inputs = torch.randn(6, 5), torch.randn(3, 5)

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = torch.nn.Linear(5, 6)
            self.base_layer.weight.data = weight.clone()
            self.lora_A = torch.nn.ModuleDict({"low": torch.nn.Linear(5, 1, bias=False)})
            self.lora_B = torch.nn.ModuleDict({"low": torch.nn.Linear(1, 6, bias=False)})
            self.scaling = {"low": 1.0, "high": 2.0}

    module = torch.nn.Module()
    module.layer = Adapted()
    fused = FusedAdaptedLinear(module, ["layer"])
    module.layer.lora_A["high"] = torch.nn.Linear(5, 4, bias=False)
    module.layer.lora_B["high"] = torch.nn.Linear(4, 6, bias=False)
    for name in ("high", "low", "none", "high"):
        fused.use(name)
        buffer = fused.input_buffer(3)
        buffer[:, :5] = inputs
        added = 0.0
        if name in module.layer.lora_A:
            added = module.layer.scaling[name] * module.layer.lora_B[name](module.layer.lora_A[name](inputs)).detach()
        bias = module.layer.base_layer.bias.detach()
        torch.testing.assert_close(fused(buffer), inputs @ weight.T + bias + added)


def test_layouts_of_large_images_are_not_kept():
    cpu, small, large = torch.device("cpu"), (8, 16), (2 * 32, 2 * 33)
    for _ in range(2):
        for grid in (small, large):
            lay_out([grid], 2, 4, 80, cpu)
    kept = _kept_layout.cache_info()
    lay_out([small, large], 2, 4, 80, cpu)
    assert _kept_layout.cache_info().currsize == kept.currsize and kept.currsize <= kept.maxsize == 256
    assert _kept_layout.cache_info().hits == kept.hits + 1 and _kept_layout.cache_info().misses == kept.misses
