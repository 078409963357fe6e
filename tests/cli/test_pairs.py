"""Fine-tuning on a CSV file of queries."""

import fiftyone as fo
import pytest
from jina_embeddings_v4.cli.main import main
from jina_embeddings_v4.cli.pairs import read_queries
from PIL import Image

from ..conftest import DEMO_MODEL

NAME = "test-command-pairs"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (120, 160), colour).save(folder / f"{colour}.png")
    yield folder
    dataset = fo.load_dataset(NAME)
    dataset.delete_brain_runs()
    dataset.delete()


def write(tmp_path, text):
    path = tmp_path / "queries.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_an_adapter_is_trained_on_the_queries_of_a_file(folder, tmp_path, capsys):
    options = ["--fiftyone", "--dataset", NAME]
    assert main(["index", str(folder), "--model", DEMO_MODEL, *options]) == 0
    queries = write(tmp_path, "document,page,query\nred.png,1,the red one\nblue.png,1,blau\nblue.png,1,the blue one\n")
    training = ["finetune", str(folder), queries, str(tmp_path / "adapter"), "--checkpoint", DEMO_MODEL]
    assert main([*training, "--steps", "2", "--batch-size", "2", *options]) == 0

    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert f"--adapter {tmp_path / 'adapter'}" in capsys.readouterr().out
    texts = {sample.document: sample["queries"] for sample in fo.load_dataset(NAME)}
    assert texts == {"red.png": ["the red one"], "blue.png": ["blau", "the blue one"], "green.png": None}

    unknown = write(tmp_path, "document,page,query\nred.png,2,the red one\n")
    with pytest.raises(SystemExit, match="names 1 pages that are not in the folder, such as page 2 of 'red.png'"):
        main(["finetune", str(folder), unknown, str(tmp_path / "other"), *options])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("document,query\na.pdf,b\n", "has no column 'page'"),
        ("document,page,query\na.pdf,first,b\n", "line 2: expected a document, a page's number and a query"),
        ("document,page,query\na.pdf,1\n", "line 2: expected a document, a page's number and a query"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, text, message):
    with pytest.raises(SystemExit, match=message):
        read_queries(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="nowhere.csv cannot be read"):
        read_queries(tmp_path / "nowhere.csv")
