"""The engine on a GPU that is not there: no tensor is left on the CPU, nothing waits, and little is asked of the GPU.

Values are made up, so what is computed is for other tests to say. Kernels in Triton cannot run on tensors without
values. In their place, stand-ins count one launch each, and the bytes of what the kernels read and write.
"""

import gc
import sys

import numpy as np
import pytest
import torch
from jina_embeddings_v4.demo.files import PATTERN, new_towers
from jina_embeddings_v4.engine import attention, decoder, elementwise, kernels, loading
from jina_embeddings_v4.engine.checkpoint import ADAPTERS
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.images import ResizedImage
from jina_embeddings_v4.finetuning.files import read_adapter_config

from benchmarks import full_width

from ..support.eager_weights import EagerWeights
from ..support.fake_gpu import Mixed, Waits, fake_gpu

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU, on which other tests run what is faked here"
)

TASKS = ["retrieval", "text-matching", "code"]
KINDS = ["triton", "flash", "plain"]
SIZES = [(224, 224), (40, 300), (224, 224)]

# A batch of the real model's, and what it may take: of launches, and for a page, of traffic beside products and
# attention, in bytes. Operators one by one would take 2,500 launches and 32 GB.
PAGES, BLOCKS, LAYERS = 21, 32, 36
LAUNCHES, TRAFFIC = 900, 7.5e9
OTHERS = {"mm", "addmm", "attend_in_windows", "attend_causally", "_varlen_attn"}


@pytest.fixture
def gpu(monkeypatch):
    """A fake GPU. Nothing that was found out about it outlives the test."""
    # Fake tensors are this thread's alone, and transformers would load weights in others.
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    monkeypatch.delenv(kernels.PLAIN, raising=False)
    empty_caches()
    with fake_gpu() as gpu:
        yield gpu
    empty_caches()


def empty_caches():
    """Forgets what the engine keeps by device."""
    for name, module in list(sys.modules.items()):
        if name.startswith("jina_embeddings_v4.engine."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
    # Backbones are shared for as long as they are there.
    gc.collect()


def choose(patch, gpu, kind):
    """Chooses what the GPU has: kernels in Triton, torch's attention over packs alone, or neither, as an old one."""
    for module in (attention, decoder, elementwise):
        patch.setattr(module, "fuses", lambda device: kind == "triton" and device.type == "cuda")
    if kind == "plain":
        patch.setenv(kernels.PLAIN, "1")
    if kind != "triton":
        return

    pytest.importorskip("triton", reason="torch's builds without a GPU have no Triton")
    from jina_embeddings_v4.engine import triton_kernels

    def add_norm(residual, added, weight, epsilon, out):
        if added is None:
            gpu.count("add_norm", [residual, weight], [out])
        else:
            gpu.count("add_norm", [residual, added, weight], [residual, out])

    def rotate(vectors, cos, sin):
        gpu.count("rotate", [vectors, cos, sin], [vectors])

    def silu_mul(gate_up, out):
        gpu.count("silu_mul", [gate_up], [out])

    def attend_in_windows(vectors, cos, sin, offsets, out):
        gpu.count("attend_in_windows", [vectors, cos, sin, offsets], [out])

    def attend_causally(vectors, key_heads, cos, sin, packing, out, stages):
        gpu.count("attend_causally", [vectors, cos, sin, packing.offsets], [out])

    for stand_in in (add_norm, rotate, silu_mul, attend_in_windows, attend_causally):
        patch.setattr(triton_kernels, stand_in.__name__, stand_in)
    patch.setattr(attention, "causal_stages", lambda device: 3)


def images_of(sizes):
    return [np.full((*size, 3), 51, dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_all_is_on_the_gpu_and_nothing_waits_but_for_the_vectors(gpu, checkpoint, precision):
    encoder = Encoder.from_checkpoint(checkpoint, device="cuda", precision=precision)
    assert encoder.device == torch.device("cuda:0") and encoder.backbone.device == encoder.device
    # Torch's attention over packs does not take float32.
    for kind in KINDS if precision != "float32" else KINDS[::2]:
        with pytest.MonkeyPatch.context() as patch:
            choose(patch, gpu, kind)
            # What is found out once, the first batch waits for, and the first switch to an adapter prepares it.
            encoder.encode_images(images_of([(56, 56)]), tasks=TASKS)
            with gpu.never_waiting():
                for number, task in enumerate(("retrieval", "code")):
                    gpu.reset()
                    # Of a size of its own, so that it is laid out anew.
                    found = encoder.encode_images(images_of([(84, 28 * (number + 2)), *SIZES]), task)
                    assert found.single.shape == (4, 64) and len({len(rows) for rows in found.multi}) == 3
                    check_copies(gpu, found)
                gpu.reset()
                # Of texts that come again, nothing would be computed.
                found = encoder.encode_texts([kind, f"a text of {kind}", f"another one, of {kind}"], "text-matching")
                assert found.single.shape == (3, 64) and len({len(rows) for rows in found.multi}) == 3
                check_copies(gpu, found)


def check_copies(gpu, found):
    """Asserts that the host waits once, for the vectors, and that little else is copied."""
    assert gpu.launches and gpu.waits == 1
    assert gpu.to_host == [found.single.nbytes, sum(rows.nbytes for rows in found.multi)]
    # Pixels, tokens, offsets, what is pooled, and five of the layout.
    assert 2 <= len(gpu.to_device) <= 9


def test_a_switch_of_adapters_copies_the_other_one_on_the_gpu(gpu, checkpoint):
    encoder = Encoder.from_checkpoint(checkpoint, device="cuda", precision="bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, gpu, "triton")
        for task in ("code", "retrieval"):
            encoder.encode_texts(["to prepare"], task)
        copies, copied = [], []
        for number, task in enumerate(["code", "code", "retrieval"]):
            gpu.reset()
            with gpu.never_waiting():
                encoder.encode_texts([f"text {number}"], task)
            copies.append(gpu.launches["copy_"])
            copied.append(sum(gpu.to_device))

    # Four products a layer, and the projector.
    layers = encoder.backbone.towers.model.config.text_config.num_hidden_layers
    assert copies[0] - copies[1] == copies[2] - copies[1] == 4 * layers + 1
    assert len(set(copied)) == 1


@pytest.fixture
def real_widths(gpu, tmp_path, monkeypatch):
    """The directory of a checkpoint of the real model's settings, whose weights have shapes alone."""
    configs = []
    monkeypatch.setattr(full_width, "draw_weights", lambda config, device: configs.append(config))
    for written in ("write_base", "write_new_adapters"):
        monkeypatch.setattr(full_width, written, lambda *_: None)
    full_width.write_checkpoint(tmp_path, BLOCKS, LAYERS, "cpu")

    def load(directory, device, dtype):
        from peft import LoraConfig, PeftModel

        with torch.device(device):
            towers = new_towers(configs[0], 0)
        adapters = read_adapter_config(PATTERN / ADAPTERS)
        settings = {name: adapters[name] for name in ("target_modules", "exclude_modules")}
        config = LoraConfig(r=full_width.LORA_RANK, lora_alpha=full_width.LORA_RANK, **settings)
        network = PeftModel(towers, config, adapter_name="retrieval", autocast_adapter_dtype=False)
        # Not the rotary frequencies, which are no parameters.
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        return EagerWeights(network.requires_grad_(False).eval(), ("retrieval",), full_width.LORA_RANK)

    monkeypatch.setattr(loading, "Weights", load)
    return tmp_path


def test_little_is_asked_of_the_gpu(gpu, real_widths, monkeypatch):
    """What is asked for takes time whatever the GPU computes: a launch some microseconds, traffic its memory's pace."""
    choose(monkeypatch, gpu, "triton")
    # The files of the weights, which are not there, would be asked for by from_checkpoint().
    encoder = Encoder(real_widths, device="cuda", precision="bfloat16")
    pages = [ResizedImage(torch.zeros(3, 896, 672, dtype=torch.uint8), str(number)) for number in range(PAGES)]
    encoder.encode_images(pages)
    gpu.reset()
    with gpu.never_waiting():
        found = encoder.encode_images(pages)

    assert found.single.shape == (PAGES, 2048) and {len(rows) for rows in found.multi} == {797}
    # Pixels, tokens, offsets, and what is pooled. The layout of such a pack is there from the last time.
    assert gpu.waits == 1 and len(gpu.to_device) == 4
    # All layers were there, of each tower.
    assert gpu.launches["attend_causally"] == LAYERS
    assert gpu.launches["attend_in_windows"] + gpu.launches["_varlen_attn"] == BLOCKS
    launches = sum(gpu.launches.values())
    traffic = sum(count for name, count in gpu.traffic.items() if name not in OTHERS) / PAGES
    assert 0.5 * LAUNCHES < launches <= LAUNCHES, gpu.launches
    assert 0.5 * TRAFFIC < traffic <= TRAFFIC, gpu.traffic


@pytest.mark.parametrize(
    "stops",
    [
        lambda tensor: tensor[0, 0].item(),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: tensor.index_put_((tensor > 0,), torch.zeros((), device="cuda")),
        lambda tensor: bool((tensor > 0).all()),
        lambda tensor: tensor.sum().tolist(),
        lambda tensor: torch.equal(tensor, tensor + 1),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.to("cpu"),
        lambda tensor: tensor.copy_(torch.ones(2, 3), non_blocking=True),
        lambda tensor: torch.ones(2, 3).pin_memory().to("cuda"),
        lambda tensor: torch.tensor([1, 2], device="cuda"),
    ],
)
def test_what_stops_the_host_is_noticed(gpu, stops):
    tensor = torch.ones(2, 3, device="cuda")
    for mode in (torch.inference_mode, torch.no_grad):
        with mode(), gpu.never_waiting(), pytest.raises(Waits):
            stops(tensor)


@pytest.mark.parametrize(
    "mixes",
    [
        lambda gpu, cpu: gpu + cpu,
        lambda gpu, cpu: cpu @ gpu.T,
        lambda gpu, cpu: torch.cat([gpu, cpu]),
        lambda gpu, cpu: gpu[cpu.long()],
        lambda gpu, cpu: torch.nn.functional.linear(gpu, cpu),
        lambda gpu, cpu: torch.add(gpu, gpu, out=cpu),
    ],
)
def test_tensors_of_two_places_are_noticed(gpu, mixes):
    for mode in (torch.inference_mode, torch.no_grad):
        with mode(), pytest.raises(Mixed):
            mixes(torch.ones(2, 3, device="cuda"), torch.ones(2, 3))


def test_launches_bytes_and_copies_are_counted(gpu):
    host = torch.ones(4, 100).pin_memory()
    with torch.inference_mode(), gpu.never_waiting():
        tensor = host.to("cuda", non_blocking=True)
        row = torch.empty(100, device="cuda")
        torch.sum(tensor.T[:50] + 1, dim=0, out=row[:4])
        tensor += row
        found = tensor.to("cpu", non_blocking=True)
    assert gpu.launches == {"add": 1, "sum": 1, "add_": 1}
    assert gpu.traffic == {"add": 4 * 400, "sum": 4 * 204, "add_": 4 * 900}
    assert gpu.to_device == gpu.to_host == [1600]
    assert found.device.type == "cpu" and found.shape == (4, 100) and np.isfinite(found.numpy()).all()


def test_nothing_is_left_of_it():
    before = vars(torch.cuda).copy(), torch.nn.Module._apply
    with pytest.raises(KeyError), fake_gpu() as gpu:
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert torch.nn.Linear(2, 2).to("cuda").weight.is_cuda
        with gpu.never_waiting():
            raise KeyError
    assert (vars(torch.cuda), torch.nn.Module._apply) == before and not torch.cuda.is_available()
    assert type(torch.ones(1)) is torch.Tensor and (torch.ones(2) + 1).tolist() == [2, 2]
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device="cuda")
