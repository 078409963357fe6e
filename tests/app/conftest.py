"""A dataset of pages with an index, and the plugin. FiftyOne is imported within, after its environment is set."""

import os
from pathlib import Path

import pytest
from jina_embeddings_v4.cli.private_fiftyone import copy_source

DEMO_MODEL = "jina-embeddings-v4-demo"


@pytest.fixture(scope="session")
def plugin():
    copy_source(Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "jina_embeddings_v4")


@pytest.fixture(scope="module")
def indexed_pages(plugin, tmp_path_factory):
    """A dataset of twelve pages of three documents, with texts, and an index by meaning and words."""
    import fiftyone as fo
    import fiftyone.brain as fob
    from jina_embeddings_v4.demo.pages.documents import documents
    from jina_embeddings_v4.demo.pages.rendering import draw_document

    folder = tmp_path_factory.mktemp("pages")
    dataset, samples = fo.Dataset(persistent=True), []
    for i, document in enumerate(documents("test", 20_000, 20_012)):
        path = folder / f"{i}.png"
        draw_document(document, i).save(path)
        place = {"document": f"{i // 4}.pdf", "page": i % 4 + 1, "pages": 4}
        text = f"The number of this page is N{i}." if i else None
        samples.append(fo.Sample(filepath=str(path), headline=document.headline, text=text, **place))
    dataset.add_samples(samples)
    fob.compute_similarity(
        dataset, backend="late-interaction", model=DEMO_MODEL, brain_key="pages", text_field="text", num_workers=0
    )
    yield dataset
    dataset.delete_brain_run("pages")
    dataset.delete()
