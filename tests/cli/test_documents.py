"""The command finds the page of a PDF that a question is about, and takes in what is new in the folder."""

import csv
import io
import json

import fiftyone as fo
import pytest
from jina_embeddings_v4.cli.main import main
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.phrases import caption
from jina_embeddings_v4.demo.pages.rendering import draw_document

from ..conftest import DEMO_MODEL
from ..support import pdfs

NAME = "test-command"

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
def run(folder, tmp_path, capsys):
    """Runs a command on the folder, and returns what it prints to the standard output and to the standard error."""

    def run(command, *arguments):
        options = ["--fiftyone", "--dataset", NAME]
        if command == "index":
            options += ["--model", DEMO_MODEL, "--pages-dir", str(tmp_path / "pages")]
        assert main([command, str(folder), *options, *arguments]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def search(run):
    """Searches, and returns the found pages, a list of dicts."""

    def search(query, *arguments):
        found = json.loads(run("search", query, "--json", *arguments).out)
        assert [page["rank"] for page in found] == list(range(1, len(found) + 1))
        return found

    return search


def places(found):
    return [(page["document"], page["page"]) for page in found]


def test_the_page_is_found_that_the_query_is_about(run, search, pages):
    _, captions = pages
    assert "13 pages of 3 documents" in run("index").err

    for number, place in ((0, ("a.pdf", 1)), (4, ("a.pdf", 5)), (7, ("more/b.pdf", 3)), (12, ("ü ü.pdf", 3))):
        found = search(captions[number], "-k", "4")
        scores = [page["score"] for page in found]
        assert len(found) == 4 and places(found)[0] == place
        assert 1 >= scores[0] > scores[-1] > 0 and scores == sorted(scores, reverse=True)

    assert search(captions[0], "--mode", "text") == []
    table = run("search", captions[4], "-k", "2").out.splitlines()
    assert table[0].split() == ["rank", "document", "page", "score", "snippet"]
    assert table[2].split()[:3] == ["1", "a.pdf", "5"] and len(table) == 4
    rows = list(csv.DictReader(io.StringIO(run("search", captions[12], "--csv").out)))
    assert (rows[0]["document"], rows[0]["page"]) == ("ü ü.pdf", "3") and len(rows) == 10


def test_a_page_is_found_by_the_number_in_its_text_layer(run, search, folder):
    texts = ("Invoice No 4711 of Linden & Sons", "Invoice No 4712 of Moreau Ltd")
    pdfs.write_pdf(folder / "bills.pdf", [pdfs.Page(text) for text in texts])
    run("index")

    for mode in ("hybrid", "text"):
        found = search("invoice no 4712", "--mode", mode)
        assert places(found)[0] == ("bills.pdf", 2) and "4712" in found[0]["snippet"]
    assert places(search('"Linden & Sons" 4712')) == [("bills.pdf", 1)]
    # The demo model's warning is of what it finds itself.
    assert "chance" in run("search", "4712").err and "chance" not in run("search", "4712", "--mode", "text").err


def test_what_changed_in_the_folder_is_found_after_it_is_indexed_again(run, search, pages, folder):
    images, captions = pages
    run("index")
    before = set(fo.load_dataset(NAME).values("id"))

    images[13].save(folder / "new.png")
    write_pdf(folder / "a.pdf", images[3:5])
    run("index")
    found = places(search(captions[13], "-k", "100"))
    assert found[0] == ("new.png", 1)
    assert sorted(found) == (
        [("a.pdf", 1), ("a.pdf", 2), *(("more/b.pdf", page) for page in range(1, 6)), ("new.png", 1)]
        + [("ü ü.pdf", page) for page in (1, 2, 3)]
    )
    assert len(before & set(fo.load_dataset(NAME).values("id"))) == 8

    # No place is taken by pages that are no longer there, and were as near.
    for page in (3, 4):
        found = search(captions[page], "-k", "2")
        assert places(found)[0] == ("a.pdf", page - 2) and len(found) == 2


def test_documents_that_are_gone_are_removed_when_that_is_asked_for(run, search, folder, pages):
    _, captions = pages
    run("index")
    (folder / "a.pdf").unlink()
    assert "13 pages" in run("index").err
    assert "8 pages of 2 documents" in run("index", "--prune").err
    assert {document for document, _ in places(search(captions[0], "-k", "100"))} == {"more/b.pdf", "ü ü.pdf"}


def test_what_cannot_go_on_is_told_in_a_line(run, folder):
    with pytest.raises(SystemExit, match=f"{folder} has not been indexed: run `jina-fiftyone index {folder}` first"):
        run("search", "a query")
    with pytest.raises(SystemExit, match="model zoo has no 'jina-embeddings-v5'. This repository has .*-demo"):
        run("index", "--model", "jina-embeddings-v5")
    with pytest.raises(SystemExit, match="pixels"):
        run("index", "--pixels", "0")

    for path in folder.rglob("*.pdf"):
        path.unlink()
    with pytest.raises(SystemExit, match="no pages to be read"):
        run("index")
    folder.rename(folder.with_name("gone"))
    with pytest.raises(SystemExit, match="There is no folder"):
        run("index")


def test_another_folder_of_the_same_name_is_not_searched(run, folder, tmp_path, capsys):
    run("index")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SystemExit, match=f"holds pages of {folder}, not of {other}"):
        main(["search", str(other), "a query", "--fiftyone", "--dataset", NAME])


def test_the_demo_model_does_not_pass_for_the_real_one(run):
    warning = "was trained on synthetic pages and cannot read real documents"
    assert warning in run("index").err
    found = run("search", "a query", "--json")
    assert warning in found.err and json.loads(found.out)
