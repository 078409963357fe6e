"""Trains an adapter on a FiftyOne dataset of one's own: pages, and texts that should find them.

    python -m jina_embeddings_v4.finetuning.finetune DATASET --text-field question --output my_adapter

The adapter goes on from the checkpoint's own, on the same losses that the paper trains with. Load it with
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
from ..engine.image_files import check_dataset_path
from ..engine.images import ImageBatch, ImageError, resize_image
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
    """Trains an adapter and writes it.

    Run again after a kill with the same arguments and data, it goes on from its last save. With others, it refuses:
    choose another ``output``, or pass ``overwrite=True``.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection` of images
        text_field: the field that holds, for each image, a text that should find it, or a list of these. Samples
            without are left out
        output: the directory to write the adapter to, in the hub's layout. Its ``training`` folder holds the state of
            the training and a plot of the losses
        checkpoint (None): a local directory, ``"org/name"``, ``"org/name@revision"`` or
            ``"jina-embeddings-v4-demo"`` to start from. ``None`` means jina-embeddings-v4
        task ("retrieval"): the task whose adapter to train
        negatives_field (None): a field that holds lists of the IDs of samples that look right for a sample's texts and
            are not
        steps (500): the number of batches
        batch_size (16): the number of pairs in a batch. All other images of a batch are negatives, so more is better
        learning_rate (2e-4): its peak
        max_pixels (None): the area down to which larger images are resized. ``None`` means the checkpoint's own
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. ``None`` takes the first there is
        precision ("auto"): ``"auto"``, ``"float32"`` or ``"bfloat16"``, of the frozen weights. The adapter is trained
            in float32
        workers (2): the number of processes that read images
        seed (0): what decides the batches
        overwrite (False): whether to begin anew where ``output`` holds another training, or a finished one

    Raises:
        ValueError: if there are fewer than two images with a text, an argument is not allowed, or ``output`` holds
            another training
    """
    pairs, paths = _read_pairs(samples, text_field, negatives_field)
    directory = resolve(DEMO_CHECKPOINT if checkpoint == DEMO_MODEL else checkpoint or REPOSITORY)
    config = read_config(directory)
    check_choice("task", task, config["task_names"])
    check_choice("precision", precision, ("auto", "float32", "bfloat16"))
    device = resolve_device(device)
    network = load_network(directory, device, resolve_dtype(precision, device))
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
    """Returns the list of ``(sample ID, text, IDs of negatives)``, and the dict of all images' paths by ID."""
    ids, paths, texts = samples.values(["id", "filepath", text_field])
    negatives = samples.values(negatives_field) if negatives_field else [None] * len(ids)
    known = dict(zip(ids, paths, strict=True))
    pairs = []
    for sample_id, said, wrong in zip(ids, texts, negatives, strict=True):
        for text in [said] if isinstance(said, str) else said or ():
            if text.strip():
                pairs.append((sample_id, text, [other for other in wrong or () if other in known]))

    if len({sample_id for sample_id, _, _ in pairs}) < 2:
        raise ValueError(
            f"Field {text_field!r} gives {len(pairs)} text(s): expected texts, or lists of them, for two images or more"
        )
    return pairs, known


def _draw(pairs, size, seed, step):
    """Draws the pairs of a step, of different images, and at most one negative for each."""
    generator = random.Random(f"{seed} batch {step}")
    drawn, seen = [], set()
    for sample_id, text, wrong in generator.sample(pairs, len(pairs)):
        if sample_id not in seen:
            seen.add(sample_id)
            drawn.append((sample_id, text, generator.choice(wrong) if wrong else None))
        if len(drawn) == size:
            break

    return drawn


def _images_of(batch):
    """The IDs of a batch's images, each once: the pairs' own in their order, then the negatives."""
    own = [sample_id for sample_id, _, _ in batch]
    return list(dict.fromkeys(own + [wrong for _, _, wrong in batch if wrong]))


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
    """Lays out a batch, without the images that cannot be read."""
    readable = {sample_id: image for sample_id, image in images.items() if image is not None}
    batch = [pair for pair in batch if pair[0] in readable]
    own = [sample_id for sample_id, _, _ in batch]
    targets = own + [sample_id for sample_id in readable if sample_id not in own]
    # An image whose text is the same is no negative.
    texts_of = {sample_id: text for sample_id, text, _ in batch}
    excluded = torch.tensor(
        [[sample_id != other and texts_of.get(other) == text for other in targets] for sample_id, text, _ in batch]
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
    parser.add_argument("--checkpoint", help="what to start from; by default, jinaai/jina-embeddings-v4")
    parser.add_argument("--task", default="retrieval", help="the task whose adapter to train")
    parser.add_argument("--negatives-field", help="a field with IDs of samples that look right and are not")
    parser.add_argument("--steps", type=int, default=500, help="the number of batches")
    parser.add_argument("--batch-size", type=int, default=16, help="the number of images in a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="its peak")
    parser.add_argument("--max-pixels", type=int, help="the area down to which larger images are resized")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where the output holds another training")
    arguments = vars(parser.parse_args())

    import fiftyone as fo

    finetune(fo.load_dataset(arguments.pop("dataset")), **arguments)


if __name__ == "__main__":
    main()
