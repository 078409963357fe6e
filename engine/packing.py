"""Packs of sequences, which lie end to end without padding."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import torch

from .transfers import to_device


class Packing:
    """The boundaries of the sequences in a pack.

    Args:
        lengths: the number of tokens of each sequence, in order
        device: the pack's device
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths, self._device = lengths, device
        self.longest = max(lengths)
        self._groups: dict[int, list[tuple[slice, Packing]]] = {}

    @functools.cached_property
    def offsets(self) -> torch.Tensor:
        """The start of each sequence, and the end of the last, an int32 tensor ``(sequences + 1,)``."""
        starts = torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32)
        return to_device(starts, self._device)

    def groups(self, tokens: int) -> list[tuple[slice, "Packing"]]:
        """Groups consecutive sequences.

        Args:
            tokens: the most tokens of a group. A longer sequence is a group of its own

        Returns:
            a list of the slice of each group's tokens, and its :class:`Packing`
        """
        if sum(self.lengths) <= tokens:
            return [(slice(None), self)]
        if tokens not in self._groups:
            groups: list[list[int]] = []
            for length in self.lengths:
                if not groups or sum(groups[-1]) + length > tokens:
                    groups.append([])
                groups[-1].append(length)
            ends = itertools.accumulate(sum(group) for group in groups)
            self._groups[tokens] = [
                (slice(end - sum(group), end), Packing(group, self._device))
                for end, group in zip(ends, groups, strict=True)
            ]
        return self._groups[tokens]

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Yields runs of consecutive sequences of equal length: the slice of their tokens, and their number."""
        start = 0
        for length, neighbours in itertools.groupby(self.lengths):
            count = len(list(neighbours))
            yield slice(start, start + count * length), count
            start += count * length
