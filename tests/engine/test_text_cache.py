"""Texts that come again are not encoded again."""

import threading

import numpy as np
from jina_embeddings_v4.engine.text_cache import TextCache


class Encode:
    """Encodes keys, and keeps what it was asked for."""

    def __init__(self, keys):
        self.keys, self.asked = keys, []

    def __call__(self, indexes):
        self.asked += [self.keys[i] for i in indexes]
        single = np.array([[float(self.keys[i])] for i in indexes], dtype=np.float32)
        return single, [np.full((2, 3), self.keys[i], dtype=np.float32) for i in indexes]


def ask(cache, keys):
    encode = Encode(keys)
    single, multi = cache.encode(keys, encode)
    assert single[:, 0].tolist() == keys and [rows[0, 0] for rows in multi] == keys
    return encode.asked


def test_only_new_texts_are_encoded_and_each_once():
    cache = TextCache()
    assert ask(cache, [1, 2, 1]) == [1, 2]
    assert ask(cache, [2, 3, 1]) == [3]


def test_the_text_that_was_asked_for_longest_ago_goes_first():
    cache = TextCache(size=2)
    ask(cache, [1, 2])
    ask(cache, [1])
    ask(cache, [3])
    assert ask(cache, [1]) == [] and ask(cache, [2]) == [2]


def test_long_texts_are_not_kept():
    cache = TextCache(tokens=2)
    assert ask(cache, [1]) == ask(cache, [1]) == [1]


def test_what_is_handed_out_may_be_changed():
    cache = TextCache()
    single, multi = cache.encode([1], Encode([1]))
    single[:] = multi[0][:] = 7
    single, multi = cache.encode([1], Encode([1]))
    single[:] = multi[0][:] = 7
    assert ask(cache, [1]) == []


def test_one_kept_text_does_not_keep_the_memory_of_its_batch():
    cache = TextCache(size=1)
    ask(cache, list(range(100)))
    # What is handed out is a copy of what is kept.
    ((single, _),) = cache._kept.values()
    assert single.base is None


def test_threads_may_share_it():
    cache, errors = TextCache(size=3), []

    def work(seed):
        generator = np.random.default_rng(seed)
        try:
            for _ in range(300):
                ask(cache, generator.integers(0, 6, 3).tolist())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
