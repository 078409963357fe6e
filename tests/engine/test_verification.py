"""The check of the engine passes where it is right, and fails where it is not."""

import pytest
import torch
from jina_embeddings_v4.engine import decoder, vision
from jina_embeddings_v4.engine.verification import main


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "int8"])
def test_a_right_engine_passes(checkpoint, capsys, monkeypatch, precision):
    monkeypatch.delenv("JINA_V4_AUTO_PRECISION", raising=False)
    try:
        assert main(["--model", str(checkpoint), "--device", "cpu", "--precision", precision]) == 0
    except RuntimeError as error:
        # What "auto" never takes.
        assert precision == "bfloat16" and "avx512" in str(error)
        return
    printed = capsys.readouterr().out
    assert "PASS" in printed and printed.count("text-matching") == 4
    assert precision == "auto" or f"took {precision}" in printed


@pytest.mark.parametrize("tower", [vision, decoder])
def test_a_wrong_engine_fails_and_the_worst_input_is_named(checkpoint, capsys, monkeypatch, tower):
    attend = tower.rotate_and_attend

    def turn_too_far(vectors, key_heads, cos, sin, *arguments, **options):
        return attend(vectors, key_heads, cos, 1.1 * sin, *arguments, **options)

    monkeypatch.setattr(tower, "rotate_and_attend", turn_too_far)
    # Loaded anew or not, the towers look it up when they run.
    assert main(["--model", str(checkpoint), "--device", "cpu", "--precision", "float32"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL: '" in printed and "task '" in printed and "beyond the bounds" in printed
    of_texts = [line for line in printed.splitlines() if " texts, " in line and "FAIL" not in line]
    assert len(of_texts) == 6 and all(("beyond" in line) == (tower is decoder) for line in of_texts)


def test_vectors_that_are_not_finite_fail(checkpoint, capsys, monkeypatch):
    from jina_embeddings_v4.engine import verification

    encode = verification.Encoder.encode_images

    def spoiled(self, *args, **kwargs):
        embeddings = encode(self, *args, **kwargs)
        embeddings.single[0] = torch.nan
        return embeddings

    monkeypatch.setattr(verification.Encoder, "encode_images", spoiled)
    assert main(["--model", str(checkpoint), "--device", "cpu", "--precision", "float32"]) == 1
    assert "FAIL: 'a small image'" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path, capsys):
    assert main(["--model", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL: ")


def test_one_token_of_hundreds_that_is_wrong_fails(checkpoint, capsys, monkeypatch):
    from jina_embeddings_v4.engine import verification

    encode = verification.Encoder.encode_images

    def mixed_up(self, *args, **kwargs):
        embeddings = encode(self, *args, **kwargs)
        rows = embeddings.multi[-1]
        rows[[-9, -8]] = rows[[-8, -9]]
        return embeddings

    monkeypatch.setattr(verification.Encoder, "encode_images", mixed_up)
    assert main(["--model", str(checkpoint), "--device", "cpu", "--precision", "bfloat16"]) == 1
    printed = capsys.readouterr().out
    spoiled = [line for line in printed.splitlines() if "beyond the bounds" in line and " images, " in line]
    assert len(spoiled) == 6 and "FAIL: '" in printed
