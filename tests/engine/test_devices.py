"""Where to compute, and in which type."""

import contextlib

import pytest
import torch
from jina_embeddings_v4.engine import devices
from jina_embeddings_v4.engine.devices import exact_float32, resolve_device, resolve_dtype
from torch.nn.functional import scaled_dot_product_attention


def test_devices():
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("cpu:0") == torch.device("cpu")

    for device in ("gpu", "", "cuda:x", "meta", "xpu"):
        with pytest.raises(ValueError, match=f"device='{device}' is not allowed: expected .*'cuda'.*'mps'.*'cpu'"):
            resolve_device(device)
    with pytest.raises(ValueError, match="device='cuda:99' is not available: "):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda:1"), (True, False, "cuda:1"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_taken_unless_one_is_named(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device() == resolve_device(None) == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")
    if cuda:
        assert resolve_device("cuda") == torch.device("cuda:1")
        assert resolve_device("cuda:0") == torch.device("cuda:0")
        with pytest.raises(ValueError, match=r"device='cuda:2' is not available: this machine has 2 GPU\(s\)"):
            resolve_device("cuda:2")
    else:
        with pytest.raises(ValueError, match="device='cuda' is not available: torch .* finds no CUDA GPU"):
            resolve_device("cuda")
    if not mps:
        with pytest.raises(ValueError, match="device='mps' is not available: torch finds no Apple GPU"):
            resolve_device("mps")


def test_precisions():
    cpu = torch.device("cpu")
    assert resolve_dtype("float32", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    for precision in ("fp16", "half", None, torch.float32):
        with pytest.raises(ValueError, match="precision=.* expected one of 'auto', 'float32', 'bfloat16', 'float16'"):
            resolve_dtype(precision, cpu)


def test_eight_bits_are_for_the_cpu():
    assert resolve_dtype("int8", torch.device("cpu")) == torch.int8
    with pytest.raises(ValueError, match="precision='int8' is for the CPU, and the device is 'mps': use 'auto'"):
        resolve_dtype("int8", torch.device("mps"))


@pytest.mark.parametrize(("multiplies", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu_is_the_half_that_it_multiplies(monkeypatch, multiplies, expected):
    monkeypatch.delenv(devices.AUTO_PRECISION, raising=False)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    # An older GPU converts each bfloat16, which does not count.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or multiplies
    )
    assert resolve_dtype("auto", torch.device("cuda:0")) == expected
    assert resolve_dtype("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("has_units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_on_a_cpu_is_bfloat16_where_the_cpu_multiplies_it(monkeypatch, has_units, expected):
    monkeypatch.delenv(devices.AUTO_PRECISION, raising=False)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: has_units)
    assert resolve_dtype("auto", torch.device("cpu")) == expected


def test_the_environment_may_say_what_auto_is(monkeypatch):
    monkeypatch.setenv(devices.AUTO_PRECISION, "int8")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.int8
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16
    monkeypatch.setenv(devices.AUTO_PRECISION, "int7")
    with pytest.raises(ValueError, match="JINA_V4_AUTO_PRECISION='int7' is not allowed: expected one of 'auto'"):
        resolve_dtype("auto", torch.device("cpu"))


def test_what_auto_takes_here_can_attend(monkeypatch):
    monkeypatch.delenv(devices.AUTO_PRECISION, raising=False)
    query = torch.ones(1, 1, 40, 16, dtype=resolve_dtype("auto", torch.device("cpu")))
    assert torch.equal(scaled_dot_product_attention(query, query, query), query)


def test_float32_is_exact_whatever_a_person_allows():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = [backend.fp32_precision for backend in backends]
        assert allowed != ["ieee"] * 3
        with exact_float32:
            with exact_float32:
                pass
            assert [backend.fp32_precision for backend in backends] == ["ieee"] * 3
        assert [backend.fp32_precision for backend in backends] == allowed
    finally:
        torch.set_float32_matmul_precision(before)
