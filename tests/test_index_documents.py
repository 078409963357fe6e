"""The example finds the page of a PDF that a question is about, and takes in what is new in the folder."""

import re
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import pytest
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.phrases import caption
from jina_embeddings_v4.demo.pages.rendering import draw_document

from examples import index_documents
from examples.index_documents import main

from .conftest import DEMO_MODEL

NAME = "test-index-documents"

# Of the test split, pages of different types.
FIRST = 30_000


def write_pdf(path, images):
    # Copies, since Pillow leaves the options of one call with an image, and takes them for those of the next.
    first, *others = [image.copy() for image in images]
    first.save(path, save_all=True, append_images=others, quality=95)


@pytest.fixture(scope="module")
def pages():
    """Synthetic pages, and what is to be said of each."""
    made = list(documents("test", FIRST, FIRST + 14))
    return [draw_document(document, number) for number, document in enumerate(made)], [caption(one) for one in made]


@pytest.fixture
def folder(pages, tmp_path):
    """A folder with two PDFs of five pages and one of three."""
    images, _ = pages
    folder = tmp_path / "folder"
    (folder / "more").mkdir(parents=True)
    write_pdf(folder / "a.pdf", images[:5])
    write_pdf(folder / "more" / "b.pdf", images[5:10])
    write_pdf(folder / "ü ü.pdf", images[10:13])
    yield folder
    if fo.dataset_exists(NAME):
        dataset = fo.load_dataset(NAME)
        dataset.delete_brain_runs()
        dataset.delete()


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs the example, and returns what it prints and the table of (document, page, similarity)."""

    def run(*arguments):
        options = ["--model", DEMO_MODEL, "--dataset", NAME, "--pages-dir", str(tmp_path / "pages")]
        monkeypatch.setattr("sys.argv", ["index_documents.py", *options, str(folder), *arguments])
        main()
        out = capsys.readouterr().out
        rows = re.findall(r"^ +(\d+)  (.*?) +(\d+) +(-?\d\.\d+)$", out, re.MULTILINE)
        assert [int(rank) for rank, *_ in rows] == list(range(1, len(rows) + 1))
        return out, [(document, int(page), float(similarity)) for _, document, page, similarity in rows]

    return run


def test_the_page_is_found_that_the_query_is_about(run, pages):
    _, captions = pages
    out, rows = run()
    assert rows == [] and "13 pages of 3 documents" in out

    for number, place in ((0, ("a.pdf", 1)), (4, ("a.pdf", 5)), (7, ("more/b.pdf", 3)), (12, ("ü ü.pdf", 3))):
        _, rows = run(captions[number], "-k", "4")
        similarities = [similarity for *_, similarity in rows]
        assert len(rows) == 4 and rows[0][:2] == place
        assert 1 >= similarities[0] > similarities[-1] > 0 and similarities == sorted(similarities, reverse=True)


def test_what_changed_in_the_folder_is_found_at_once(run, pages, folder):
    images, captions = pages
    run()
    before = set(fo.load_dataset(NAME).values("id"))

    images[13].save(folder / "new.png")
    write_pdf(folder / "a.pdf", images[3:5])
    _, rows = run(captions[13], "-k", "100")
    assert rows[0][:2] == ("new.png", 1)
    assert sorted(row[:2] for row in rows) == (
        [("a.pdf", 1), ("a.pdf", 2), *(("more/b.pdf", page) for page in range(1, 6)), ("new.png", 1)]
        + [("ü ü.pdf", page) for page in (1, 2, 3)]
    )
    assert len(before & set(fo.load_dataset(NAME).values("id"))) == 8

    # No place is taken by pages that are no longer there, and were as near.
    for page in (3, 4):
        _, rows = run(captions[page], "-k", "2")
        assert rows[0][:2] == ("a.pdf", page - 2) and len(rows) == 2


def test_what_cannot_go_on_is_told_in_a_line(run, folder):
    with pytest.raises(SystemExit, match="no 'unknown-model'"):
        run("--model", "unknown-model")

    for path in folder.rglob("*.pdf"):
        path.unlink()
    with pytest.raises(SystemExit, match="no pages to be read"):
        run()
    with pytest.raises(SystemExit, match="pixels"):
        run("--pixels", "0")
    folder.rename(folder.with_name("gone"))
    with pytest.raises(SystemExit, match="There is no folder"):
        run()


def test_what_is_missing_is_told(run, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="model zoo has no 'jina-embeddings-v5'. This repository has .*-demo"):
        run("--model", "jina-embeddings-v5")

    monkeypatch.setattr("sys.argv", ["index_documents.py", str(tmp_path / "nowhere"), "--model", DEMO_MODEL])
    with pytest.raises(SystemExit, match="nowhere"):
        main()


def test_the_demo_model_does_not_pass_for_the_real_one(run):
    assert "was trained on synthetic pages and cannot read real documents" in run()[0]


def test_without_the_package_it_says_how_to_install_it(tmp_path):
    code = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "jina_embeddings_v4":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name="jina_embeddings_v4")

sys.meta_path.insert(0, Missing())
sys.argv = ["index_documents.py", "folder"]
runpy.run_path({str(Path(index_documents.__file__))!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install ." in done.stderr and "Traceback" not in done.stderr
