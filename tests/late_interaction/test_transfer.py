"""An index goes to another machine: as it is, to the samples that it belongs to, and on where it was interrupted."""

import logging
import shutil

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction import transfer
from jina_embeddings_v4.late_interaction.stores import stored_pages
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.transfer import import_index
from PIL import Image

MODEL = "jina-embeddings-v4-demo"
COUNT = 8


@pytest.fixture
def made():
    """The datasets that a test made, which are deleted afterwards."""
    datasets = []
    yield datasets
    for dataset in datasets:
        if not dataset.deleted:
            for key in dataset.list_brain_runs():
                dataset.delete_brain_run(key)
            dataset.delete()


def write_images(folder):
    folder.mkdir(parents=True)
    for i in range(COUNT):
        Image.new("RGB", (40, 40), (i, i, i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def make(made):
    def make(folder):
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=str(path)) for path in sorted(folder.iterdir())])
        made.append(dataset)
        return dataset

    return make


@pytest.fixture
def dataset(make, tmp_path):
    return make(write_images(tmp_path / "here" / "images"))


def random_embeddings(pages, seed=0):
    random = np.random.default_rng(seed)
    rows = [random.standard_normal((length, 128)) for length in random.integers(3, 9, size=pages)]
    unit = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in rows]
    return Embeddings(np.stack([part[0] for part in unit]), unit)


def make_index(dataset, key="late", ids=None, seed=0, **kwargs):
    """An index of vectors that no model made."""
    index = fob.compute_similarity(
        dataset, backend="late-interaction", model=MODEL, brain_key=key, embeddings=False, **kwargs
    )
    ids = dataset.values("id") if ids is None else ids
    index.add_to_index(random_embeddings(len(ids), seed), ids)
    return index


def assert_same(found, expected, ids=None):
    """The same vectors to the last bit, of the samples with the same names."""
    names = dict(zip(*expected._samples.values(["id", "filepath"]), strict=True))
    others = dict(zip(*found._samples.values(["id", "filepath"]), strict=True))
    vectors = {names[page].rpartition("/")[2]: rows for page, rows in expected.get_multi_vectors(ids).items()}
    others = {others[page].rpartition("/")[2]: rows for page, rows in found.get_multi_vectors().items()}
    assert others.keys() == vectors.keys()
    for name, rows in vectors.items():
        np.testing.assert_array_equal(others[name], rows)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_index_follows_its_dataset_to_another_database(dataset, made, tmp_path, dtype):
    index = make_index(dataset, dtype=dtype, pool_factor=2)
    expected = index.get_multi_vectors()
    dataset.export(str(tmp_path / "dataset"), dataset_type=fo.types.FiftyOneDataset, export_media=False)
    index.export(tmp_path / "index")
    # There, neither the dataset that it was made for nor its vectors are known.
    dataset.delete_brain_run("late")
    dataset.delete()
    there = fo.Dataset.from_dir(str(tmp_path / "dataset"), dataset_type=fo.types.FiftyOneDataset)
    made.append(there)
    assert there.list_brain_runs() == ["late"]

    imported = import_index(there, tmp_path / "index", "late")
    found = imported.get_multi_vectors()
    assert found.keys() == expected.keys() == set(there.values("id"))
    for page, rows in expected.items():
        np.testing.assert_array_equal(found[page], rows)
    assert imported.check() == []

    there.clear_cache()
    loaded = there.load_brain_results("late")
    assert (loaded.config.model, loaded.config.dtype, loaded.config.pool_factor) == (MODEL, dtype, 2)
    assert len(there.sort_by_similarity("a chart", brain_key="late", k=3)) == 3
    # It is this dataset's own: it grows and goes, and the export stays.
    loaded.remove_from_index(there.values("id")[:1])
    there.delete_brain_run("late")
    assert LocalStore(tmp_path / "index", dtype).size() == COUNT


def test_samples_with_other_ids_are_found_by_their_file_paths(dataset, make, tmp_path, caplog):
    index = make_index(dataset)
    index.export(tmp_path / "index", rel_dir=tmp_path / "here")
    (tmp_path / "there").mkdir()
    shutil.copytree(tmp_path / "here" / "images", tmp_path / "there" / "images")
    there = make(tmp_path / "there" / "images")
    with pytest.raises(ValueError, match=r"None of the 8 samples .* 'images/0.png'.* rel_dir"):
        import_index(there, tmp_path / "index", "late")
    assert there.list_brain_runs() == []

    assert_same(import_index(there, tmp_path / "index", "late", rel_dir=tmp_path / "there"), index)

    # Of fewer samples, fewer pages.
    (tmp_path / "there" / "images" / "3.png").unlink()
    fewer = make(tmp_path / "there" / "images")
    with caplog.at_level(logging.WARNING):
        found = import_index(fewer, tmp_path / "index", "late", rel_dir=tmp_path / "there")
    assert "1 of the 8 samples" in caplog.text and str(tmp_path / "there" / "images" / "3.png") in caplog.text
    ids = dataset.values("id")
    assert_same(found, index, ids[:3] + ids[4:])


def test_the_exports_of_several_machines_become_one_index(dataset, tmp_path):
    ids = dataset.values("id")
    halves = [make_index(dataset, f"half{i}", ids[4 * i : 4 * i + 4], seed=i) for i in range(2)]
    for i, half in enumerate(halves):
        half.export(tmp_path / f"half{i}")
    sizes = []
    for i in (0, 1, 1):
        whole = import_index(dataset, tmp_path / f"half{i}", "whole")
        sizes.append(sum(path.stat().st_size for path in whole._store.folder.glob("*.multi")))
    # What was there already is not copied again.
    assert sizes[0] < sizes[1] == sizes[2]
    assert whole.total_index_size == COUNT and whole.check() == []
    for half in halves:
        for page, rows in half.get_multi_vectors().items():
            np.testing.assert_array_equal(whole.get_multi_vectors([page])[page], rows)


def test_an_import_that_was_interrupted_goes_on(dataset, tmp_path, monkeypatch):
    index = make_index(dataset)
    # A page at a time.
    monkeypatch.setattr(stored_pages, "_AT_ONCE", 1)
    index.export(tmp_path / "index")
    copy_pages = transfer.copy_pages

    def fail(*args):
        for number, copied in enumerate(copy_pages(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield copied

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "copy_pages", fail)
        with pytest.raises(KeyboardInterrupt):
            import_index(dataset, tmp_path / "index", "again")
    dataset.clear_cache()
    assert 0 < dataset.load_brain_results("again").total_index_size < COUNT
    assert_same(import_index(dataset, tmp_path / "index", "again"), index)


def test_an_export_that_failed_leaves_nothing(dataset, tmp_path, monkeypatch):
    index = make_index(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_write_filepaths", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.export(tmp_path / "index")
    assert not (tmp_path / "index").exists()
    index.export(tmp_path / "index")
    with pytest.raises(ValueError, match="is not empty"):
        index.export(tmp_path / "index")


def test_what_is_no_export_is_refused(dataset, tmp_path):
    index = make_index(dataset)
    index.export(tmp_path / "index")
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(tmp_path / "index" / "index.json")
        with pytest.raises(ValueError, match="is no exported index, or its export was interrupted"):
            import_index(dataset, tmp_path / "index", "again")
    assert dataset.list_brain_runs() == ["late"]


def test_another_index_of_the_key_stays(dataset, tmp_path):
    make_index(dataset).export(tmp_path / "index")
    make_index(dataset, "int8", dtype="int8")
    with pytest.raises(ValueError, match="was made with dtype='int8'"):
        import_index(dataset, tmp_path / "index", "int8")


def test_damaged_vectors_are_not_passed_on(dataset, tmp_path, caplog):
    index = make_index(dataset)
    index.export(tmp_path / "index")
    (path,) = (tmp_path / "index").glob("*.multi")
    with open(path, "r+b") as file:
        file.seek(5)
        file.write(b"?")
    with caplog.at_level(logging.WARNING):
        found = import_index(dataset, tmp_path / "index", "again")
    (lost,) = set(index.sample_ids) - set(found.sample_ids)
    assert lost in caplog.text and found.check() == []


@pytest.mark.parametrize("settings", [{"dtype": "binary"}, {"gate": "binary"}])
def test_bits_go_along(dataset, tmp_path, settings):
    index = make_index(dataset, **settings)
    index.export(tmp_path / "index")
    found = import_index(dataset, tmp_path / "index", "again")
    assert found.config.gate == "binary" and found.config.dtype == index.config.dtype and found.check() == []
    assert_same(found, index)
    # Of as few candidates as are wanted, signs choose.
    query, both = random_embeddings(1, seed=1), (index, found)
    first, second = (one.with_candidates(3).sort_by_similarity(query, k=3).values("id") for one in both)
    assert first == second and len(first) == 3


def test_patches_are_found_by_their_ids(dataset, make, tmp_path):
    for sample in dataset.iter_samples(autosave=True):
        boxes = [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.7, 0.7]]
        sample["boxes"] = fo.Detections(detections=[fo.Detection(bounding_box=box) for box in boxes])
    index = fob.compute_similarity(
        dataset, backend="late-interaction", model=MODEL, brain_key="late", embeddings=False, patches_field="boxes"
    )
    label_ids = dataset.values("boxes.detections.id", unwind=True)
    sample_ids = [sample_id for sample_id in dataset.values("id") for _ in range(2)]
    index.add_to_index(random_embeddings(2 * COUNT), sample_ids, label_ids)
    index.export(tmp_path / "index")

    found = import_index(dataset, tmp_path / "index", "again")
    assert list(found.label_ids) == list(index.label_ids) and list(found.sample_ids) == list(index.sample_ids)
    with pytest.raises(ValueError, match="patches are found by their ids alone"):
        import_index(make(tmp_path / "here" / "images"), tmp_path / "index", "late")


def test_qdrant_exports_by_itself(dataset, tmp_path):
    index = make_index(dataset, store="qdrant", uri=str(tmp_path / "qdrant"))
    with pytest.raises(ValueError, match="Qdrant, whose own snapshots"):
        index.export(tmp_path / "index")
