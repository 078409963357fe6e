"""Words are located where they are drawn, whatever the PDF's coordinates are."""

import fiftyone as fo
import numpy as np
import pytest
from jina_embeddings_v4.documents import load_documents, page_words
from jina_embeddings_v4.documents.page_words import PageWords
from jina_embeddings_v4.documents.pdf_renderer import PdfRenderer
from PIL import Image

from ..support.pdfs import Page, write_pdf

LINES = "Total amount due: 42\nfar away"


@pytest.fixture
def pages(tmp_path):
    """Loads PDFs of given pages into a dataset."""
    datasets = []

    def pages(*pages, name="letter.pdf"):
        write_pdf(tmp_path / "scans" / name, pages)
        dataset = load_documents(tmp_path / "scans", f"words-{len(datasets)}", pages_dir=tmp_path / "pages")
        datasets.append(dataset)
        return dataset

    yield pages
    for dataset in datasets:
        fo.delete_dataset(dataset.name)


def words_of(dataset):
    with PageWords(dataset) as words:
        return [words.of(sample) for sample in dataset]


def ink(sample):
    """Where the page of a sample is dark: a bool array."""
    with Image.open(sample.filepath) as image:
        return np.array(image.convert("L")) < 128


@pytest.mark.parametrize("crop", ["", "/CropBox[10 700 300 830]"])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_ink_is_in_the_words_boxes_and_nowhere_else(pages, rotate, crop):
    dataset = pages(Page(LINES, rotate=rotate, extra=crop))
    (words,) = words_of(dataset)
    dark = ink(dataset.first())
    # PDFium reads the lines of a page that lies on its right side from the last.
    assert sorted(word.text for word in words) == sorted(LINES.split()) and dark.sum() > 100
    for word in words:
        ((left, top, right, bottom),) = word.boxes
        rows = slice(int(top * dark.shape[0]), int(np.ceil(bottom * dark.shape[0])))
        columns = slice(int(left * dark.shape[1]), int(np.ceil(right * dark.shape[1])))
        assert dark[rows, columns].mean() > 0.05
        dark[rows, columns] = False
    assert not dark.any()


def test_a_hyphenated_word_has_a_box_on_each_line(pages):
    dataset = pages(Page("It was manip-\nulated."))
    (words,) = words_of(dataset)
    assert [word.text for word in words] == ["It", "was", "manipulated."]
    first, second = words[2].boxes
    assert first[3] <= second[1] + 0.001 and first[0] > second[2] - 0.1 and words[1].boxes[0][1] == first[1]


def test_words_outside_of_the_page_are_left_out(pages):
    # Of three lines, the box shows the last two.
    dataset = pages(Page("Total amount\nis due\nnow", extra="/CropBox[10 730 300 797]"))
    (words,) = words_of(dataset)
    assert [word.text for word in words] == ["is", "due", "now"]


def test_chinese_characters_are_words_without_spaces(pages, tmp_path):
    """By a font that maps one byte to each character."""
    cmap = "\n".join(f"<{code:02x}> <{ord(text):04x}>" for code, text in zip(b"abc", "請求書", strict=True))
    cmap = f"/CIDInit/ProcSet findresource begin begincmap 3 beginbfchar\n{cmap}\nendbfchar endcmap end"
    write_pdf(tmp_path / "scans" / "letter.pdf", [Page("abc AB abc")])
    path = tmp_path / "scans" / "letter.pdf"
    data = path.read_bytes().replace(b"/BaseFont/Helvetica", b"/BaseFont/Helvetica/ToUnicode 90 0 R")
    # Without its table, the file is read from its start to its end.
    data = data[: data.index(b"xref\n")]
    data += b"90 0 obj\n<</Length %d>>stream\n%s\nendstream\nendobj\n" % (len(cmap), cmap.encode())
    path.write_bytes(data + b"trailer<</Root 1 0 R>>")
    with PdfRenderer(30) as renderer:
        words = renderer.words(path, 0)
    assert [(text, glued) for text, glued, _ in words] == [
        ("請", False),
        ("求", True),
        ("書", True),
        ("AB", False),
        ("請", False),
        ("求", True),
        ("書", True),
    ]


def test_what_is_no_page_of_a_pdf_has_no_words(pages, tmp_path, dataset):
    Image.new("RGB", (60, 80), "white").save(tmp_path / "photo.png")
    (tmp_path / "scans").mkdir()
    (tmp_path / "photo.png").rename(tmp_path / "scans" / "photo.png")
    loaded = pages(Page(), Page("Total"))
    assert [[word.text for word in words] for words in words_of(loaded)] == [[], ["Total"], []]
    assert words_of(dataset) == [[]] * 12


def test_a_document_that_has_changed_or_is_gone_is_named_once(pages, tmp_path, caplog):
    pages(Page("Total"), Page("amount"), name="changed.pdf")
    pages(Page("Total"), Page("amount"), name="gone.pdf")
    dataset = pages(Page("Total"))
    write_pdf(tmp_path / "scans" / "changed.pdf", [Page("Totals"), Page("amounts")])
    (tmp_path / "scans" / "gone.pdf").unlink()
    caplog.clear()
    assert [[word.text for word in words] for words in words_of(dataset)] == [[], [], [], [], ["Total"]]
    changed, gone = (record.getMessage() for record in caplog.records)
    assert "page 1 of" in changed and "changed.pdf" in changed and "load its folder again" in changed
    assert "gone.pdf" in gone and "No such file" in gone


def test_a_pdf_that_breaks_the_process_costs_its_own_words(pages, tmp_path, caplog, monkeypatch):
    """A page that takes too long, by a limit that ends each request at once."""
    dataset = pages(Page("Total"))
    monkeypatch.setattr(page_words, "_SECONDS", 1e-6)
    assert words_of(dataset) == [[]]
    assert "takes more than" in caplog.text and "letter.pdf" in caplog.text
