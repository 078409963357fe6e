"""What threads prepare comes in order, and an error in one reaches the caller."""

import threading
import time

import pytest
import torch
from jina_embeddings_v4.engine.look_ahead import windows


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 17, 64, 200])
def test_results_come_in_order(ahead, count):
    found = []
    for start, results in windows(lambda item: 2 * item, list(range(count)), 64, ahead):
        assert start == len(found) and 0 < len(results) <= 64
        found += results
    assert found == [2 * item for item in range(count)]


def test_the_next_are_prepared_while_the_caller_works():
    prepared = []
    steps = windows(lambda item: prepared.append(item), list(range(100)), 16, ahead=True)
    next(steps)
    deadline = time.monotonic() + 30
    while len(prepared) < 32 and time.monotonic() < deadline:
        time.sleep(0.01)
    # No more than the next window, lest all of a dataset's images lie in memory.
    assert len(prepared) == 32
    steps.close()
    assert len(prepared) < 100


def test_an_error_in_a_thread_reaches_the_caller_and_leaves_none_behind():
    def prepare(item):
        if item in (40, 90):
            raise ValueError(f"item {item} is damaged")
        return item

    with pytest.raises(ValueError, match="item 40 is damaged"):
        for _ in windows(prepare, list(range(100)), 16, ahead=True):
            pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jina-v4-images")]


def test_threads_start_no_threads_of_torch_and_others_may():
    before = torch.get_num_threads()
    steps = windows(lambda _: torch.get_num_threads(), [0] * 40, 16, ahead=True)
    counts = [count for _, results in steps for count in results]
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert set(counts) == {1} and torch.get_num_threads() == before and found == [before]
