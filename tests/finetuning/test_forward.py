"""What is trained is what is used: the vectors that gradients flow through are the engine's."""

import numpy as np
import pytest
import torch
from jina_embeddings_v4.engine.images import resize_image
from jina_embeddings_v4.engine.loading import load_network
from jina_embeddings_v4.finetuning.forward import embed, visual_tokens
from torch.nn.functional import normalize

TEXTS = ["an invoice", "a much longer text that asks for a letter with a stamp", ""]


@pytest.fixture(scope="module")
def network(checkpoint):
    return load_network(checkpoint, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("task", ["retrieval", "code"])
def test_texts(network, encoder, task):
    network.set_adapter(task)
    vectors = embed(network.base_model.model, [encoder.processor.text_tokens(text, task) for text in TEXTS])
    assert_same(vectors, encoder.encode_texts(TEXTS, task=task))


def test_pages(network, encoder, golden_images):
    network.set_adapter("retrieval")
    settings = encoder.processor.image_settings
    pages = [resize_image(path, settings, 100_000) for path in list(golden_images.values())[:3]]
    batch = [encoder.processor.image_tokens(page) for page in pages]
    vectors = embed(network.base_model.model, batch, visual_tokens(network.base_model.model, batch, settings))
    assert_same(vectors, encoder.encode_images(pages))


def assert_same(vectors, expected):
    np.testing.assert_allclose(normalize(vectors.single, dim=-1).detach(), expected.single, atol=2e-6)
    for ours, theirs in zip(vectors.multi, expected.multi, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, atol=2e-6)
