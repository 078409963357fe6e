"""Every Python block of the README and of docs/ runs as it stands, by the demo model, on a dataset of a few images."""

import re
import subprocess
import types
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
import mteb
import numpy as np
import pytest
from jina_embeddings_v4 import DEMO_CHECKPOINT
from PIL import Image

from .analysis.test_mteb_model import retrieval_task
from .conftest import DEMO_MODEL

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What a page may ask for that a test cannot give it: the real weights, another model's weights, half an hour.
STAND_INS = {
    'JinaV4Mteb("jinaai/jina-embeddings-v4"': f'JinaV4Mteb("{DEMO_CHECKPOINT}"',
    '"question", "my_adapter"': f'"question", "my_adapter", checkpoint="{DEMO_CHECKPOINT}"',
    "jinaai/jina-embeddings-v4": DEMO_MODEL,
    '"CLIP": "clip-vit-base32-torch"': f'"CLIP": "{DEMO_MODEL}"',
    "steps=500, batch_size=16": "steps=2, batch_size=4",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of images and one of documents, which are the person's home and working directory, too."""
    random = np.random.default_rng(51)
    (tmp_path / "scans").mkdir()
    for i in range(24):
        image = Image.fromarray(random.integers(0, 255, (5, 4, 3), dtype=np.uint8))
        image.resize((120, 150)).save(tmp_path / "scans" / f"{i:02}.png")
    (tmp_path / "contracts").mkdir()
    pages = [Image.new("RGB", (200, 280), color) for color in ("white", "beige")]
    pages[0].save(tmp_path / "contracts" / "lease.pdf", save_all=True, append_images=pages[1:])
    image.save(tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def scans(folder):
    """The dataset that the pages go on with, with the indexes of the quickstart and of late interaction."""
    dataset = fo.Dataset("scans", overwrite=True)
    samples = []
    for i, path in enumerate(sorted((folder / "scans").iterdir())):
        sample = fo.Sample(
            filepath=str(path), caption=f"scan {i}", second_caption=f"number {i}", question=f"what is {i}?"
        )
        sample["ground_truth"] = fo.Detections(
            detections=[fo.Detection(label="box", bounding_box=[0.1, 0.1, 0.5, 0.5])]
        )
        sample.tags = ["invoices"] if i < 4 else []
        samples.append(sample)
    dataset.add_samples(samples)
    ids = dataset.values("id")
    dataset.set_values("wrong_pages", [[ids[i - 1]] for i in range(len(ids))])
    names = {"model": DEMO_MODEL, "batch_size": 8}
    fob.compute_similarity(dataset, embeddings_field="jina", brain_key="search", **names)
    fob.compute_similarity(dataset, backend="late-interaction", brain_key="pages", **names)
    yield dataset
    for name in ("scans", "scans-again"):
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


def run(page, **scope):
    """Runs the blocks of a page one after another, and returns what they defined."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        code = match[1]
        for written, instead in STAND_INS.items():
            code = code.replace(written, instead)
        # So that an error names the line of the page.
        code = "\n" * text.count("\n", 0, match.start(1)) + code
        exec(compile(code, str(page), "exec"), scope)
    return scope


def test_the_readme(scans, folder, monkeypatch):
    monkeypatch.setitem(STAND_INS, "/path/to/scans", str(folder / "scans"))
    monkeypatch.setitem(STAND_INS, 'name="scans"', 'name="scans-again"')
    shown = []
    monkeypatch.setattr(fo, "launch_app", lambda view: shown.append(view))
    found = run(ROOT / "README.md")
    assert len(shown[0]) == 24 and len(found["view"]) == 24
    assert all(heatmap.map.ndim == 2 for heatmap in found["view"].values("match"))


def test_the_tour(scans):
    found = run(ROOT / "docs" / "tour.md")
    points = scans.load_brain_results("umap").points
    assert points.shape == (24, 2) and np.isfinite(points).all()
    assert len(scans.values("jina_matching[]")) and found["embeddings"].single.shape == (1, 256)


def test_zero_shot(scans):
    run(ROOT / "docs" / "zero_shot.md")
    assert set(scans.values("document_type.label")) <= {"invoice", "letter", "receipt"}
    assert set(scans.values("writing.label")) <= {"handwritten", "printed"}


def test_late_interaction(scans):
    found = run(ROOT / "docs" / "late_interaction.md")
    assert len(found["view"]) == 24 and all(heatmap.map is not None for heatmap in scans.values("match"))
    assert any(name.startswith("match_") for name in scans.get_field_schema())


def test_videos(folder, monkeypatch):
    monkeypatch.setitem(STAND_INS, "/path/to/videos", str(folder / "videos"))
    (folder / "videos").mkdir()
    for name in ("one", "two"):
        source = f"testsrc=size=112x112:rate=2:duration={len(name) - 1}"
        file = folder / "videos" / f"{name}.mp4"
        subprocess.run(["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", source, str(file)], check=True)
    found = run(ROOT / "docs" / "videos.md")
    dataset = found["dataset"]
    assert len(found["view"]) == 2 and len(dataset.exists("kind")) == 2 and len(dataset.exists("jina")) == 2
    assert len(found["clips"]) == dataset.count("moments.detections") >= 2
    dataset.delete_brain_runs()
    dataset.delete()


def test_documents(folder):
    found = run(ROOT / "docs" / "documents.md")
    assert found["dataset"].values("page") == [1, 2] and len(found["view"]) == 1
    found["dataset"].delete()


def test_fine_tuning(scans, folder):
    run(ROOT / "docs" / "fine_tuning.md")
    assert (folder / "my_adapter" / "adapter_model.safetensors").is_file()


def test_measuring(scans, folder, monkeypatch):
    # In place of a benchmark whose data would be downloaded.
    task = retrieval_task({"image": [Image.open("page.png")]}, ["a page"], np.eye(1, dtype=bool), "Any2AnyRetrieval")
    monkeypatch.setattr(mteb, "get_benchmark", lambda name: types.SimpleNamespace(tasks=[task]))
    monkeypatch.setattr(fo, "launch_app", lambda view: None)
    ids = scans.values("id")
    run(ROOT / "docs" / "measuring.md", fo=fo, id1=ids[0], id2=ids[1])
    assert (folder / "space").exists() and sorted(scans.values("caption_fit_rank")) == list(range(1, 25))


def test_scale(scans, monkeypatch):
    # One of its own, even where another Ray runs.
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in scans.values("filepath")])
    report = run(ROOT / "docs" / "scale.md", dataset=dataset)["report"]
    assert (report.total, report.embedded, report.failed) == (24, 24, [])
    dataset.delete_brain_runs()
    dataset.delete()


def test_troubleshooting(monkeypatch):
    # Registering from an archive at a URL is in test_flow.py.
    registered = []
    monkeypatch.setattr(foz, "register_zoo_model_source", lambda url, overwrite: registered.append((url, overwrite)))
    found = run(ROOT / "docs" / "troubleshooting.md", URL="https://github.com/owner/repo")
    assert registered == [("https://github.com/owner/repo", True)] and found["model"].task == "retrieval"


def test_no_page_with_code_is_left_out():
    tested = {
        "README",
        "tour",
        "zero_shot",
        "late_interaction",
        "documents",
        "videos",
        "fine_tuning",
        "measuring",
        "scale",
        "troubleshooting",
    }
    assert {page.stem for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))} == tested


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in anchors, target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500
