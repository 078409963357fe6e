"""Says what this machine has, which copies of this package it runs, how fast it should be, and whether it is right."""

import argparse
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch
from tabulate import tabulate

from .. import DEMO_CHECKPOINT, DEMO_MODEL
from ..engine import verification
from ..engine.checkpoint import CheckpointError, resolve
from ..engine.devices import resolve_device, resolve_dtype
from ..engine.linear import make_linear
from ..integration.installation import find_copies, report

_PACKAGES = ("fiftyone", "fiftyone-brain", "torch", "torchvision", "transformers", "peft", "huggingface_hub", "numpy")

# The matrix products of a page of 768 visual tokens in the real model: rows, inputs, outputs, and how often.
_PRODUCTS = (
    (3072, 1280, 3840, 32),
    (3072, 1280, 1280, 32),
    (3072, 1280, 6912, 32),
    (3072, 3456, 1280, 32),
    (779, 2048, 2560, 36),
    (779, 2048, 2048, 36),
    (779, 2048, 22016, 36),
    (779, 11008, 2048, 36),
)

# The pages that are multiplied at once, as the engine packs them.
_PAGES = {"cuda": 16}


def examine(options: argparse.Namespace) -> int:
    """Prints all of it.

    Returns:
        0 if the embeddings are right, else 1
    """
    try:
        device = resolve_device(options.device)
        dtype = resolve_dtype(options.precision, device)
    except ValueError as error:
        raise SystemExit(error) from None

    print(tabulate([(name, _version(name)) for name in _PACKAGES], tablefmt="plain"))
    print(f"Python {platform.python_version()}, {platform.platform()}\n")
    print(f"Device: {device}, {_describe(device)}")
    name = str(dtype).removeprefix("torch.")
    print(f"precision={options.precision!r} takes {name}")
    pages = pages_per_second(device, dtype)
    print(
        f"About {pages:.2g} pages of 768 visual tokens a second at most, or {1 / pages:.2g} s a page: the time of "
        "their matrix products alone, measured now. What else there is takes a tenth to a third more\n"
    )
    print(f"{report(find_copies())}\n")
    return verification.main(
        ["--model", str(_checkpoint(options.model)), "--device", str(device), "--precision", options.precision]
    )


def pages_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Estimates how many pages the real model embeds in a second, by its matrix products.

    Args:
        device: the device
        dtype: the precision

    Returns:
        the number, if nothing but the products took time
    """
    seconds, pages = 0.0, _PAGES.get(device.type, 1)
    floats = torch.float32 if dtype == torch.int8 else dtype
    for rows, inputs, outputs, count in _PRODUCTS:
        weight = torch.randn(outputs, inputs, device=device).to(floats)
        layer = make_linear(weight, int8=dtype == torch.int8)
        left = torch.randn(pages * rows, inputs, device=device).to(floats)
        layer(left)
        _synchronize(device)
        start = time.perf_counter()
        layer(left)
        _synchronize(device)
        seconds += count * (time.perf_counter() - start)
    return pages / seconds


def _synchronize(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _describe(device):
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.get_device_name(device)}, {memory / 2**30:.0f} GiB"

    return (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    )


def _checkpoint(model):
    """Returns the directory to verify: that of the model if its weights are here, else that of the demo model."""
    if model == DEMO_MODEL:
        return DEMO_CHECKPOINT
    try:
        return resolve(model, download=False)
    except CheckpointError:
        print(f"The weights of {model} are not on this machine, so the demo model is verified")
        return DEMO_CHECKPOINT
