"""Which inputs run together."""

import math
from collections.abc import Callable, Iterator, Sequence


def plan_batches(lengths: Sequence[int], token_budget: Callable[[], int]) -> Iterator[list[int]]:
    """Groups inputs, longest first, so that each batch is about as much work as the others.

    Args:
        lengths: the number of tokens of each input
        token_budget: a function that tells the number of tokens that a batch may have. It is asked before each batch.
            An input that exceeds it runs alone

    Yields:
        lists of indexes into ``lengths``, which together hold each index once
    """
    remaining = sorted(range(len(lengths)), key=lambda i: (lengths[i], -i))
    remaining_tokens = sum(lengths)
    while remaining:
        budget = token_budget()
        # Equal shares, so that no few are left over: a GPU takes as long for one page as for several.
        share = remaining_tokens / math.ceil(remaining_tokens / budget)
        batch = [remaining.pop()]
        tokens = lengths[batch[0]]
        while remaining and tokens < share and tokens + lengths[remaining[-1]] <= budget:
            batch.append(remaining.pop())
            tokens += lengths[batch[-1]]
        remaining_tokens -= tokens
        yield batch
