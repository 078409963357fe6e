"""What embedding on Ray costs over the plain call, and what a second process brings.

    python -m jina_embeddings_v4.cli.private_fiftyone .demo python -m benchmarks.distributed
    python -m jina_embeddings_v4.cli.private_fiftyone .demo python -m benchmarks.distributed --images 400 --rounds 3

The demo model embeds pages of as many visual tokens as the real one takes, so that a page takes as long as some on a
GPU. All processes that embed have one thread. Rates begin with the first block, when all is loaded.
"""

import argparse
import statistics
import time
from pathlib import Path

import fiftyone as fo
import ray
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.distributed import iter_embed
from jina_embeddings_v4.integration.config import JinaV4Config
from jina_embeddings_v4.zoo import JinaV4

from .full_width import draw_pages

# Files of the size to which pages are resized, since what is measured is not the decoding of JPEG.
PAGE = (896, 672)
SETTINGS = {"max_pixels": PAGE[0] * PAGE[1], "device": "cpu", "precision": "float32"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(".demo") / "distributed")
    arguments = parser.parse_args()

    files = [str(Path(path).resolve()) for path in draw_pages(arguments.directory, 24, PAGE)]
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=files[i % len(files)]) for i in range(arguments.images)], progress=False)
    model = JinaV4(JinaV4Config({"checkpoint": DEMO_CHECKPOINT} | SETTINGS))
    torch.set_num_threads(1)
    plain(dataset, model)

    # In turn, since a machine is not equally fast all the time.
    ways = {
        "the plain call": lambda: plain(dataset, model),
        "Ray, 1 process": lambda: on_ray(dataset, model, 1),
        "Ray, 2 processes": lambda: on_ray(dataset, model, 2),
    }
    measured = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            measured[name].append(run())
    dataset.delete()

    print(f"{arguments.images} images, median of {arguments.rounds} rounds\n")
    print("| | ms an image | times the plain call | s until the first block |")
    print("|---|---|---|---|")
    base = None
    for name, runs in measured.items():
        seconds, start = (statistics.median(column) for column in zip(*runs, strict=True))
        base = base or seconds
        print(f"| {name} | {seconds * 1e3:.0f} | {base / seconds:.2f} | {start:.1f} |")


def plain(dataset, model):
    """Returns the seconds an image takes, and those until the first."""
    begin = time.perf_counter()
    dataset.compute_embeddings(model, embeddings_field="vector", batch_size=8, num_workers=1, progress=False)
    seconds = time.perf_counter() - begin
    dataset.delete_sample_field("vector")
    return seconds / len(dataset), 0.0


def on_ray(dataset, model, workers):
    """Returns the seconds an image takes after the first block, and those until then."""
    # As many processors as processes, so that each has one thread.
    ray.init(address="local", num_cpus=workers, include_dashboard=False, logging_level="warning")
    begin, first = time.perf_counter(), None
    for report in iter_embed(dataset, model, "vector", workers=workers):
        if first is None and report.done:
            first = time.perf_counter(), report.done
    end = time.perf_counter()
    ray.shutdown()
    dataset.delete_sample_field("vector")
    return (end - first[0]) / (len(dataset) - first[1]), first[0] - begin


if __name__ == "__main__":
    main()
