"""Indexes and searches the documents of a folder."""

import argparse
import csv
import json
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
from tabulate import tabulate

from ..documents import load_documents
from ..integration.query_labels import MATCH
from ..late_interaction.index import LateInteractionSimilarityIndex
from ..late_interaction.snippets import WIDTH, snippet

BRAIN_KEY = "pages"

_COLUMNS = ("rank", "document", "page", "score", "snippet")


def index_folder(options: argparse.Namespace) -> int:
    """Reads and embeds what is new in a folder."""
    if options.model not in foz.list_zoo_models():
        ours = [known for known in foz.list_zoo_models() if "jina-embeddings-v4" in known]
        has = f"This repository has {' and '.join(ours)}" if ours else "Register this repository first"
        raise SystemExit(f"FiftyOne's model zoo has no {options.model!r}. {has}")

    _warn_of_demo(options.model)
    _say("Reading the documents")
    try:
        dataset = load_documents(
            options.folder,
            options.dataset,
            pages_dir=options.pages_dir,
            pixels=options.pixels,
            progress=True,
            prune=options.prune,
        )
    except (ImportError, NotADirectoryError, ValueError) as error:
        raise SystemExit(error) from None

    if not dataset:
        raise SystemExit(f"There are no pages to be read in {options.folder}")

    _say("Indexing their pages")
    chosen = {name: getattr(options, name) for name in ("adapter", "precision", "device")}
    try:
        index = fob.compute_similarity(
            dataset,
            backend="late-interaction",
            model=options.model,
            model_kwargs={name: value for name, value in chosen.items() if value is not None},
            brain_key=BRAIN_KEY,
            text_field="text",
            batch_size=options.batch_size,
            progress=True,
        )
    except ValueError as error:
        raise SystemExit(error) from None

    # The old pages of documents that changed, which would otherwise still be found.
    gone = set(index.sample_ids) - set(dataset.values("id"))
    if gone:
        index.remove_from_index(sample_ids=list(gone))

    skipped = dataset.info["skipped"]
    _say(f"{len(dataset)} pages of {len(dataset.distinct('document'))} documents, by {options.model}")
    if skipped:
        _say(f"{len(skipped)} documents or pages could not be read; the reasons are above")
    return 0


def search_folder(options: argparse.Namespace) -> int:
    """Finds pages, and prints them or opens them in the App."""
    dataset = load_indexed(options)
    if BRAIN_KEY not in dataset.list_brain_runs():
        raise SystemExit(_not_indexed(options))

    index = dataset.load_brain_results(BRAIN_KEY)
    if options.mode != "text":
        _warn_of_demo(index.config.model)
    # Of an index that an older version made, there are vectors alone, until the folder is indexed again.
    mode = None if options.mode == "hybrid" else options.mode
    try:
        view = index.sort_by_similarity(options.query, k=options.k, dist_field="distance", mode=mode)
    except ValueError as error:
        raise SystemExit(error) from None

    rows = _rows(view, options.query)
    if options.json:
        found = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        print(json.dumps(found, ensure_ascii=False, indent=2), file=options.out)
    elif options.csv:
        csv.writer(options.out, lineterminator="\n").writerows([_COLUMNS, *rows])
    else:
        table = tabulate(rows, _COLUMNS, floatfmt=".3f", maxcolwidths=[None, 40, None, None, WIDTH])
        print(table, file=options.out)
    options.out.flush()
    if options.open:
        _open(index, view, options.query, heatmaps=options.mode != "text")
    return 0


def load_indexed(options: argparse.Namespace) -> fo.Dataset:
    """Returns the dataset of a folder's pages.

    Raises:
        SystemExit: if the folder has not been indexed
    """
    folder = Path(options.folder).expanduser().resolve()
    name = options.dataset or folder.name
    if not fo.dataset_exists(name):
        raise SystemExit(_not_indexed(options))

    dataset = fo.load_dataset(name)
    if dataset.info.get("folder") != str(folder):
        raise SystemExit(
            f"The dataset {name!r} holds pages of {dataset.info.get('folder')}, not of {folder}: name another with "
            "--dataset"
        )
    return dataset


def _not_indexed(options):
    return f"{options.folder} has not been indexed: run `jina-fiftyone index {options.folder}` first"


def _rows(view, query):
    documents, pages, texts, distances = view.values(["document", "page", "text", "distance"])
    return [
        (rank, document, page, round(1 - distance, 4), snippet(text or "", query))
        for rank, (document, page, text, distance) in enumerate(zip(documents, pages, texts, distances, strict=True), 1)
    ]


def _open(index: LateInteractionSimilarityIndex, view: fo.DatasetView, query: str, heatmaps: bool) -> None:
    if heatmaps:
        index.get_model().heatmaps(view, query, label_field=MATCH, index=index)
    session = fo.launch_app(view=view)
    _say(f"The App is open at {session.url}. Ctrl-C closes it")
    session.wait(-1)


def _warn_of_demo(model):
    if model and model.endswith("-demo"):
        trained = "The demo model was trained on synthetic pages and cannot read real documents"
        _say(f"{trained}: what it finds by meaning is chance")


def _say(text):
    print(text, flush=True)
