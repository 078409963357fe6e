"""CUDA graphs for short texts, whose many small kernels take longer to launch than to run.

They are off unless the environment variable ``JINA_V4_CUDA_GRAPHS=1`` is set. Each graph keeps some memory, and the
first query of each size and adapter takes longer.
"""

import collections
import os

import torch

from .attention import Packing
from .decoder import Decoder
from .devices import to_device

CUDA_GRAPHS = "JINA_V4_CUDA_GRAPHS"

# The numbers of tokens that graphs are recorded for, and the number of sequences, of which the last are empty.
_SIZES = (16, 32, 64, 128)
_TEXTS = 8

# The number of graphs to keep, the most recently used.
_KEPT = 12


def wants_graphs() -> bool:
    """Whether the user switched graphs on."""
    return os.environ.get(CUDA_GRAPHS, "") not in ("", "0")


class GraphedDecoder:
    """Runs a decoder on few tokens by CUDA graphs.

    Args:
        decoder: the :class:`engine.decoder.Decoder`
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._graphs: collections.OrderedDict[tuple[int, ...], _Graph] = collections.OrderedDict()

    @staticmethod
    def takes(packing: Packing) -> bool:
        """Whether a pack is small enough for a graph.

        Args:
            packing: a :class:`engine.attention.Packing`
        """
        return sum(packing.lengths) <= _SIZES[-1] and len(packing.lengths) < _TEXTS

    def __call__(
        self, embedded: torch.Tensor, positions: torch.Tensor, packing: Packing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the decoder, with its arguments and results."""
        count = sum(packing.lengths)
        size = next(size for size in _SIZES if size >= count)
        weights = self._decoder.adapter_weights()
        key = size, *map(id, weights)
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._decoder, weights, size, embedded)
            while len(self._graphs) > _KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key](embedded, positions, packing.lengths)


class _Graph:
    def __init__(self, decoder, weights, size, embedded):
        # Kept, since the graph reads them at their addresses.
        self._weights = weights
        device = embedded.device
        self._embedded = embedded.new_zeros(size, embedded.shape[1])
        self._positions = torch.zeros(3, size, dtype=torch.int64, device=device)
        # Recorded for the longest possible sequence.
        self._packing = Packing([size] + [0] * (_TEXTS - 1), device)
        self._offsets = self._packing.offsets

        self._replay, self._results = _record(
            lambda: decoder(self._embedded.clone(), self._positions, self._packing), device
        )

    def __call__(self, embedded, positions, lengths):
        count, size = sum(lengths), len(self._embedded)
        # The padding tokens are a sequence of their own, whose results are dropped.
        starts = [0]
        for length in [*lengths, size - count]:
            starts.append(starts[-1] + length)
        starts += [size] * (len(self._offsets) - len(starts))
        self._offsets.copy_(to_device(torch.tensor(starts, dtype=torch.int32), self._offsets.device))
        self._embedded[:count], self._positions[:, :count] = embedded, positions
        self._replay()
        return tuple(result[:count].clone() for result in self._results)


def _record(run, device):
    """Records a function's GPU work as a CUDA graph.

    Args:
        run: a function without arguments that returns tensors
        device: the GPU

    Returns:
        a function that replays the graph, and the tensors that it writes its results to
    """
    # The first calls choose kernels and allocate memory, which a graph cannot record.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate GPU memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = run()
    return graph.replay, results
