"""Where to compute, and in which type."""

import pytest
import torch
from jina_embeddings_v4.jina_v4.devices import resolve_device, resolve_dtype


def test_devices():
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("cpu:0") == torch.device("cpu")
    assert resolve_device(None).type == ("cuda" if torch.cuda.is_available() else resolve_device(None).type)

    for device in ("gpu", "", "cuda:x", "meta", "xpu"):
        with pytest.raises(ValueError, match=f"device='{device}' is not allowed: expected .*'cuda'.*'mps'.*'cpu'"):
            resolve_device(device)
    with pytest.raises(ValueError, match="device='cuda:99' is not there: "):
        resolve_device("cuda:99")


def test_precisions():
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) == resolve_dtype("float32", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    for precision in ("fp16", "half", None, torch.float32):
        with pytest.raises(ValueError, match="precision=.* expected one of 'auto', 'float32', 'bfloat16', 'float16'"):
            resolve_dtype(precision, cpu)


def test_eight_bits_are_for_the_cpu():
    assert resolve_dtype("int8", torch.device("cpu")) == torch.int8
    with pytest.raises(ValueError, match="precision='int8' is for the CPU, and the device is 'mps': take 'auto'"):
        resolve_dtype("int8", torch.device("mps"))
