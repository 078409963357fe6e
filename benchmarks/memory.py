"""How much memory a process holds that embeds texts alone, and one that embeds images, too.

    python -m benchmarks.memory CHECKPOINT --device cpu --precision bfloat16 [--images]

Each figure is of a process of its own. On a CPU, it is the private memory: that of no file. The files of the weights
are mapped, and the system drops what it has read of them where others need the memory.
"""

import argparse
import json
import subprocess
import sys
import threading
import time

import torch
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.image_batch import ResizedImage

from .throughput import memory_in_use


def print_memory(checkpoint, device):
    """Prints the memory at its peak, and afterwards."""
    print("| precision | what is embedded | peak | afterwards | seconds to the first vector |")
    print("|---|---|---|---|---|")
    for precision in ("bfloat16",) if device.type == "cuda" else ("bfloat16", "int8"):
        for images in (False, True):
            command = [sys.executable, "-m", "benchmarks.memory", str(checkpoint), "--device", str(device)]
            command += ["--precision", precision, *(["--images"] if images else [])]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            what = "texts and images" if images else "texts alone"
            sizes = " | ".join(f"{found[name] / 2**30:.2f} GiB" for name in ("peak", "afterwards"))
            print(f"| {precision} | {what} | {sizes} | {found['seconds']:.1f} |", flush=True)


class Peak:
    """The largest of the process's figures of memory while a block of code runs, which a thread reads."""

    def __init__(self, device):
        self._device, self._done, self.bytes = device, threading.Event(), 0

    def now(self):
        """Returns the memory in use, in bytes."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return memory_in_use("RssAnon")

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)

    def _watch(self):
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, self.now())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--images", action="store_true", help="whether to embed an image, too")
    arguments = parser.parse_args()

    start = time.perf_counter()
    device = torch.device(arguments.device)
    with Peak(device) as peak:
        encoder = Encoder.from_checkpoint(arguments.checkpoint, device=device, precision=arguments.precision)
        if arguments.images:
            # A small one, so that the figure is that of the weights.
            encoder.encode_images([ResizedImage(torch.zeros(3, 224, 224, dtype=torch.uint8), "a page")])
        encoder.encode_texts(["a b c"])
        seconds = time.perf_counter() - start
        # A second time, for what is made at the first.
        encoder.encode_texts(["c b a"])
        afterwards = peak.now()
    print(json.dumps({"peak": peak.bytes, "afterwards": afterwards, "seconds": seconds}))


if __name__ == "__main__":
    main()
