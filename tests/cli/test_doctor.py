"""The doctor says what the machine has, and ends with what the verification found."""

import pytest
from jina_embeddings_v4.cli import doctor
from jina_embeddings_v4.cli.main import main

from ..conftest import DEMO_MODEL


@pytest.fixture
def verified(monkeypatch):
    """The arguments of the verification, which has its own tests, and its result, which a test may change."""
    calls = {"code": 0}

    def verify(arguments):
        calls["arguments"] = arguments
        return calls["code"]

    monkeypatch.setattr(doctor.verification, "main", verify)
    return calls


def test_the_doctor_tells_versions_precision_speed_and_copies(verified, capsys):
    assert main(["doctor", "--model", DEMO_MODEL, "--device", "cpu", "--precision", "float32"]) == 0
    out = capsys.readouterr().out
    for part in ("torch ", "fiftyone ", "Device: cpu", "takes float32", "pages of 768 visual tokens", "zoo source"):
        assert part in out
    assert verified["arguments"][:2] == ["--model", doctor.DEMO_CHECKPOINT]

    verified["code"] = 1
    assert main(["doctor", "--model", DEMO_MODEL, "--device", "cpu"]) == 1


def test_without_the_weights_the_demo_model_is_verified(verified, capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    assert "The weights of jinaai/jina-embeddings-v4 are not on this machine" in capsys.readouterr().out
    assert verified["arguments"][:2] == ["--model", doctor.DEMO_CHECKPOINT]


def test_a_device_that_is_not_there_is_told_in_a_line(verified):
    with pytest.raises(SystemExit, match="device='gpu' is not allowed"):
        main(["doctor", "--device", "gpu"])
