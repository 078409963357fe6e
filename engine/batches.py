"""Groups inputs of different lengths into batches."""

import math
from collections.abc import Callable, Iterator, Sequence


def plan_batches(lengths: Sequence[int], token_budget: Callable[[], int]) -> Iterator[list[int]]:
    """Groups inputs into batches of about equal work, longest inputs first.

    Args:
        lengths: the number of tokens of each input
        token_budget: a function that returns the most tokens of a batch. It is called before each batch. A longer
            input gets a batch of its own

    Yields:
        lists of indexes into ``lengths``, each index in one list
    """
    remaining = sorted(range(len(lengths)), key=lambda i: (lengths[i], -i))
    remaining_tokens = sum(lengths)
    while remaining:
        budget = token_budget()
        # Equal shares, so that the last batch is not small: a GPU takes as long for one page as for several.
        share = remaining_tokens / math.ceil(remaining_tokens / budget)
        batch = [remaining.pop()]
        tokens = lengths[batch[0]]
        while remaining and tokens < share and tokens + lengths[remaining[-1]] <= budget:
            batch.append(remaining.pop())
            tokens += lengths[batch[-1]]
        remaining_tokens -= tokens
        yield batch
