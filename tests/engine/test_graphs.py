"""Recorded steps give what steps give. Without a GPU, a recording is played by running the steps again."""

import pytest
import torch
from jina_embeddings_v4.engine import graphs
from jina_embeddings_v4.engine.attention import Packing
from jina_embeddings_v4.engine.graphs import GraphedDecoder
from jina_embeddings_v4.engine.loading import load_backbone
from jina_embeddings_v4.engine.processing import Processor

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def backbone(checkpoint):
    return load_backbone(checkpoint, DEVICE, torch.float32)


class FromOffsets:
    """A decoder that reads from the offsets where sequences lie, as a GPU's kernels do."""

    def __init__(self, decoder):
        self._decoder, self.adapter_weights = decoder, decoder.adapter_weights

    def __call__(self, embedded, positions, packing):
        lengths = [length for length in packing.offsets.diff().tolist() if length]
        return self._decoder(embedded, positions, Packing(lengths, DEVICE))


def graphed_decoder(backbone):
    # A backbone lends its decoder to nobody, and only on a GPU does it make graphs of it.
    is_gpu = DEVICE.type == "cuda"
    return GraphedDecoder(backbone._decoder if is_gpu else FromOffsets(backbone._decoder))


@pytest.fixture
def recorded(monkeypatch):
    """The number of recordings."""
    count = []
    record = graphs._record

    def run_again(run, device):
        count.append(device)
        if device.type == "cuda":
            return record(run, device)

        results = run()

        def replay():
            for old, new in zip(results, run(), strict=True):
                old.copy_(new)

        return replay, results

    monkeypatch.setattr(graphs, "_record", run_again)
    return count


def test_texts_of_all_sizes_and_adapters(backbone, checkpoint, recorded):
    # As the backbone itself calls them.
    decoder, processor = backbone._decoder, Processor(checkpoint)
    graphed = graphed_decoder(backbone)
    embed = backbone.towers.model.get_input_embeddings()
    batches = [["one"], ["a longer one, of more words than the first"], ["two", "of them"], ["one"], ["x"] * 7]
    keys = set()
    for adapter in ("retrieval", "code", "retrieval"):
        backbone.use(adapter)
        for texts in batches:
            batch = [processor.text_tokens(text, adapter) for text in texts]
            ids, positions, _ = backbone._tokens_on_device(batch)
            packing = Packing([len(tokens) for tokens in batch], DEVICE)
            assert graphed.takes(packing)
            keys.add((adapter, next(size for size in (16, 32, 64, 128) if size >= len(ids))))
            with torch.inference_mode():
                expected = decoder(embed(ids).clone(), positions, packing)
                found = graphed(embed(ids).clone(), positions, packing)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    # One a size and adapter, each of them recorded once. What is kept is told by no other.
    assert len(recorded) == len(graphed._graphs) == len(keys)


def test_few_graphs_are_kept(backbone, recorded, monkeypatch):
    monkeypatch.setattr(graphs, "_KEPT", 1)
    backbone.use("retrieval")
    graphed = graphed_decoder(backbone)
    hidden = backbone.hidden_size
    with torch.inference_mode():
        for length in (5, 30, 5):
            positions = torch.zeros(3, length, dtype=torch.int64, device=DEVICE)
            graphed(torch.ones(length, hidden, device=DEVICE), positions, Packing([length], DEVICE))
    assert len(recorded) == 3 and len(graphed._graphs) == 1


@pytest.mark.parametrize(
    ("lengths", "takes"), [([128], True), ([129], False), ([1] * 7, True), ([1] * 8, False)], ids=str
)
def test_what_is_short(lengths, takes):
    assert GraphedDecoder.takes(Packing(lengths, DEVICE)) is takes


def test_they_are_off_unless_asked_for(monkeypatch):
    monkeypatch.delenv(graphs.CUDA_GRAPHS, raising=False)
    assert not graphs.wants_graphs()
    monkeypatch.setenv(graphs.CUDA_GRAPHS, "1")
    assert graphs.wants_graphs()
