"""How fast pages are embedded: this engine in each precision, beside the ways in which others run the same weights.

    make speed                                  # all layers on a GPU; on a CPU, 8 of 32 blocks and 4 of 36 layers
    make speed ARGUMENTS="--quick --device cpu"

The weights are random, of the real model's widths. All ways run in turn, round after round, so that a machine that
slows down slows them all. "Of the floor" compares with the time that the page's products and attention would take at
the rate of bare matrix products, of as many rows as a batch has and with sides that suit the processor, measured in
the same run.

Those on a GPU take pages that are prepared, but for the rows that say "from files". The rows of ``compute_embeddings``
need FiftyOne and are left out without it.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from jina_embeddings_v4.engine.checkpoint import read_config
from jina_embeddings_v4.engine.devices import exact_float32, resolve_device
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.images import resize_image
from jina_embeddings_v4.engine.linear import make_linear
from jina_embeddings_v4.engine.loading import load_network
from jina_embeddings_v4.engine.processing import Processor

from . import HAS_FIFTYONE
from .full_width import draw_pages, work, write_checkpoint
from .ways import integration, stock


def main():
    arguments, device, checkpoint = prepare(__doc__)
    files = draw_pages(arguments.directory / "pages", 64 if device.type == "cuda" else 2)
    print_table(measure(checkpoint, files, device, rounds=1 if arguments.quick else 3))


def prepare(description):
    """Reads the command's arguments, writes the checkpoint that they tell of, and names the machine.

    Returns:
        the arguments, the :class:`torch.device` and the checkpoint's directory
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure each figure once")
    parser.add_argument("--memory", action="store_true", help="of `make scaling`, the memory alone")
    parser.add_argument("--device", help="where to run, by default the first GPU, or the CPU")
    parser.add_argument("--blocks", type=int, help="the number of vision blocks")
    parser.add_argument("--layers", type=int, help="the number of layers of the language model")
    parser.add_argument("--directory", default="build/benchmark", type=Path, help="where checkpoint and pages are kept")
    arguments = parser.parse_args()

    device = resolve_device(arguments.device)
    on_gpu = device.type == "cuda"
    blocks, layers = arguments.blocks or (32 if on_gpu else 8), arguments.layers or (36 if on_gpu else 4)
    checkpoint = arguments.directory / f"checkpoint-{blocks}-{layers}"
    write_checkpoint(checkpoint, blocks, layers, device)
    print(f"{describe_machine(device)}; {blocks} of 32 vision blocks, {layers} of 36 layers, random weights\n")
    return arguments, device, checkpoint


def measure(checkpoint, files, device, rounds):
    """Measures all ways.

    Returns:
        a list of dicts, one a way
    """
    on_gpu = device.type == "cuda"
    processor = Processor(checkpoint)
    pages = [resize_image(file, processor.image_settings) for file in files]
    exact = load_network(checkpoint, device, torch.float32)
    with exact_float32:
        reference = np.concatenate([stock(exact, processor, [page])[0].float().numpy() for page in pages[:2]])
    few = pages[: 4 if on_gpu else 1]
    # Enough pages that the start of a call has as little weight as in a dataset.
    many = 4 if on_gpu else 1
    ways = {
        "as the integration runs it": (torch.bfloat16, lambda: integration(exact, processor, few)),
    }
    if not on_gpu:
        ways["stock transformers, float32"] = torch.float32, lambda: stock(exact, processor, few)
    if on_gpu:
        halved = load_network(checkpoint, device, torch.bfloat16)
        ways["stock transformers, bfloat16"] = torch.bfloat16, lambda: stock(halved, processor, pages[:16])
        compiled = Compiled(halved, processor, pages[:16])
        ways["stock transformers, bfloat16, torch.compile"] = torch.bfloat16, compiled
    for precision in ("bfloat16",) if on_gpu else ("float32", "bfloat16", "int8"):
        encoder = Encoder.from_checkpoint(checkpoint, device=device, precision=precision)
        ways[f"this engine, {precision}"] = encoder.dtype, lambda encoder=encoder: engine(encoder, pages * many)
        if on_gpu:
            name = f"this engine, {precision}, from files"
            ways[name] = encoder.dtype, lambda encoder=encoder: engine(encoder, files * many)
        if HAS_FIFTYONE:
            dataset = DatasetWay(checkpoint, files * 4 * many if on_gpu else files, device, precision)
            ways[f"this engine by compute_embeddings, {precision}"] = encoder.dtype, dataset

    config = read_config(checkpoint)
    tokens = len(processor.image_tokens(pages[0]))
    products, attention = work(config, tokens - 11, tokens)
    operations = attention + sum(2 * np.prod(size, dtype=float) * count for size, count in products.items())
    # As many as this engine packs into one pass.
    packed = max(1, encoder.backbone.token_budget // tokens)

    rows = {name: {"way": name, "seconds": [], "rates": []} for name in ways}
    # On a CPU, the first run is as fast.
    if on_gpu:
        for name, (_, run) in list(ways.items()):
            try:
                run()
            except Exception as error:  # of what is not ours; the others are measured
                print(f"{name}: {type(error).__name__}: {error}\n")
                del ways[name], rows[name]
    for _ in range(rounds):
        rates = {
            dtype: product_rate(products, packed, device, dtype) for dtype in {dtype for dtype, _ in ways.values()}
        }
        for name, (dtype, run) in ways.items():
            rows[name]["rates"].append(rates[dtype])
            with PeakMemory(device) as memory:
                start = time.perf_counter()
                vectors = run()[0]
                rows[name]["seconds"].append((time.perf_counter() - start) / len(vectors))
            found, expected = np.asarray(vectors)[: len(reference)], reference[: len(vectors)]
            rows[name]["memory"] = memory.bytes
            rows[name]["cosine"] = float((found * expected).sum(axis=1).min())
            rows[name]["difference"] = float(np.abs(found - expected).max())

    slowest = statistics.median(rows["as the integration runs it"]["seconds"])
    for row in rows.values():
        seconds = statistics.median(row["seconds"])
        row |= {
            "seconds": seconds,
            "ratio": slowest / seconds,
            "floor": operations / statistics.median(row["rates"]) / seconds,
        }
    return list(rows.values())


def engine(encoder, pages):
    """Encodes pages by this engine."""
    embeddings = encoder.encode_images(pages)
    return embeddings.single, embeddings.multi


class Compiled:
    """Stock transformers, each of whose layers is compiled, which takes a minute the first time."""

    def __init__(self, network, processor, pages):
        self._arguments = network, processor, pages
        model = network.base_model.model.model
        self._forwards = {
            layer: torch.compile(layer.forward) for layer in (*model.visual.blocks, *model.language_model.layers)
        }

    def __call__(self):
        # Compiled here only, so that the other way stays uncompiled.
        for layer, forward in self._forwards.items():
            layer.forward = forward
        try:
            return stock(*self._arguments)
        finally:
            for layer in self._forwards:
                del layer.forward


class DatasetWay:
    """Embeds a FiftyOne dataset of image files into a field, by the zoo model of the same weights."""

    def __init__(self, checkpoint, pages, device, precision):
        import fiftyone as fo
        from jina_embeddings_v4.integration.config import JinaV4Config
        from jina_embeddings_v4.zoo import JinaV4

        config = {"checkpoint": str(checkpoint), "device": str(device), "precision": precision}
        self._model = JinaV4(JinaV4Config(config))
        self._dataset = fo.Dataset()
        self._dataset.add_samples([fo.Sample(filepath=str(Path(page).resolve())) for page in pages], progress=False)
        self._workers, self._batch = (8, 32) if device.type == "cuda" else (0, 16)

    def __call__(self):
        self._dataset.compute_embeddings(
            self._model,
            embeddings_field="embedding",
            batch_size=self._batch,
            num_workers=self._workers,
            progress=False,
        )
        return self._dataset.values("embedding"), None


def product_rate(products, pages, device, dtype):
    """Measures the rate of the matrix products of a batch of pages, alone.

    Args:
        products: the products of one page, see :func:`benchmarks.full_width.work`
        pages: the number of pages
        device: the :class:`torch.device`
        dtype: the :class:`torch.dtype`

    Returns:
        floating-point operations per second
    """
    total, seconds = 0.0, 0.0
    repeat = 5 if device.type == "cuda" else 1
    # GPUs multiply fastest when the sides are multiples of this.
    side = 64 if device.type == "cuda" else 1
    for (rows, inputs, outputs), count in products.items():
        product, left = _product(pages * rows, -(-inputs // side) * side, -(-outputs // side) * side, device, dtype)
        product(left)
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeat):
            product(left)
        synchronize(device)
        seconds += (time.perf_counter() - start) / repeat * count
        total += 2.0 * pages * rows * inputs * outputs * count
    return total / seconds


def _product(rows, inputs, outputs, device, dtype):
    """Makes a function that multiplies by a matrix in the fastest way known here, and its argument."""
    left, weight = (torch.randn(n, inputs, device=device).to(dtype) for n in (rows, outputs))
    if dtype != torch.int8:
        return make_linear(weight), left

    weight = weight.T.contiguous()
    return lambda left: torch._int_mm(left, weight), left


class PeakMemory:
    """Measures how much memory a block of code takes on top of what is in use when it begins."""

    def __init__(self, device):
        self._device = device

    def __enter__(self):
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux alone counts peaks anew
            self._before = memory_in_use("VmRSS")
        return self

    def __exit__(self, *_):
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else memory_in_use("VmHWM")
        self.bytes = peak - self._before


def memory_in_use(name):
    """Reads one of the process's figures of memory, in bytes, by its name in Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status lacks {name}")


def synchronize(device):
    """Waits until a GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_machine(device):
    """Names the machine that figures are from."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_table(rows):
    """Prints the rows as a Markdown table."""
    print("| way | s a page | pages/s | times the integration's | of the floor | peak memory | cosine | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['seconds']:.4f} | {1 / row['seconds']:.2f} | {row['ratio']:.1f} | "
            f"{row['floor']:.0%} | {row['memory'] / 2**30:.2f} GiB | {row['cosine']:.6f} | {row['difference']:.1e} |"
        )


if __name__ == "__main__":
    main()
