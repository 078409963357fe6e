"""What the tests of embedding on Ray share. FiftyOne is imported within, after its environment is set."""

import numpy as np
import psutil
import pytest


@pytest.fixture(scope="package", autouse=True)
def no_other_cluster():
    """Where Ray is started, it is one of the test's own, even if another one runs on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # No token is written to the person's home.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture(scope="session")
def page_files(tmp_path_factory):
    """The paths of 24 pages, and of one file that is no image."""
    from jina_embeddings_v4.demo.pages.documents import documents
    from jina_embeddings_v4.demo.pages.rendering import draw_document

    folder = tmp_path_factory.mktemp("pages")
    paths = []
    for i, document in enumerate(documents("test", 20_000, 20_024)):
        paths.append(str(folder / f"{i:02}.png"))
        draw_document(document, i).save(paths[-1])
    broken = folder / "broken.png"
    broken.write_text("not an image")
    return paths, str(broken)


@pytest.fixture
def make_dataset(page_files):
    """Makes a dataset of so many pages, which repeat, and of the broken file in their middle."""
    import fiftyone as fo

    paths, broken = page_files
    made = []

    def make(count, persistent=False):
        dataset = fo.Dataset(persistent=persistent)
        files = [paths[i % len(paths)] for i in range(count)]
        files.insert(count // 2, broken)
        dataset.add_samples([fo.Sample(filepath=path) for path in files])
        made.append(dataset)
        return dataset

    yield make
    for dataset in made:
        dataset.delete_brain_runs()
        dataset.delete()


@pytest.fixture
def check(load_demo, page_files):
    """Compares what is in a field and in an index with what one process computes, and looks for pages that are lost."""
    model = load_demo()
    paths, _ = page_files
    encoded = model.encoder.encode_images(paths)

    def check(dataset, field=None, brain_key=None):
        files = {path: i for i, path in enumerate(paths)}
        readable = [
            (one, files[path]) for one, path in zip(*dataset.values(["id", "filepath"]), strict=True) if path in files
        ]
        ids, rows = map(list, zip(*readable, strict=True))
        if field is not None:
            vectors = dict(zip(*dataset.exists(field).values(["id", field]), strict=True))
            assert sorted(vectors) == sorted(ids)
            np.testing.assert_allclose(np.stack([vectors[one] for one in ids]), encoded.single[rows], atol=2e-6)
        if brain_key is not None:
            index = dataset.load_brain_results(brain_key)
            assert index.total_index_size == len(ids) and sorted(index.sample_ids) == sorted(ids)
            assert index.check() == []
            multi = index._store.multi(ids)
            for vectors, row in zip(multi, rows, strict=True):
                # As rounded as the store keeps them.
                np.testing.assert_allclose(vectors, encoded.multi[row].astype(np.float16).astype(np.float32), atol=1e-3)

    return check


@pytest.fixture
def actors():
    """Lists the processes of this user that hold the model."""

    def find():
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = " ".join(process.info["cmdline"] or [])
            if command.startswith("ray::") and "Embedder" in command:
                found.append(process)
        return found

    return find
