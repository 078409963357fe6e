"""The engine against what the original code returned, and against itself in other batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.engine import elementwise
from jina_embeddings_v4.engine.embeddings import join
from jina_embeddings_v4.engine.encoder import Encoder
from PIL import Image

TOLERANCE = 2e-6

_FOLDER = Path(__file__).parent.parent / "fixtures" / "golden"
GOLDEN = np.load(_FOLDER / "embeddings.npz")
TEXTS = json.loads((_FOLDER / "texts.json").read_text(encoding="utf-8"))

TEXT_KEYS = [key for key in GOLDEN if key.startswith("text") and key.endswith("/single")]
IMAGE_KEYS = [key for key in GOLDEN if key.startswith("image") and key.endswith("/single")]


# Where there is a GPU, it must match the original, too.
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=DEVICES)
def device_encoder(request, checkpoint):
    return Encoder.from_checkpoint(checkpoint, device=request.param, precision="float32")


def assert_golden(embeddings, key):
    np.testing.assert_allclose(embeddings.single, GOLDEN[key][None], atol=TOLERANCE, rtol=0)
    multi_key = key.replace("/single", "/multi")
    if multi_key in GOLDEN:
        assert embeddings.multi[0].shape == GOLDEN[multi_key].shape
        np.testing.assert_allclose(embeddings.multi[0], GOLDEN[multi_key], atol=TOLERANCE, rtol=0)


def test_golden_embeddings_cover_what_is_claimed():
    assert len(TEXT_KEYS) == 80 and len(IMAGE_KEYS) == 28
    assert {key.split("/")[2] for key in TEXT_KEYS} == {"retrieval", "text-matching", "code"}


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_texts_match_the_original(device_encoder, key):
    kind, name, task, prompt_name, _ = key.split("/")
    max_length = 16 if kind == "text_maxlen16" else None
    assert_golden(device_encoder.encode_texts([TEXTS[name]], task, prompt_name, max_length), key)


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_images_match_the_original(device_encoder, golden_images, key):
    *limit, name, task, _ = key.removeprefix("image_maxpix/").removeprefix("image/").split("/")
    max_pixels = int(limit[0]) if limit else None
    assert_golden(device_encoder.encode_images([golden_images[name]], task, max_pixels), key)


def test_embeddings_do_not_depend_on_the_batch(encoder, golden_images):
    images = list(golden_images.values())
    together = encoder.encode_images(images)
    for i, image in enumerate(images):
        alone = encoder.encode_images([image])
        np.testing.assert_allclose(together.single[i], alone.single[0], atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(together.multi[i], alone.multi[0], atol=TOLERANCE, rtol=0)

    texts = list(TEXTS.values())
    together = encoder.encode_texts(texts)
    for i, text in enumerate(texts):
        alone = encoder.encode_texts([text])
        np.testing.assert_allclose(together.single[i], alone.single[0], atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(together.multi[i], alone.multi[0], atol=TOLERANCE, rtol=0)


def test_more_inputs_than_are_prepared_at_a_time_keep_their_order(encoder):
    texts = [f"{'word ' * (i % 7)}{i}" for i in range(600)]
    embeddings = encoder.encode_texts(texts)
    for i in (0, 255, 256, 511, 599):
        np.testing.assert_allclose(embeddings.single[i], encoder.encode_texts(texts[i]).single[0], atol=TOLERANCE)


def test_vectors_are_float32_arrays_of_length_one(encoder, golden_images):
    for embeddings in (encoder.encode_texts(["a", "b c"]), encoder.encode_images([golden_images["rgb_56x84"]])):
        assert embeddings.single.dtype == np.float32 and embeddings.single.shape == (len(embeddings), 64)
        np.testing.assert_allclose(np.linalg.norm(embeddings.single, axis=1), 1, atol=1e-6)
        for vectors in embeddings.multi:
            assert vectors.dtype == np.float32 and vectors.shape[1] == 128
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_switching_tasks_back_and_forth_changes_nothing(encoder):
    before = {task: encoder.encode_texts(["a text"], task) for task in encoder.tasks}
    for _ in range(5):
        for task in encoder.tasks:
            np.testing.assert_array_equal(encoder.encode_texts(["a text"], task).single, before[task].single)

    singles = [embeddings.single for embeddings in before.values()]
    assert all(np.abs(a - b).max() > 0.01 for a, b in zip(singles, singles[1:], strict=False))


def test_several_tasks_share_the_vision_tower(encoder, golden_images, monkeypatch):
    images = list(golden_images.values())[:5]
    expected = {task: encoder.encode_images(images, task, truncate_dim=None) for task in encoder.tasks}
    see, seen = encoder.backbone.encode_vision, []
    monkeypatch.setattr(
        encoder.backbone, "encode_vision", lambda batch, settings: seen.extend(batch) or see(batch, settings)
    )
    found = encoder.encode_images(images, tasks=["code", "retrieval", "text-matching"])
    assert len(seen) == len(images) and list(found) == ["code", "retrieval", "text-matching"]
    for task, embeddings in found.items():
        np.testing.assert_array_equal(embeddings.single, expected[task].single)
        for ours, theirs in zip(embeddings.multi, expected[task].multi, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    with pytest.raises(ValueError, match="task='search'"):
        encoder.encode_images(images, tasks=["code", "search"])


def test_texts_that_come_again_are_encoded_once(encoder, monkeypatch):
    read, lengths = encoder.backbone.encode_tokens, []
    monkeypatch.setattr(
        encoder.backbone, "encode_tokens", lambda batch, *args: lengths.append(len(batch)) or read(batch, *args)
    )
    first = encoder.encode_texts(["seen once", "seen twice", "seen twice"])
    first.single[:], first.multi[1][:] = 0, 0
    again = encoder.encode_texts(["seen twice", "new", "seen once"])
    assert lengths == [2, 1]
    assert np.array_equal(first.multi[2], again.multi[0]) and np.linalg.norm(again.single[0]) == pytest.approx(1)

    # Nothing that embeddings depend on is mixed up.
    encoder.encode_texts(["seen once"], prompt_name="passage")
    encoder.encode_texts(["seen once"], task="code")
    assert encoder.encode_texts(["seen once"], max_length=2).multi[0].shape[0] == 2
    assert lengths == [2, 1, 1, 1, 1]


def test_text_matching_knows_only_queries(encoder):
    query, passage = (encoder.encode_texts(["a text"], "text-matching", name) for name in ("query", "passage"))
    np.testing.assert_array_equal(query.single, passage.single)

    query, passage = (encoder.encode_texts(["a text"], "retrieval", name) for name in ("query", "passage"))
    assert np.abs(query.single - passage.single).max() > 0.01


def test_a_text_with_vision_tokens_is_pooled_as_text(encoder):
    text = "before <|vision_start|><|image_pad|><|vision_end|> after"
    embeddings = encoder.encode_texts([text, "another"])
    assert np.isfinite(embeddings.single).all()
    assert len(embeddings.multi[0]) == len(encoder.processor.text_tokens(text, "retrieval"))


def test_matryoshka_truncation_keeps_the_first_dimensions(load_demo):
    encoder = load_demo().encoder
    full = encoder.encode_texts(["a text"]).single
    for dim in (32, 64, 128):
        truncated = encoder.encode_texts(["a text"], truncate_dim=dim).single
        np.testing.assert_allclose(truncated, full[:, :dim] / np.linalg.norm(full[:, :dim]), atol=1e-6)

    with pytest.raises(ValueError, match="truncate_dim=100.*32, 64, 128, 256"):
        encoder.encode_texts(["a text"], truncate_dim=100)


def test_one_input_or_none_at_all(encoder, golden_images):
    assert encoder.encode_texts("one").single.shape == (1, 64)
    assert encoder.encode_images(golden_images["rgb_20x20"]).single.shape == (1, 64)
    assert encoder.encode_images(np.zeros((2, 56, 56, 3), dtype=np.uint8)).single.shape == (2, 64)
    for nothing in (encoder.encode_texts([]), encoder.encode_images([])):
        assert nothing.single.shape == (0, 64) and nothing.multi == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task": "classification"}, "task='classification'.*'retrieval', 'text-matching', 'code'"),
        ({"prompt_name": "document"}, "prompt_name='document'.*'query', 'passage'"),
        ({"max_length": 0}, "max_length=0.*at least 1 and at most 32768"),
        ({"max_length": 40000}, "max_length=40000.*at most 32768"),
        ({"max_length": True}, "max_length=True"),
        ({"truncate_dim": 7}, "truncate_dim=7"),
    ],
)
def test_text_arguments_are_checked(encoder, arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode_texts(["a text"], **arguments)


@pytest.mark.parametrize("max_pixels", [0, 100, 3135, 602112.0, "many"])
def test_max_pixels_is_checked(encoder, max_pixels):
    with pytest.raises(ValueError, match="max_pixels=.*at least 3136"):
        encoder.encode_images([Image.new("RGB", (56, 56))], max_pixels=max_pixels)


def test_what_is_no_text_is_named(encoder):
    with pytest.raises(TypeError, match="found int: 42"):
        encoder.encode_texts(["a text", 42])


@pytest.mark.parametrize("precision, tolerance", [("bfloat16", 1e-2), ("float16", 1e-2)])
def test_half_precision_stays_close(encoder, checkpoint, golden_images, precision, tolerance):
    from jina_embeddings_v4.engine.encoder import Encoder

    half = Encoder.from_checkpoint(checkpoint, device="cpu", precision=precision)
    images = [golden_images[name] for name in ("rgb_112x112", "rgb_56x84", "tall_30x900")]
    for exact, rounded in (
        (encoder.encode_images(images), half.encode_images(images)),
        (encoder.encode_texts(TEXTS.values()), half.encode_texts(TEXTS.values())),
        # Far from the start, the slightest error of a rotary frequency is a large one of the angle.
        (encoder.encode_texts(["a red stamp " * 600]), half.encode_texts(["a red stamp " * 600])),
    ):
        assert rounded.single.dtype == np.float32
        assert np.abs(exact.single - rounded.single).max() < tolerance
        assert (exact.single * rounded.single).sum(axis=1).min() > 0.999


def test_eight_bits_stay_close(golden_images):
    from jina_embeddings_v4.engine.encoder import Encoder
    from jina_embeddings_v4.engine.kernels import int8_product

    # Rounding weights to 7 bits in place of 8 doubles their half of the errors, whose squares the cosines lose.
    more = {127: 1, 63: (1 + 2**2) / 2}[int8_product()[1]]
    exact, rounded = (Encoder(DEMO_CHECKPOINT, device="cpu", precision=name) for name in ("float32", "int8"))
    images = [golden_images[name] for name in ("rgb_112x112", "rgb_56x84", "tall_30x900")]
    for task in exact.tasks:
        for one, other in (
            (exact.encode_images(images, task=task), rounded.encode_images(images, task=task)),
            (exact.encode_texts(TEXTS.values(), task=task), rounded.encode_texts(TEXTS.values(), task=task)),
        ):
            assert (one.single * other.single).sum(axis=1).min() > 1 - 0.002 * more
            rows = zip(one.multi, other.multi, strict=True)
            assert np.mean(np.concatenate([(a * b).sum(axis=1) for a, b in rows])) > 1 - 0.001 * more


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_steps_on_a_cpu_change_nothing(checkpoint, golden_images, monkeypatch, precision):
    def encode():
        # A new encoder has no cached texts.
        encoder = Encoder.from_checkpoint(checkpoint, device="cpu", precision=precision)
        images, texts = encoder.encode_images(list(golden_images.values())), encoder.encode_texts(["some words " * 90])
        return join([images, texts])

    expected = encode()
    monkeypatch.setattr(elementwise, "_STEP_BYTES", 1)  # steps of 64 tokens, the fewest
    found = encode()
    tolerance = 2e-6 if precision == "float32" else 2e-2
    np.testing.assert_allclose(found.single, expected.single, atol=tolerance)
    for left, right in zip(found.multi, expected.multi, strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance)


def test_running_out_of_memory_splits_the_batch(encoder, golden_images, monkeypatch):
    images = list(golden_images.values())
    expected = encoder.encode_images(images)

    # No GPU here to fill, so the error is raised where it would be.
    read = encoder.backbone.encode_tokens
    attempts = []

    def limited(batch, *args):
        attempts.append([len(tokens) for tokens in batch])
        if sum(attempts[-1]) > 500 and len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(batch, *args)

    monkeypatch.setattr(encoder.backbone, "token_budget", encoder.backbone.token_budget)
    monkeypatch.setattr(encoder.backbone, "encode_tokens", limited)
    for _ in range(2):
        found = encoder.encode_images(images)
        np.testing.assert_allclose(found.single, expected.single, atol=TOLERANCE, rtol=0)
    assert any(sum(attempt) > 500 and len(attempt) > 1 for attempt in attempts)

    # What was learnt is kept to.
    attempts.clear()
    encoder.encode_images(images)
    assert sum(map(len, attempts)) == len(images) and max(map(len, attempts)) > 1
    assert all(sum(attempt) <= 500 or len(attempt) == 1 for attempt in attempts)

    def never(batch, *args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(encoder.backbone, "encode_tokens", never)
    with pytest.raises(MemoryError, match="One input of .* tokens does not fit into memory.*max_pixels"):
        encoder.encode_images(images)
