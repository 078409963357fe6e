"""Trains an adapter on your own FiftyOne dataset of pages and texts that should find them.

    python -m jina_embeddings_v4.finetuning.finetune DATASET --text-field question --output my_adapter

Training starts from the checkpoint's adapter, and uses the paper's losses. Load the trained adapter with
``fiftyone.zoo.load_zoo_model("jinaai/jina-embeddings-v4", adapter="my_adapter")``.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import DEMO_CHECKPOINT, DEMO_MODEL
from ..engine.arguments import check_choice
from ..engine.checkpoint import ADAPTERS, REPOSITORY, fingerprint, read_config, resolve
from ..engine.devices import resolve_device, resolve_dtype
from ..engine.image_batch import ImageBatch
from ..engine.image_files import ImageError, check_dataset_path
from ..engine.images import resize_image
from ..engine.loading import load_network
from ..engine.processing import Processor
from .adapters import Batch, train_adapter
from .files import read_adapter_config, write_adapters

if TYPE_CHECKING:
    from fiftyone.core.collections import SampleCollection

logger = logging.getLogger(__name__)


def finetune(
    samples: "SampleCollection",
    text_field: str,
    output: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    task: str = "retrieval",
    negatives_field: str | None = None,
    steps: int = 500,
    batch_size: int = 16,
    learning_rate: float = 2e-4,
    max_pixels: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    workers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Trains an adapter, and writes it.

    After a kill, the same call on the same data continues from the last save. With other arguments or data, it raises
    an error: choose another ``output``, or pass ``overwrite=True``.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection` of images
        text_field: the field that holds, for each image, a text that should find it, or a list of texts. Samples
            without a text are skipped
        output: the directory to write the adapter to, in the hub's layout. Its ``training`` folder holds the training
            state and a plot of the losses
        checkpoint (None): a local directory, ``"org/name"``, ``"org/name@revision"`` or
            ``"jina-embeddings-v4-demo"`` to start from. ``None`` means jina-embeddings-v4
        task ("retrieval"): the task whose adapter to train
        negatives_field (None): a field that holds, for each sample, a list of the IDs of its hard negatives, samples
            that look relevant to its texts and are not
        steps (500): the number of batches
        batch_size (16): the number of pairs in a batch. All other images in a batch are negatives, so more is better
        learning_rate (2e-4): the peak learning rate
        max_pixels (None): the area down to which larger images are resized. ``None`` means the checkpoint's own
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. ``None`` takes the first that is available
        precision ("auto"): the precision of the frozen weights, ``"auto"``, ``"float32"`` or ``"bfloat16"``. The
            adapter is trained in float32
        workers (2): the number of processes that read images
        seed (0): the random seed of the batches
        overwrite (False): whether to delete the training state in ``output``, and start again

    Raises:
        ValueError: if fewer than two images have a text, an argument is not allowed, or ``output`` holds the state of
            another training
    """
    pairs, paths = _read_pairs(samples, text_field, negatives_field)
    directory = resolve(DEMO_CHECKPOINT if checkpoint == DEMO_MODEL else checkpoint or REPOSITORY)
    config = read_config(directory)
    check_choice("task", task, config["task_names"])
    check_choice("precision", precision, ("auto", "float32", "bfloat16"))
    resolved = resolve_device(device)
    network = load_network(directory, resolved, resolve_dtype(precision, resolved))
    processor = Processor(directory)

    def batches(start):
        loader = torch.utils.data.DataLoader(
            _Images(paths, processor.image_settings, max_pixels),
            batch_sampler=(_images_of(_draw(pairs, batch_size, seed, step)) for step in range(start, steps)),
            collate_fn=ImageBatch,
            num_workers=workers,
        )
        for step, images in enumerate(loader, start):
            batch = _draw(pairs, batch_size, seed, step)
            yield _make_batch(processor, task, batch, dict(zip(_images_of(batch), images, strict=True)))

    state = Path(output, "training")
    if overwrite:
        shutil.rmtree(state, ignore_errors=True)
    tensors = train_adapter(
        state,
        network,
        task,
        processor,
        config["matryoshka_dims"],
        batches,
        steps,
        learning_rate,
        save_memory=True,
        identity={
            "checkpoint": fingerprint(directory),
            "texts, images and negatives": hashlib.sha256(json.dumps([pairs, paths]).encode()).hexdigest()[:12],
            "batch_size": batch_size,
            "max_pixels": max_pixels,
            "precision": precision,
            "seed": seed,
        },
    )
    write_adapters(output, read_adapter_config(directory / ADAPTERS), {task: tensors})


def _read_pairs(samples, text_field, negatives_field):
    """Returns a list of tuples ``(sample ID, text, IDs of negatives)``, and a dict of all images' paths by ID."""
    ids, paths, texts = samples.values(["id", "filepath", text_field])
    negatives = samples.values(negatives_field) if negatives_field else [None] * len(ids)
    path_of = dict(zip(ids, paths, strict=True))
    pairs = []
    for sample_id, value, negative_ids in zip(ids, texts, negatives, strict=True):
        for text in [value] if isinstance(value, str) else value or ():
            if text.strip():
                pairs.append((sample_id, text, [other for other in negative_ids or () if other in path_of]))

    if len({sample_id for sample_id, _, _ in pairs}) < 2:
        raise ValueError(
            f"Field {text_field!r} gives {len(pairs)} text(s): expected texts, or lists of texts, for at least "
            "two images"
        )
    return pairs, path_of


def _draw(pairs, size, seed, step):
    """Draws the pairs of a step, all of different images, each with one hard negative if it has any."""
    generator = random.Random(f"{seed} batch {step}")
    drawn, seen = [], set()
    for sample_id, text, negatives in generator.sample(pairs, len(pairs)):
        if sample_id not in seen:
            seen.add(sample_id)
            drawn.append((sample_id, text, generator.choice(negatives) if negatives else None))
        if len(drawn) == size:
            break

    return drawn


def _images_of(batch):
    """Returns the distinct IDs of a batch's images: those of the pairs in their order, then the hard negatives."""
    positives = [sample_id for sample_id, _, _ in batch]
    return list(dict.fromkeys(positives + [negative for _, _, negative in batch if negative]))


class _Images(torch.utils.data.Dataset):
    def __init__(self, paths, settings, max_pixels):
        self._paths, self._settings, self._max_pixels = paths, settings, max_pixels

    def __getitem__(self, sample_id):
        try:
            return resize_image(check_dataset_path(self._paths[sample_id]), self._settings, self._max_pixels)
        except ImageError as error:
            logger.warning("Left out of the batch: %s", error)
            return None


def _make_batch(processor, task, batch, images):
    """Tokenizes a batch, without the images that cannot be read."""
    readable = {sample_id: image for sample_id, image in images.items() if image is not None}
    batch = [pair for pair in batch if pair[0] in readable]
    positives = [sample_id for sample_id, _, _ in batch]
    targets = positives + [sample_id for sample_id in readable if sample_id not in positives]
    # An image with the same text is not a negative.
    text_of = {sample_id: text for sample_id, text, _ in batch}
    excluded = torch.tensor(
        [[sample_id != other and text_of.get(other) == text for other in targets] for sample_id, text, _ in batch]
    )
    return Batch(
        [processor.text_tokens(text, task) for _, text, _ in batch],
        [processor.image_tokens(readable[sample_id]) for sample_id in targets],
        excluded,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="the name of the FiftyOne dataset")
    parser.add_argument("--text-field", required=True, help="the field of the texts that should find each image")
    parser.add_argument("--output", required=True, help="the directory to write the adapter to")
    parser.add_argument("--checkpoint", help="the checkpoint to start from; by default, jinaai/jina-embeddings-v4")
    parser.add_argument("--task", default="retrieval", help="the task whose adapter to train")
    parser.add_argument("--negatives-field", help="a field with lists of the IDs of hard negatives")
    parser.add_argument("--steps", type=int, default=500, help="the number of batches")
    parser.add_argument("--batch-size", type=int, default=16, help="the number of images in a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="the peak learning rate")
    parser.add_argument("--max-pixels", type=int, help="the area down to which larger images are resized")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--overwrite", action="store_true", help="delete the training state, and start again")
    arguments = vars(parser.parse_args())

    import fiftyone as fo

    finetune(fo.load_dataset(arguments.pop("dataset")), **arguments)


if __name__ == "__main__":
    main()
