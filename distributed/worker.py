"""What Ray's processes run: tasks load images, and actors hold the model, embed blocks of images, and commit them.

Nothing that connects to FiftyOne's database or starts torch's threads is imported at the top: Ray imports this module
before a process knows its environment.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from ..engine.images import ImageSettings
    from ..zoo import JinaV4
    from .sinks import Sink

# The images that a task has in memory before it hands them on.
LOADED_AT_ONCE = 8

# A block of loaded images: what is wrong with those that could not be read, and the pixels of the others as bytes.
LOADED = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("pixels", pa.large_binary()),
    ]
)

# What became of a block.
DONE = pa.schema(
    [
        ("images", pa.int64()),
        ("embedded", pa.int64()),
        ("seconds", pa.float64()),
        ("failed", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """The model, as a worker loads it. Weights are never sent.

    Args:
        name: the model's name in the zoo, or ``None``
        config: the arguments of :class:`jina_embeddings_v4.integration.config.JinaV4Config`
    """

    name: str | None
    config: Mapping[str, Any]

    def load(self) -> "JinaV4":
        """Loads the model into this process."""
        from .. import checkpoint_of
        from ..integration.config import JinaV4Config
        from ..zoo import JinaV4

        config = JinaV4Config(dict(self.config))
        if config.checkpoint is None:
            config.checkpoint = checkpoint_of(self.name)
        return JinaV4(config)


def load_images(
    batch: pa.Table, settings: "ImageSettings", max_pixels: int | None, environment: Mapping[str, str]
) -> pa.Table:
    """Loads and resizes images, as the data loader of FiftyOne's calls does.

    Args:
        batch: a table of ``id`` and ``path``
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area after resizing, in pixels, or ``None``
        environment: the environment variables to set

    Returns:
        a table as :data:`LOADED` says
    """
    os.environ.update(environment)
    import torch

    from ..integration.failures import FailedImage, load_path_or_fail

    torch.set_num_threads(1)
    rows = []
    for row in batch.select(["id", "path"]).to_pylist():
        image = load_path_or_fail(row["path"], settings, max_pixels)
        if isinstance(image, FailedImage):
            rows.append(row | {"reason": image.reason})
        else:
            height, width = image.pixels.shape[1:]
            pixels = image.pixels.numpy().reshape(-1).data
            rows.append(row | {"name": image.name, "height": height, "width": width, "pixels": pixels})
    return pa.Table.from_pylist(rows, schema=LOADED)


class Embedder:
    """An actor that holds the model.

    Two threads call it: while one commits a block, the other embeds the next.

    Args:
        model: the :class:`ModelSource`
        sinks: the sinks, at least one
        environment: the environment variables to set
        threads: the number of the model's CPU threads, or ``None`` on a GPU
    """

    def __init__(
        self, model: ModelSource, sinks: "Sequence[Sink]", environment: Mapping[str, str], threads: int | None
    ) -> None:
        os.environ.update(environment)
        # Threads that spin while they wait would slow down the other processes of a machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self._threads = threads
        self._sinks = sinks
        self._warm = False
        self._lock = threading.Lock()
        self._error = None
        try:
            self._limit_threads()
            for sink in sinks:
                sink.open()
            self._model = model.load()
            self._tasks = list(dict.fromkeys(sink.task or self._model.task for sink in sinks))
        except Exception as error:
            # Ray would try again, and lose the error's message.
            self._error = _describe(error)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embeds the images of a block that a sink lacks, and commits them.

        Args:
            block: a table as :data:`LOADED` says

        Returns:
            a table of one row: the number of images in the block, how many of them were embedded now, the seconds that
            it took, a JSON list of the id, the path and the reason of each image that could not be embedded, and the
            error that made it impossible to go on, or ``None``
        """
        row: dict[str, Any] = {"images": len(block), "embedded": 0, "seconds": 0.0, "failed": [], "error": self._error}
        if self._error is None:
            try:
                row |= self._embed(block)
            except Exception as error:
                row["error"] = _describe(error)
        return pa.Table.from_pylist([row | {"failed": json.dumps(row["failed"])}], schema=DONE)

    def _embed(self, block):
        rows = block.drop_columns(["pixels"]).to_pylist()
        failed = [(row["id"], row["path"], row["reason"]) for row in rows if row["reason"] is not None]
        with self._lock:
            self._limit_threads()
            # Ray runs a block again if the process that embedded it died before it could say so.
            lacking = [set(sink.missing([row["id"] for row in rows])) for sink in self._sinks]
            chosen = [i for i, row in enumerate(rows) if row["reason"] is None and row["id"] in set.union(*lacking)]
            images = [_image(rows[i], block["pixels"][i]) for i in chosen]
            if images and not self._warm:
                # The first image is slow, and would make the estimate of the remaining time too long.
                self._encode(images[:1])
                self._warm = True
            start = time.perf_counter()
            images, embeddings = self._encode(images) if images else ([], {})
            seconds = time.perf_counter() - start

        from ..integration.failures import FailedImage

        ids = []
        for i, image in zip(chosen, images, strict=True):
            if isinstance(image, FailedImage):
                failed.append((rows[i]["id"], rows[i]["path"], image.reason))
            else:
                ids.append(rows[i]["id"])
        for sink, ids_lacking in zip(self._sinks, lacking, strict=True):
            keep = [i for i, sample_id in enumerate(ids) if sample_id in ids_lacking]
            if keep:
                sink.write([ids[i] for i in keep], embeddings[sink.task or self._model.task].select(keep), self._model)
        return {"embedded": len(chosen), "seconds": seconds, "failed": failed}

    def _encode(self, images):
        return self._model.encode_images(images, tasks=self._tasks, skip_failures=True)

    def _limit_threads(self):
        # torch keeps the number for each thread, and Ray calls this object from several.
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)


def _describe(error):
    return f"{type(error).__name__}: {error}"


def _image(row, pixels):
    import numpy as np
    import torch

    from ..engine.image_batch import ResizedImage

    # A copy, since torch warns of memory that is read-only.
    array = np.frombuffer(pixels.as_buffer(), np.uint8).copy()
    return ResizedImage(torch.from_numpy(array).view(3, row["height"], row["width"]), row["name"])
