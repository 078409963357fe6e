"""A folder of PDFs and images becomes a dataset of pages: all of them, once, whatever is wrong with others."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import pytest
from jina_embeddings_v4.documents import PIXELS, load_documents
from jina_embeddings_v4.documents.pdf_renderer import PdfRenderer
from jina_embeddings_v4.documents.pruning import remove_gone
from PIL import Image

from ..support.pdfs import A4, Page, write_pdf


def write_image(path, color=(255, 255, 255), size=(60, 80), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **kwargs)


def cut(path):
    """Cuts a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def load(folder, tmp_path):
    """Loads the folder into a dataset that is deleted afterwards."""
    names = set()

    def load(name="test-documents", folder=folder, pages_dir=tmp_path / "pages", **kwargs):
        names.add(name)
        return load_documents(folder, name, pages_dir=pages_dir, **kwargs)

    yield load
    for name in names:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


def pages_of(dataset):
    return sorted(zip(*dataset.values(["document", "page"]), strict=True))


def color_of(sample):
    """The colour in the middle of a page, in steps that JPEG leaves alone."""
    with Image.open(sample.filepath) as image:
        return tuple(
            round(level / 5) * 5 for level in image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        )


def page_of(dataset, document, page=1):
    return dataset.match({"document": document, "page": page}).first()


def warnings_of(caplog):
    messages = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    caplog.clear()
    return messages


#
# What becomes of a document
#


def test_each_page_becomes_a_sample(load, folder):
    texts = ["Rechnung f\xfcr M\xfcller", "", "It was manip-\nulated.\nTotal: 5"]
    write_pdf(folder / "letters" / "one.PDF", [Page(text, (i * 50, 100, 200)) for i, text in enumerate(texts)])
    write_image(folder / "photo.JPG", (250, 0, 0))
    frames = [Image.new("RGB", (60, 80), (0, i * 50, 0)) for i in range(3)]
    frames[0].save(folder / "fax.tif", save_all=True, append_images=frames[1:])
    frames[1].save(folder / "from images.pdf", save_all=True, append_images=frames[2:])
    (folder / "notes.txt").write_text("neither a PDF nor an image")
    write_image(folder / ".hidden.png")

    dataset = load()
    assert pages_of(dataset) == (
        [("fax.tif", 1), ("fax.tif", 2), ("fax.tif", 3), ("from images.pdf", 1), ("from images.pdf", 2)]
        + [("letters/one.PDF", 1), ("letters/one.PDF", 2), ("letters/one.PDF", 3), ("photo.JPG", 1)]
    )
    assert dataset.persistent and dataset.info["skipped"] == []
    assert dataset.match({"document": "letters/one.PDF"}).values("pages") == [3, 3, 3]

    found = [page_of(dataset, "letters/one.PDF", page).text for page in (1, 2, 3)]
    assert found == ["Rechnung f\xfcr M\xfcller", None, "It was manipulated.\nTotal: 5"]
    assert page_of(dataset, "photo.JPG").text is None

    for page in (1, 2, 3):
        assert color_of(page_of(dataset, "letters/one.PDF", page)) == ((page - 1) * 50, 100, 200)
        assert color_of(page_of(dataset, "fax.tif", page)) == (0, (page - 1) * 50, 0)
    for page in (1, 2):
        assert color_of(page_of(dataset, "from images.pdf", page)) == (0, page * 50, 0)

    for sample in dataset:
        with Image.open(sample.filepath) as image:
            assert (sample.metadata.width, sample.metadata.height) == image.size

    # Browsers, and so the App, show these files.
    assert page_of(dataset, "photo.JPG").filepath == str(folder / "photo.JPG")
    assert {Path(path).suffix for path in dataset.values("filepath")} == {".JPG", ".jpg"}


def test_the_saved_view_shows_documents_with_their_pages_in_order(load, folder):
    write_pdf(folder / "long.pdf", [Page(str(page)) for page in range(1, 12)])
    write_image(folder / "a.png")
    # As if it had failed before, this page comes last.
    dataset = load()
    dataset.delete_samples(dataset.match({"page": 3}))
    view = load().load_saved_view("documents")
    assert sorted(view.values("document")) == ["a.png", "long.pdf"]
    assert view.get_dynamic_group("long.pdf").values("page") == list(range(1, 12))
    assert {sample.page for sample in view} == {1}


def test_documents_of_any_name_keep_apart(load, folder):
    names = ["a.pdf", "a.png", "a.tif", "x/scan.pdf", "y/scan.pdf", "x/scan.png", "a.pdf.d/a.pdf", "two  spaces .pdf"]
    names += ["100%#1?.pdf", 'it\'s "quoted".pdf', "\u6587\u66f8.pdf", "$money.pdf", "~.pdf"]
    # One is composed, and one is not. Some systems take them for the same.
    names += ["caf\xe9.pdf", "cafe\u0301.pdf"] if sys.platform.startswith("linux") else []

    for shade in (0, 100):
        colors = {name: (i * 10, shade, 255 - i * 10) for i, name in enumerate(names)}
        for name, color in colors.items():
            if name.endswith(".pdf"):
                write_pdf(folder / name, [Page(color=color)])
            else:
                write_image(folder / name, color)

        dataset = load()
        assert pages_of(dataset) == sorted((name, 1) for name in names)
        for name, color in colors.items():
            assert color_of(page_of(dataset, name)) == tuple(round(level / 5) * 5 for level in color), name


def test_pages_are_rendered_to_one_area_whatever_their_size(load, folder):
    sizes = {"a4": A4, "stamp": (30, 40), "poster": (8000, 12000), "receipt": (150, 9000)}
    for name, size in sizes.items():
        write_pdf(folder / f"{name}.pdf", [Page(size=size), Page(size=size, rotate=90)])
    write_image(folder / "fax.tif", size=(3000, 4000))
    write_image(folder / "small.tif", size=(30, 40))

    for name, pixels in (("test-default", PIXELS), ("test-smaller", 300_000)):
        dataset = load(name, pixels=pixels)
        for sample in dataset:
            width, height = Image.open(sample.filepath).size
            name, suffix = sample.document.split(".")
            expected = sizes.get(name, (30, 40))
            if sample.page == 2:
                expected = expected[::-1]
            assert width / height == pytest.approx(expected[0] / expected[1], rel=0.03)
            assert width * height == pytest.approx(1200 if name == "small" else pixels, rel=0.02), sample.document


def test_a_page_of_any_shape_costs_nobody_else(load, folder):
    write_pdf(folder / "a.pdf", [Page(size=size) for size in ((14400, 1), (0.001, 0.001), (0, 0), A4)])
    assert pages_of(load()) == [("a.pdf", page) for page in (1, 2, 3, 4)]


def test_what_was_filled_into_a_form_is_shown(load, folder):
    field = "/Type/Annot/Subtype/Widget/FT/Tx/T(name)/V(MMMMMM)/DA(/F1 60 Tf 0 g)/Rect[50 300 550 400]/F 4"
    form = "/AcroForm<</Fields[4 0 R]/NeedAppearances true/DR<</Font<</F1 3 0 R>>>>/DA(/F1 60 Tf 0 g)>>"
    write_pdf(folder / "form.pdf", [Page(extra="/Annots[4 0 R]")], catalog=form, objects=[field])
    darkest, _ = Image.open(load().first().filepath).convert("L").getextrema()
    assert darkest < 50


#
# What cannot be read
#


def test_what_cannot_be_read_costs_only_itself(load, folder, caplog):
    good = ["a.pdf", "m.png", "sub/m.pdf", "z.pdf"]
    for name in good:
        (write_pdf(folder / name, [Page("x")] * 2) if name.endswith("pdf") else write_image(folder / name))

    write_pdf(folder / "encrypted.pdf", [Page("secret")], password="open sesame")
    write_pdf(folder / "no pages.pdf", [])
    write_pdf(folder / "cut.pdf", [Page("x" * 500)] * 9)
    (folder / "cut.pdf").write_bytes((folder / "cut.pdf").read_bytes()[:40])
    (folder / "empty.pdf").touch()
    (folder / "sub" / "text.pdf").write_text("no PDF at all")
    for name in ("cut.png", "cut.jpg", "cut.tif"):
        Image.effect_noise((200, 200), 90).save(folder / name)
        cut(folder / name)
    (folder / "text.gif").write_text("no image at all")
    (folder / "gone.pdf").symlink_to(folder / "nowhere.pdf")
    reasons = {
        "encrypted.pdf": "encrypted",
        "no pages.pdf": "no pages",
        "cut.pdf": "damaged",
        "empty.pdf": "damaged",
        "sub/text.pdf": "no PDF",
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "cut.tif": "",
        "text.gif": "cannot identify",
        "gone.pdf": "No such file",
    }

    for _ in range(2):
        dataset = load()
        assert {document for document, _ in pages_of(dataset)} == set(good) and len(dataset) == 7
        messages = warnings_of(caplog)
        assert len(messages) == len(dataset.info["skipped"]) == len(reasons), messages
        dataset.reload()
        for skipped in dataset.info["skipped"]:
            reason = reasons[skipped["document"]]
            path = str(folder / skipped["document"])
            assert reason in skipped["reason"]
            assert sum(path in message and skipped["reason"] in message for message in messages) == 1

    write_pdf(folder / "empty.pdf", [Page("mended")])
    dataset = load()
    assert page_of(dataset, "empty.pdf").text == "mended" and len(dataset) == 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, names are always Unicode")
def test_a_name_that_the_database_cannot_hold_is_reported(load, folder, caplog):
    write_image(folder / "a.png")
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    dataset = load()
    assert pages_of(dataset) == [("a.png", 1)]
    assert ["UTF-8" in message and "caf" in message for message in warnings_of(caplog)] == [True]


def test_a_folder_that_may_not_be_read_is_reported(load, folder, caplog, monkeypatch):
    write_image(folder / "a.png")
    write_image(folder / "closed" / "b.png")
    scandir = os.scandir

    def forbid(path="."):
        # To the user that tests run as, nothing may be forbidden.
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    assert pages_of(load()) == [("a.png", 1)]
    assert ["closed" in message for message in warnings_of(caplog)] == [True]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_regular_file_is_reported_and_not_waited_for(load, folder):
    write_pdf(folder / "z.pdf", [Page("x")])
    for name in ("pipe.pdf", "pipe.png", "pipe.tif"):
        os.mkfifo(folder / name)
    dataset = load()
    assert pages_of(dataset) == [("z.pdf", 1)]
    found = {skipped["document"]: skipped["reason"] for skipped in dataset.info["skipped"]}
    assert found == dict.fromkeys(("pipe.pdf", "pipe.png", "pipe.tif"), "it is not a regular file")


def test_a_page_that_fails_costs_only_itself(load, folder, caplog):
    write_pdf(folder / "a.pdf", [Page("one"), Page(missing=True), Page("three")])
    write_pdf(folder / "b.pdf", [Page("other")])
    for _ in range(2):
        dataset = load()
        assert pages_of(dataset) == [("a.pdf", 1), ("a.pdf", 3), ("b.pdf", 1)]
        (message,) = warnings_of(caplog)
        assert f"page 2 of {folder / 'a.pdf'}" in message
        assert [(skipped["document"], skipped["page"]) for skipped in dataset.info["skipped"]] == [("a.pdf", 2)]


def test_a_document_that_opens_without_a_password_is_read(load, folder):
    """Many statements and papers are encrypted like this, only to forbid editing."""
    write_pdf(folder / "a.pdf", [Page("for all eyes")], password="")
    assert load().first().text == "for all eyes"


#
# Again
#


@pytest.fixture
def renderings(monkeypatch):
    """The paths of the page images that are written, in order."""
    written, save, render = [], Image.Image.save, PdfRenderer.render

    def record(image, path, *args, **kwargs):
        written.append(Path(path))
        return save(image, path, *args, **kwargs)

    def record_page(renderer, path, index, pixels, picture):
        written.append(Path(picture))
        return render(renderer, path, index, pixels, picture)

    monkeypatch.setattr(Image.Image, "save", record)
    monkeypatch.setattr(PdfRenderer, "render", record_page)
    return written


def test_a_second_run_adds_only_what_is_new(load, folder, renderings):
    write_pdf(folder / "a.pdf", [Page("1"), Page("2")])
    write_image(folder / "b.png")
    dataset = load()
    ids = dataset.values("id")
    renderings.clear()
    assert load().values("id") == ids and renderings == []

    # Nor is it read: that this is no image any more would be reported.
    stat = (folder / "b.png").stat()
    (folder / "b.png").write_bytes(bytes(stat.st_size))
    os.utime(folder / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load().info["skipped"] == []

    write_pdf(folder / "new.pdf", [Page("new")])
    dataset = load()
    assert dataset.values("id")[:3] == ids and pages_of(dataset)[3:] == [("new.pdf", 1)]
    assert len(renderings) == 1


def test_a_changed_document_gets_new_pages_in_place_of_its_old_ones(load, folder):
    write_pdf(folder / "a.pdf", [Page("old", (200, 0, 0))] * 3)
    write_image(folder / "b.png", (200, 0, 0))
    write_pdf(folder / "c.pdf", [Page("kept")])
    dataset = load()
    before = dataset.values("id")

    write_pdf(folder / "a.pdf", [Page("new", (0, 200, 0))] * 2)
    write_image(folder / "b.png", (0, 200, 0))
    os.utime(folder / "b.png", ns=(1, 1))  # the same size as before
    dataset = load()
    assert pages_of(dataset) == [("a.pdf", 1), ("a.pdf", 2), ("b.png", 1), ("c.pdf", 1)]
    assert set(dataset.values("id")) & set(before) == {page_of(dataset, "c.pdf").id}
    for document in ("a.pdf", "b.png"):
        assert color_of(page_of(dataset, document)) == (0, 200, 0)
    assert set(dataset.match({"document": "a.pdf"}).values("text")) == {"new"}

    # Half copied, perhaps.
    cut(folder / "a.pdf")
    (folder / "a.pdf").write_bytes((folder / "a.pdf").read_bytes()[:40])
    (folder / "c.pdf").unlink()
    assert load().values("id") == dataset.values("id")


def test_pages_of_documents_that_are_gone_stay_unless_they_are_pruned(load, folder, tmp_path, caplog):
    write_pdf(folder / "sub" / "old.pdf", [Page("one"), Page("two")])
    write_pdf(folder / "kept.pdf", [Page("three")])
    write_image(folder / "old.png")
    write_image(folder / "kept.png")
    dataset = load()
    rendered = {sample.document: Path(sample.filepath) for sample in dataset}
    index = fob.compute_similarity(
        dataset, backend="late-interaction", model="jina-embeddings-v4-demo", brain_key="late", batch_size=8
    )
    (folder / "sub" / "old.pdf").unlink()
    (folder / "old.png").unlink()
    assert len(load()) == 5 and index.total_index_size == 5

    caplog.clear()
    dataset = load(prune=True)
    assert sorted(dataset.values("document")) == ["kept.pdf", "kept.png"]
    assert "Removed sub/old.pdf and its 2 pages" in caplog.text and "Removed old.png and its 1 pages" in caplog.text
    assert "Removed 3 pages from the index 'late'" in caplog.text
    dataset.clear_cache()
    assert set(dataset.load_brain_results("late").sample_ids) == set(dataset.values("id"))
    # Their rendered images, too, but no image that was used in place.
    assert not rendered["sub/old.pdf"].parent.parent.exists() and rendered["kept.pdf"].exists()
    assert (folder / "kept.png").exists()

    caplog.clear()
    load(prune=True)
    assert "Removed" not in caplog.text
    dataset.delete_brain_run("late")


def test_nothing_is_pruned_where_it_cannot_be_told_what_is_gone(load, folder, monkeypatch):
    write_image(folder / "a" / "1.png")
    write_image(folder / "2.png")
    load()
    # A folder that cannot be listed, as by its permissions.
    os.rename(folder / "a", folder / ".hidden")
    with monkeypatch.context() as patch:

        def refuse(path):
            raise PermissionError(path)

        patch.setattr(Path, "lstat", refuse)
        assert len(load(prune=True)) == 2

    # A drive that is not mounted.
    os.rename(folder / "2.png", folder / ".2.png")
    with pytest.raises(ValueError, match="There is no document in .* has 2. Nothing was removed"):
        load(prune=True)
    os.rename(folder / ".2.png", folder / "2.png")
    assert load(prune=True).values("document") == ["2.png"]


def test_an_index_that_cannot_be_changed_is_told(load, folder, caplog):
    write_image(folder / "1.png")
    write_image(folder / "2.png")
    dataset = load()
    fob.compute_similarity(
        dataset, backend="late-interaction", model="jina-embeddings-v4-demo", brain_key="late", embeddings=False
    )
    # A clone shares its original's index, and must not change it.
    clone = dataset.clone()
    (folder / "1.png").unlink()
    remove_gone(clone, folder, {"2.png"}, folder / "pages")
    assert clone.values("document") == ["2.png"] and len(dataset) == 2
    assert "The index 'late' still has pages" in caplog.text and "cloned from" in caplog.text
    clone.delete()
    dataset.delete_brain_run("late")


def test_a_killed_run_goes_on_where_it_was(load, folder, renderings, monkeypatch):
    write_image(folder / "a.png")
    write_pdf(folder / "b.pdf", [Page(str(page)) for page in range(1, 91)])
    write_pdf(folder / "c.pdf", [Page("last")])

    recording = PdfRenderer.render

    def kill(renderer, path, index, pixels, picture):
        if Path(picture).name == "0080.jpg":
            raise KeyboardInterrupt
        return recording(renderer, path, index, pixels, picture)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(PdfRenderer, "render", kill)
        load()

    there = len(fo.load_dataset("test-documents"))
    assert 40 < there < 80
    renderings.clear()
    dataset = load()
    assert pages_of(dataset) == [("a.png", 1), *(("b.pdf", page) for page in range(1, 91)), ("c.pdf", 1)]
    assert len(renderings) == 92 - there
    assert dataset.load_saved_view("documents").get_dynamic_group("b.pdf").values("text") == [
        str(i) for i in range(1, 91)
    ]


@pytest.mark.parametrize("place", ["scans/pages", "scans"])
def test_pages_kept_in_the_folder_itself_are_no_documents(load, folder, tmp_path, place):
    write_pdf(folder / "a.pdf", [Page("1")])
    for _ in range(2):
        assert pages_of(load(pages_dir=tmp_path / place)) == [("a.pdf", 1)]


def test_datasets_keep_their_pages_apart(load, folder, tmp_path):
    write_pdf(folder / "a.pdf", [Page("", (200, 0, 0))])
    write_pdf(tmp_path / "others" / "a.pdf", [Page("", (0, 0, 200))])
    dataset = load("test-one")
    assert color_of(load("test-two", folder=tmp_path / "others").first()) == (0, 0, 200)
    assert color_of(dataset.first()) == (200, 0, 0)


#
# What is refused
#


def test_a_dataset_of_something_else_is_left_alone(load, folder, tmp_path):
    write_image(folder / "a.png")
    write_image(tmp_path / "others" / "a.png")
    dataset = load()
    with pytest.raises(ValueError, match="pass another name"):
        load(folder=tmp_path / "others")
    with pytest.raises(ValueError, match="pass another name"):
        load(pixels=1000)

    other = fo.Dataset("test-other")
    other.add_sample(fo.Sample(filepath="a.png"))
    with pytest.raises(ValueError, match="pass another name"):
        load("test-other")
    assert len(other) == len(dataset) == 1 and "document" not in other.get_field_schema()


def test_the_name_is_by_default_that_of_the_folder(folder, load):
    write_pdf(folder / "a.pdf", [Page()])
    dataset = load(None, pages_dir=None, persistent=False)
    try:
        assert dataset.name == "scans" and not dataset.persistent
        assert Path(dataset.first().filepath).is_relative_to(fo.config.default_dataset_dir)
    finally:
        dataset.delete()


def test_wrong_arguments_are_named(load, folder, tmp_path):
    with pytest.raises(NotADirectoryError, match="no-such-folder"):
        load(folder=tmp_path / "no-such-folder")
    with pytest.raises(ValueError, match="pixels"):
        load(pixels=0)
    for seconds in (0, -1, "5", None, float("nan")):
        with pytest.raises(ValueError, match="seconds"):
            load(seconds=seconds)
    assert not fo.dataset_exists("test-documents")


def test_without_pypdfium2_the_error_says_what_to_install(load, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    write_image(folder / "a.png")
    assert len(load("test-images")) == 1

    write_pdf(folder / "a.pdf", [Page()])
    with pytest.raises(ImportError, match="pip install 'pypdfium2>=4.30,<6'"):
        load("test-pdfs")
    assert not fo.dataset_exists("test-pdfs")


def test_progress_is_told_by_documents(load, folder):
    for name in "abc":
        write_pdf(folder / f"{name}.pdf", [Page(), Page()])
    seen = []
    load(progress=lambda bar: seen.append((bar.iteration, bar.total)))
    assert seen[-1] == (3, 3)


def write_hostile_pdf(path, resources, content, dictionary, stream, count=1, repeated=1):
    """Writes a PDF of a page that draws one more object, number 5, some times over."""

    def with_stream(words, data):
        return f"<<{words}/Length {len(data)}>>stream\n{data}\nendstream"

    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{'3 0 R ' * repeated}]/Count {max(count, repeated)}>>",
        f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<<{resources}>>>>",
        with_stream("", content),
        with_stream(dictionary, stream),
    ]
    data = "%PDF-1.4\n"
    for number, body in enumerate(objects, start=1):
        data += f"{number} 0 obj\n{body}\nendobj\n"
    path.write_text(f"{data}trailer<</Size 6/Root 1 0 R>>\n%%EOF")


def write_recursive_pdf(path):
    """A form that draws itself twice: PDFium takes all memory that there is."""
    again = "/Resources<</XObject<</F 5 0 R>>>>"
    write_hostile_pdf(
        path, "/XObject<</F 5 0 R>>", "/F Do", f"/Type/XObject/Subtype/Form/BBox[0 0 595 842]{again}", "/F Do /F Do"
    )


def write_slow_pdf(path, pages=1):
    """A pattern that steps by almost nothing: it takes minutes."""
    pattern = "/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 5 5]/XStep .0005/YStep .0005/Resources<<>>"
    fill, tile = "/Pattern cs /P scn 0 0 595 842 re f", "1 0 0 rg 0 0 4 4 re f"
    write_hostile_pdf(path, "/Pattern<</P 5 0 R>>", fill, pattern, tile, repeated=pages)


def test_a_page_that_takes_too_much_costs_only_itself(load, folder, monkeypatch):
    monkeypatch.setattr(sys.modules[PdfRenderer.__module__], "_START", 60)
    write_pdf(folder / "a.pdf", [Page("1"), Page("2")])
    write_recursive_pdf(folder / "b.pdf")
    write_slow_pdf(folder / "c.pdf")
    write_pdf(folder / "d.pdf", [Page("3")])
    dataset = load(seconds=4)
    assert pages_of(dataset) == [("a.pdf", 1), ("a.pdf", 2), ("d.pdf", 1)]
    reasons = {skipped["document"]: (skipped["page"], skipped["reason"]) for skipped in dataset.info["skipped"]}
    assert reasons["c.pdf"] == (1, "it takes more than 4 seconds")
    # Whichever of the two limits is met first on this machine.
    assert reasons["b.pdf"][0] == 1 and reasons["b.pdf"][1].startswith("it takes more than ")


def test_a_pdf_of_slow_pages_is_given_up(load, folder, monkeypatch):
    monkeypatch.setattr(sys.modules[PdfRenderer.__module__], "_START", 60)
    write_slow_pdf(folder / "a.pdf", pages=50)
    write_pdf(folder / "b.pdf", [Page("1")])
    dataset = load(seconds=1)
    assert pages_of(dataset) == [("b.pdf", 1)]
    *pages, rest = dataset.info["skipped"]
    assert [skipped["page"] for skipped in pages] == [1, 2, 3]
    assert rest["page"] is None and rest["reason"].startswith("3 pages take too much time or memory: the rest")


def test_a_pdf_that_claims_a_million_pages_is_given_up(load, folder):
    write_hostile_pdf(folder / "a.pdf", "", "", "", "", count=1_000_000)
    write_pdf(folder / "b.pdf", [Page("1")])
    dataset = load()
    assert pages_of(dataset)[-1] == ("b.pdf", 1)
    skipped = dataset.info["skipped"]
    assert len(skipped) == 101 and "100 pages in a row cannot be read" in skipped[-1]["reason"]


def test_a_rendering_process_that_was_killed_while_idle_costs_one_page(folder, tmp_path):
    write_pdf(folder / "a.pdf", [Page("1"), Page("2")])
    with PdfRenderer(30) as renderer:
        renderer.count(folder / "a.pdf")
        # Nobody but a test has a use for the process.
        renderer._process.kill()
        renderer._process.wait()
        with pytest.raises(ValueError, match="memory, or PDFium fails"):
            renderer.render(folder / "a.pdf", 0, 10_000, tmp_path / "1.jpg")
        assert renderer.render(folder / "a.pdf", 1, 10_000, tmp_path / "2.jpg") == "2"


def test_the_rendering_process_ends_with_its_parent(folder, tmp_path):
    write_slow_pdf(folder / "a.pdf")
    code = (
        "import sys, threading, time; from jina_embeddings_v4.documents.pdf_renderer import PdfRenderer\n"
        "renderer = PdfRenderer(60); renderer.count(sys.argv[1]); print(renderer._process.pid, flush=True)\n"
        "renderer.render(sys.argv[1], 0, 1_000_000, sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(folder / "a.pdf"), str(tmp_path / "a.jpg")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(1)  # until it is in the midst of the page
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if sys.platform == "linux" and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the rendering process outlived its parent")
