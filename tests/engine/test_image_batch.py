"""Batches leave a data loader's worker through shared memory where there is enough of it."""

import shutil
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine.image_batch import ImageBatch
from jina_embeddings_v4.engine.images import resize_image
from PIL import Image


@pytest.fixture(scope="module")
def settings(encoder):
    return encoder.processor.image_settings


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(51).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_a_batch_leaves_a_worker_as_one_tensor_in_shared_memory(settings, photo):
    """A worker's tensors hold a file descriptor each: a batch of hundreds would exhaust them."""
    small = resize_image(photo.resize((60, 90)), settings)
    batch = ImageBatch([resize_image(photo, settings), "no image", small, None])
    received = ForkingPickler.loads(ForkingPickler.dumps(batch))
    assert received[1::2] == ["no image", None] and len(received) == 4
    for mine, its in zip(batch[::2], received[::2], strict=True):
        assert torch.equal(its.pixels, mine.pixels) and its.name == mine.name and its.pixels.is_shared()
    assert len({image.pixels.untyped_storage().data_ptr() for image in received[::2]}) == 1
    assert ForkingPickler.loads(ForkingPickler.dumps(ImageBatch(["no image"]))) == ["no image"]


def test_a_batch_for_which_there_is_no_shared_memory_leaves_a_worker_all_the_same(settings, photo, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64, used=0, free=64))
    image = resize_image(photo, settings)
    (received,) = ForkingPickler.loads(ForkingPickler.dumps(ImageBatch([image])))
    assert torch.equal(received.pixels, image.pixels) and not received.pixels.is_shared()
