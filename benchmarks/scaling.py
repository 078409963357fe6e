"""What a page costs, against its resolution, the batch, the number of tasks and classes, and the size of the dataset;
a text against its length; and how much memory a process takes that answers queries alone.

    make scaling                                  # all layers on a GPU; on a CPU, 8 of 32 blocks and 4 of 36 layers
    make scaling ARGUMENTS="--quick --device cpu"
    make scaling ARGUMENTS="--memory --blocks 32 --layers 36"    # the memory alone, of the real model's

The weights are random, of the real model's widths. The dataset alone is of small images, for the demo model.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from jina_embeddings_v4.engine.checkpoint import read_config
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.images import resize_image
from jina_embeddings_v4.engine.scoring import TokenSet, maxsim

from . import HAS_FIFTYONE
from .full_width import draw_pages, language_weights
from .memory import print_memory
from .throughput import PeakMemory, prepare, synchronize


def main():
    arguments, device, checkpoint = prepare(__doc__)
    print_memory(checkpoint, device)
    print()
    if arguments.memory:
        return
    encoder = Encoder.from_checkpoint(checkpoint, device=device)
    print(f"{encoder.dtype}\n")

    scale = Scaling(encoder, draw_pages(arguments.directory / "pages", 8), 1 if arguments.quick else 3)
    for figures in (scale.adapters, scale.resolution, scale.batch, scale.tasks, scale.classes, scale.text_length):
        figures()
        print()
    if HAS_FIFTYONE:
        dataset_size(arguments.directory, device, (100, 1000) if arguments.quick else (100, 1000, 10_000))


class Scaling:
    """Measures an encoder.

    Args:
        encoder: a :class:`engine.encoder.Encoder`
        paths: the paths of pages
        rounds: how often to measure each figure, of which the median is told
    """

    def __init__(self, encoder, paths, rounds):
        self.encoder, self._rounds = encoder, rounds
        self._settings = encoder.processor.image_settings
        self._path = paths[0]
        self._pages = [resize_image(path, self._settings) for path in paths]

    def seconds(self, run):
        """Returns the median time of a function. On a GPU, a first call is not counted. A CPU is as fast at once."""
        warm_up = self.encoder.device.type == "cuda"
        times = []
        for _ in range(self._rounds + warm_up):
            synchronize(self.encoder.device)
            start = time.perf_counter()
            run()
            synchronize(self.encoder.device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[warm_up:])

    def adapters(self):
        """What an adapter adds to the language model, and what it costs to switch.

        On a GPU, it is part of the same products, which without one multiply zeros: what it adds cannot be measured so.
        """
        backbone = self.encoder.backbone
        batch = [self.encoder.processor.image_tokens(page) for page in self._pages[:2]]
        visual = backbone.encode_vision(batch, self._settings)
        looking = self.seconds(lambda: backbone.encode_vision(batch, self._settings))

        # There is no adapter named "none", so nothing is added. Both are timed in turn, since the difference is small.
        times = {"none": [], "retrieval": []}
        for _ in range(5):
            for adapter, seconds in times.items():
                backbone.use(adapter)
                seconds.append(self.seconds(lambda adapter=adapter: backbone.encode_tokens(batch, adapter, visual)))
        without, applied = (statistics.median(seconds) for seconds in times.values())

        def switch():
            backbone.use("code")
            backbone.use("retrieval")

        print("| | s |")
        print("|---|---|")
        print(f"| two pages through the vision tower | {looking:.3f} |")
        if self.encoder.device.type != "cuda":
            print(f"| through the language model without an adapter | {without:.3f} |")
        print(f"| through the language model with one | {applied:.3f} |")
        if self.encoder.device.type != "cuda":
            print(f"| what it adds to the whole | {(applied - without) / (looking + without):.1%} |")
        print(f"| switching | {self.seconds(switch) / 2:.3f} |")

    def resolution(self):
        """The cost of a page against ``max_pixels``."""
        print("| max_pixels | visual tokens | s a page |")
        print("|---|---|---|")
        for max_pixels in (75264, 150528, 301056, 602112):
            page = resize_image(self._path, self._settings, max_pixels)
            tokens = page.pixels[0].numel() // self._settings.token_size**2
            seconds = self.seconds(lambda page=page: self.encoder.encode_images([page]))
            print(f"| {max_pixels} | {tokens} | {seconds:.3f} |")

    def batch(self):
        """The cost of a page, and the memory, against the number of pages that are handed over at once."""
        print("| pages at once | s a page | peak memory on top of the weights |")
        print("|---|---|---|")
        for count in (1, 2, 4, 8):
            pages = self._pages[:count]
            with PeakMemory(self.encoder.device) as memory:
                seconds = self.seconds(lambda pages=pages: self.encoder.encode_images(pages)) / count
            print(f"| {count} | {seconds:.3f} | {memory.bytes / 2**30:.2f} GiB |")

    def tasks(self):
        """The cost of a page for one, two and three tasks."""
        print("| tasks | s a page |")
        print("|---|---|")
        pages = self._pages[:2]
        for count in (1, 2, 3):
            tasks = self.encoder.tasks[:count]
            seconds = self.seconds(lambda tasks=tasks: self.encoder.encode_images(pages, tasks=tasks))
            print(f"| {count} | {seconds / len(pages):.3f} |")

    def classes(self):
        """What scoring against classes adds to a page."""
        print("| classes | s a page | share of the page's time |")
        print("|---|---|---|")
        pages = self._pages[:2]
        multi = self.encoder.encode_images(pages).multi
        page = self.seconds(lambda: self.encoder.encode_images(pages)) / len(pages)
        generator = np.random.default_rng(0)
        for count in (10, 100, 1000):
            vectors = [generator.standard_normal((6, 128), dtype=np.float32) for _ in range(count)]
            classes = TokenSet(vectors, self.encoder.device)
            seconds = self.seconds(lambda classes=classes: maxsim(multi, classes)) / len(pages)
            print(f"| {count} | {seconds:.4f} | {seconds / page:.2%} |")

    def text_length(self):
        """The cost of a text against its length, and against the time that reading the weights once takes."""
        device, dtype = self.encoder.device, self.encoder.dtype
        memory = torch.zeros(2**30 // dtype.itemsize, dtype=dtype, device=device)
        weights = language_weights(read_config(self.encoder.directory)) * dtype.itemsize
        reading = self.seconds(memory.amax) * weights / 2**30
        del memory
        print(f"Reading the language model's weights, {weights / 2**30:.2f} GiB, takes {reading:.4f} s\n")
        print("| tokens | texts at once | s a text | times the reading, all texts |")
        print("|---|---|---|---|")
        numbers = iter(range(10**6))
        for tokens, count in ((8, 1), (8, 64), (64, 16), (512, 4), (2048, 1)):

            def run(tokens=tokens, count=count):
                # New texts each time, since the embeddings of earlier ones are cached.
                texts = [f"{next(numbers)} " + "a " * tokens for _ in range(count)]
                self.encoder.encode_texts(texts, max_length=tokens)

            seconds = self.seconds(run)
            print(f"| {tokens} | {count} | {seconds / count:.4f} | {seconds / reading:.1f} |")


def dataset_size(directory, device, counts):
    """The cost of an image, and the memory, against the size of the dataset that one call embeds."""
    import fiftyone as fo
    from jina_embeddings_v4 import DEMO_CHECKPOINT
    from jina_embeddings_v4.integration.config import JinaV4Config
    from jina_embeddings_v4.zoo import JinaV4

    files = [str(Path(path).resolve()) for path in draw_pages(directory / "small", 100, (336, 252))]
    model = JinaV4(JinaV4Config({"checkpoint": DEMO_CHECKPOINT, "device": str(device)}))

    def embed(count):
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=files[i % len(files)]) for i in range(count)], progress=False)
        with PeakMemory(device) as memory:
            start = time.perf_counter()
            dataset.compute_embeddings(
                model, embeddings_field="embedding", batch_size=16, num_workers=2, progress=False
            )
            seconds = time.perf_counter() - start
        dataset.delete()
        return seconds, memory.bytes

    embed(counts[0])  # warms up
    print("| images in the dataset | ms an image | peak memory on top of the weights |")
    print("|---|---|---|")
    for count in counts:
        seconds, peak = embed(count)
        print(f"| {count} | {seconds / count * 1e3:.1f} | {peak / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
