"""Token ids and positions against what the original processor returned."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from jina_embeddings_v4.engine.images import resize_image

_FOLDER = Path(__file__).parent.parent / "fixtures" / "golden"
GOLDEN = np.load(_FOLDER / "embeddings.npz")
TEXTS = json.loads((_FOLDER / "texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TEXTS)
def test_text_ids_match_the_original(encoder, name):
    tokens = encoder.processor.text_tokens(TEXTS[name], "retrieval")
    np.testing.assert_array_equal(tokens.ids, GOLDEN[f"text/{name}/input_ids"].ravel())
    np.testing.assert_array_equal(tokens.positions, np.arange(len(tokens))[None].repeat(3, axis=0))


@pytest.mark.parametrize("name", sorted(key.split("/")[1] for key in GOLDEN if key.endswith("/grid_thw")))
def test_image_ids_and_positions_match_the_original(encoder, golden_images, name):
    settings = encoder.processor.image_settings
    image = resize_image(golden_images[name], settings)
    grid = GOLDEN[f"image/{name}/grid_thw"].ravel()
    assert image.pixels.shape == (3, *(grid[1:] * settings.patch_size))

    tokens = encoder.processor.image_tokens(image)
    np.testing.assert_array_equal(tokens.ids, GOLDEN[f"image/{name}/input_ids"].ravel())
    np.testing.assert_array_equal(tokens.positions, GOLDEN[f"image/{name}/position_ids"].reshape(3, -1))


def test_long_texts_are_cut_at_the_end(encoder):
    text = "a rather long text " * 20
    whole, cut = (encoder.processor.text_tokens(text, "retrieval", max_length=n) for n in (None, 16))
    assert len(cut) == 16 and len(whole) > 100
    np.testing.assert_array_equal(cut.ids, whole.ids[:16])


def test_threads_with_other_lengths_do_not_change_each_others_texts(encoder):
    text = "word " * 60
    lengths = [8, 16, 32, 48] * 100

    def length_of(max_length):
        return len(encoder.processor.text_tokens(text, "retrieval", max_length=max_length))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(length_of, lengths)) == lengths
