"""Checks the engine against a plain implementation, on the installed weights, processor and versions.

Usage::

    python -m jina_embeddings_v4.engine.verification --model CHECKPOINT --device cuda --precision auto

The reference, :mod:`engine.reference`, shares only the loading of files with the engine. No code from the hub is run.
"""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from .checkpoint import CheckpointError, read_json, resolve
from .devices import PRECISIONS, exact_float32, free_cache, resolve_device
from .encoder import Encoder
from .reference import Reference

# The texts, and their prompt names.
TEXTS = {
    "a short query": ("an invoice with a blue stamp", "query"),
    "an empty query": ("", "query"),
    "other scripts": ("Rechnung über 20 € – 請求書 🧾 счёт", "query"),
    "a passage": ("The contract was signed by both parties on 3 May. " * 8, "passage"),
    "a long passage": ("def area(radius):\n    return 3.14159 * radius**2\n\n" * 60, "passage"),
}

# The images' heights and widths. A page of the checkpoint's largest size, and one beyond it, are added.
SIZES = {
    "a small image": (37, 61),
    "a square": (224, 224),
    "a wide strip": (56, 600),
    "a tall strip": (700, 40),
    "a photograph": (300, 451),
}


@dataclass(frozen=True)
class Bounds:
    """The allowed differences of embeddings from the reference.

    Args:
        difference: the largest difference of two values of single vectors
        multi_difference: the largest difference of two values of multi-vectors
        single: the smallest cosine of two single vectors
        multi: the smallest mean cosine of the rows of two multi-vectors
        token: the smallest cosine of two rows of multi-vectors
    """

    difference: float
    multi_difference: float
    single: float
    multi: float
    token: float


# In float32, two implementations differ by rounding, which grows with the layers: by 1e-7 to 2e-6 in measurements. Half
# precision rounds values to 3 digits, and int8 rounds weights and inputs to 2. A single row differs by more than the
# mean of all, but a row that is swapped with another, or computed from garbage, differs far more.
BOUNDS = {
    torch.float32: Bounds(1e-5, 1e-5, 0.99999, 0.99999, 0.99999),
    torch.bfloat16: Bounds(1e-2, 5e-2, 0.999, 0.999, 0.98),
    torch.float16: Bounds(1e-2, 5e-2, 0.999, 0.999, 0.98),
    torch.int8: Bounds(5e-2, 0.2, 0.995, 0.995, 0.9),
}


@dataclass
class Row:
    """The measured differences of some inputs' embeddings from the reference.

    Args:
        task: the task
        inputs: a description of the inputs
        difference: the largest difference of two values of single vectors
        multi_difference: the largest difference of two values of multi-vectors
        single: the smallest cosine of two single vectors
        multi: the smallest mean cosine of the rows of two multi-vectors
        token: the smallest cosine of two rows of multi-vectors
        worst: the name of the input with the lowest of these cosines
    """

    task: str
    inputs: str
    difference: float
    multi_difference: float
    single: float
    multi: float
    token: float
    worst: str

    def is_within(self, bounds: Bounds) -> bool:
        """Whether all differences are within the bounds. NaN is not."""
        is_near = self.difference <= bounds.difference and self.multi_difference <= bounds.multi_difference
        return is_near and all(getattr(self, name) >= getattr(bounds, name) for name in ("single", "multi", "token"))


def verify(
    checkpoint: str | os.PathLike,
    device: str | torch.device | None = None,
    precision: str = "auto",
    reference_device: str | torch.device | None = None,
) -> tuple[list[Row], torch.dtype, tuple[float, float]]:
    """Compares the engine with the reference.

    They are loaded one after the other, so that only one is in memory.

    Args:
        checkpoint: a local directory, ``"org/name"`` or ``"org/name@revision"``
        device (None): the engine's device, as in :class:`engine.encoder.Encoder`
        precision ("auto"): the engine's precision
        reference_device (None): the reference's device. Its float32 takes twice the memory of bfloat16. ``None`` means
            the engine's device

    Returns:
        a tuple of the list of :class:`Row`, the engine's :class:`torch.dtype`, and the seconds of the reference and of
        the engine, loading included

    Raises:
        engine.checkpoint.CheckpointError: if the checkpoint cannot be found or downloaded, or is damaged
        ValueError: if an argument is not allowed
    """
    directory = resolve(checkpoint)
    device = resolve_device(device)
    # First, so that wrong arguments fail before the reference runs.
    encoder = Encoder(directory, device=device, precision=precision)
    settings = read_json(directory / "preprocessor_config.json")
    images = _draw_images(settings["max_pixels"])

    start = time.perf_counter()
    with exact_float32:
        expected = Reference(directory, resolve_device(reference_device or device), settings).embed(TEXTS, images)
    gc.collect()
    free_cache(device)
    reference_seconds = time.perf_counter() - start

    start = time.perf_counter()
    rows = []
    for task in encoder.tasks:
        for inputs, names, encode in (
            ("texts", list(TEXTS), lambda names, task=task: _encode_texts(encoder, names, task)),
            ("images", list(images), lambda names, task=task: encoder.encode_images([images[n] for n in names], task)),
        ):
            singly = [encode([name]) for name in names]
            single = np.concatenate([embeddings.single for embeddings in singly])
            rows.append(
                _compare(
                    expected,
                    task,
                    f"{inputs}, one by one",
                    names,
                    single,
                    [embeddings.multi[0] for embeddings in singly],
                )
            )
            together = encode(names)
            rows.append(_compare(expected, task, f"{inputs}, as a batch", names, together.single, together.multi))
    return rows, encoder.dtype, (reference_seconds, time.perf_counter() - start)


def _encode_texts(encoder, names, task):
    # Clears the cache, so that texts that were encoded alone are encoded in the batch, too.
    encoder._cache = type(encoder._cache)()
    found = {}
    for prompt_name in ("query", "passage"):
        kind_names = [name for name in names if TEXTS[name][1] == prompt_name]
        embeddings = encoder.encode_texts([TEXTS[name][0] for name in kind_names], task, prompt_name)
        found |= zip(kind_names, zip(embeddings.single, embeddings.multi, strict=True), strict=True)
    return type(embeddings)(np.stack([found[name][0] for name in names]), [found[name][1] for name in names])


def _compare(expected, task, inputs, names, single, multi):
    differences, multi_differences, cosines, means, lowest = [], [], [], [], []
    for name, found, found_rows in zip(names, single, multi, strict=True):
        exact, exact_rows = expected[task, name]
        differences.append(np.abs(found - exact).max())
        cosines.append(float(found.astype(np.float64) @ exact))
        if found_rows.shape == exact_rows.shape:
            multi_differences.append(np.abs(found_rows - exact_rows).max())
            row_cosines = (found_rows.astype(np.float64) * exact_rows).sum(axis=1)
        else:
            multi_differences.append(np.inf)
            row_cosines = np.array([-1.0])
        means.append(float(row_cosines.mean()))
        lowest.append(float(row_cosines.min()))
    worst = names[int(np.argmin(np.nan_to_num(np.minimum(np.minimum(cosines, means), lowest), nan=-2)))]
    smallest = (float(np.min(values)) for values in (cosines, means, lowest))
    return Row(task, inputs, float(np.max(differences)), float(np.max(multi_differences)), *smallest, worst)


def _draw_images(max_pixels):
    """Draws the images: a dict of PIL images by name."""
    random = np.random.default_rng(51)
    images = {}
    for name, (height, width) in SIZES.items():
        coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        images[name] = coarse.resize((width, height))

    width = int((max_pixels / 2**0.5) ** 0.5)
    page = Image.new("RGB", (width, int(width * 2**0.5)), "white")
    draw = ImageDraw.Draw(page)
    for line, y in enumerate(range(20, page.height - 20, 16)):
        draw.text((20, y), f"{line:03}  total amount due, item {line * 37 % 101}, EUR {line * 7.25:.2f}", fill="black")
    images["a full page"] = page
    # This one is resized when it is loaded.
    images["a page beyond max_pixels"] = page.resize((page.width * 4 // 3, page.height * 5 // 4))
    return images


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check as a command.

    Returns:
        0 if all embeddings are within the bounds, else 1
    """
    parser = argparse.ArgumentParser(description="Checks the embeddings on your weights, device and versions.")
    parser.add_argument("--model", required=True, help="a directory, org/name or org/name@revision")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu; by default the first available")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="the engine's precision")
    parser.add_argument("--reference-device", help="the float32 reference's device; by default the same device")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device or None)
        print(_describe(device), flush=True)
        rows, dtype, (reference_seconds, seconds) = verify(
            options.model, device, options.precision, options.reference_device
        )
    except (CheckpointError, ValueError) as error:
        print(f"FAIL: {error}")
        return 1

    bounds = BOUNDS[dtype]
    name = str(dtype).removeprefix("torch.")
    print(
        f"precision={options.precision!r} took {name}. Reference: {reference_seconds:.1f} s, engine: {seconds:.1f} s\n"
    )
    heads = f"{'difference':>10} {'of tokens':>9} {'cosine':>9} {'of tokens':>9} {'of each':>9}"
    print(f"{'task':14} {'inputs':20} {heads}  worst")
    for row in rows:
        print(
            f"{row.task:14} {row.inputs:20} {row.difference:10.1e} {row.multi_difference:9.1e} {row.single:9.6f} "
            f"{row.multi:9.6f} {row.token:9.6f}  {row.worst}"
            f"{'' if row.is_within(bounds) else '  <- beyond the bounds'}"
        )
    print(
        f"\nBounds of {name}: difference at most {bounds.difference:.0e}, of tokens {bounds.multi_difference:.0e}, "
        f"cosine at least {bounds.single}, "
        f"mean cosine of an input's tokens at least {bounds.multi}, of each of them at least {bounds.token}"
    )
    bad = [row for row in rows if not row.is_within(bounds)]
    if not bad:
        print("PASS: the embeddings are those of the float32 reference, within the bounds")
        return 0

    worst = min(bad, key=lambda row: np.nan_to_num(min(row.single, row.multi, row.token), nan=-2))
    print(
        f"FAIL: {worst.worst!r}, task {worst.task!r}, {worst.inputs}, differs most. Try precision='float32' and "
        "JINA_V4_PLAIN_KERNELS=1, and report the output above"
    )
    return 1


def _describe(device):
    import peft
    import transformers

    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}, "
        f"Python {platform.python_version()}; device {device} ({processor})"
    )


if __name__ == "__main__":
    sys.exit(main())
