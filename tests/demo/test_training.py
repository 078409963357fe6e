"""The program that trains the demo model, from nothing to a checkpoint, in a few steps."""

import numpy as np
import torch
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.phrases import caption
from jina_embeddings_v4.demo.pages.rendering import draw_document
from jina_embeddings_v4.demo.tasks import TASKS as DEMO_TASKS
from jina_embeddings_v4.demo.training import train_demo
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.loading import load_network
from jina_embeddings_v4.finetuning.forward import embed
from jina_embeddings_v4.finetuning.losses import joint_loss
from safetensors.torch import load_file
from transformers import Qwen2Tokenizer

TASKS = ("retrieval", "text-matching", "code")


def test_train_demo(tmp_path):
    train_demo(tmp_path / "state", tmp_path / "output", backbone_steps=4, task_steps=2)

    encoder = Encoder.from_checkpoint(tmp_path / "output", device="cpu")
    assert encoder.tasks == TASKS
    document = next(documents("test", 0, 1))
    vectors = [encoder.encode_images([draw_document(document, 0)], task=task) for task in TASKS]
    assert vectors[0].single.shape == (1, 256)
    # From a common start, each adapter has gone its own way, on which it does better than without it.
    assert all(np.abs(vectors[i].single - vectors[i - 1].single).max() > 1e-4 for i in range(3))
    assert_from_a_common_start(tmp_path / "output" / "adapters" / "adapter_model.safetensors")
    network = load_network(tmp_path / "output", torch.device("cpu"), torch.float32)
    for task in ("text-matching", "code"):
        trained, untrained = losses_of_first_batch(network, task, encoder.processor)
        assert trained < untrained - 0.05

    files = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert all(
        tensor.dtype == torch.bfloat16
        for path in files
        if path.suffix == ".safetensors"
        for tensor in load_file(path).values()
    )

    words = encoder.processor.ids(caption(document))
    assert len(words) < 30, "the tokenizer knows the words of captions"
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path / "output")
    for text in ("\u00fcber \u4e2d\u6587 \U0001f642", "<p>\n\tx\u0000"):
        assert tokenizer.decode(encoder.processor.ids(text)) == text


def assert_from_a_common_start(path):
    """Asserts that the first halves of the tasks' adapters are alike, and that the second are no longer zero."""
    tensors = load_file(path)
    firsts = [key for key in tensors if ".lora_A.retrieval." in key]
    assert len(firsts) == 4 * 7 + 1
    for key in firsts:
        first, *others = (tensors[key.replace("retrieval", task)].float().flatten() for task in TASKS)
        assert all(torch.cosine_similarity(first, other, dim=0) > 0.99 for other in others)
        assert all(tensors[key.replace("lora_A.retrieval", f"lora_B.{task}")].any() for task in TASKS)


def losses_of_first_batch(network, task, processor):
    """The loss of the batch that an adapter was trained on first, with the adapter and without it."""
    towers = network.base_model.model
    network.set_adapter(task)
    batch = next(iter(DEMO_TASKS[task][1](processor, 1)(0)))

    @torch.no_grad()
    def loss():
        queries, targets = embed(towers, batch.queries), embed(towers, batch.targets)
        parts = joint_loss(queries, targets, torch.tensor(0.05), batch.excluded, [256])
        return (parts["single"] + parts["multi"]).item()

    with network.disable_adapter():
        without = loss()
    return loss(), without


def test_what_is_trained_is_not_trained_again(tmp_path):
    def train():
        train_demo(tmp_path / "state", tmp_path / "output", backbone_steps=2, task_steps=1, workers=0)
        weights = {path.name: path.read_bytes() for path in (tmp_path / "output").rglob("*.safetensors")}
        return weights, (tmp_path / "state" / "backbone" / "state.pt").stat().st_mtime_ns

    assert train() == train()
