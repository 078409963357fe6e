"""Exports an index as a folder, and imports it into a dataset, also on another machine."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import fiftyone.core.odm as foo
import fiftyone.core.utils as fou
from bson import ObjectId, json_util
from fiftyone.core.collections import SampleCollection

from .stores.copying import copy_pages
from .stores.local import LocalStore

if TYPE_CHECKING:
    from .index import LateInteractionSimilarityIndex

# Written last: a folder without it is no whole export.
_DESCRIPTION = "index.json"
_FORMAT = 1

# What an index is made with, but for the place of its vectors.
_SETTINGS = (
    "model",
    "model_kwargs",
    "patches_field",
    "text_field",
    "supports_prompts",
    "dtype",
    "pool_factor",
    "candidates",
    "gate",
)

# Ids in one request. MongoDB limits a request to 16 MB.
_IDS_AT_ONCE = 10_000

logger = logging.getLogger(__name__)


def export_index(
    index: "LateInteractionSimilarityIndex",
    folder: str | os.PathLike,
    rel_dir: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> None:
    """Copies an index to a folder that :func:`import_index` reads.

    Others may search and change the index meanwhile. What they add then may be part of the export or not. Pages whose
    vectors are damaged are left out, with a warning.

    Args:
        index: a :class:`late_interaction.index.LateInteractionSimilarityIndex` in the local store
        folder: the folder, which must not exist, or be empty
        rel_dir (None): a folder to remove from the start of the samples' file paths, as in ``dataset.export()``, where
            the images lie elsewhere on the other machine
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Raises:
        ValueError: if the folder is not empty, or the index is in Qdrant
        late_interaction.stores.integrity.DamagedIndexError: if files of the index are missing or were cut off
    """
    folder = Path(folder).expanduser().absolute()
    source = index._store
    if not isinstance(source, LocalStore):
        raise ValueError("This index is in Qdrant, whose own snapshots export it")
    source.check()
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, or delete what is in it")

    target = LocalStore(folder, index.config.dtype)
    target.create()
    try:
        _copy(source, target, lambda ids, sample_ids: list(zip(ids, sample_ids, strict=True)), progress)
        _write_filepaths(target, index._samples, rel_dir)
        settings = {name: getattr(index.config, name) for name in _SETTINGS}
        description = {"format": _FORMAT, "settings": settings}
        unfinished = folder / f"{_DESCRIPTION}.unfinished"
        unfinished.write_text(json_util.dumps(description, indent=2), encoding="utf-8")
        unfinished.replace(folder / _DESCRIPTION)
    except BaseException:
        target.drop()
        raise


def import_index(
    dataset: SampleCollection,
    folder: str | os.PathLike,
    brain_key: str,
    rel_dir: str | os.PathLike | None = None,
    uri: str | None = None,
    index_name: str | None = None,
    progress: bool | None = None,
) -> "LateInteractionSimilarityIndex":
    """Copies an exported index to a dataset. Nothing is embedded, and the export stays as it is.

    Pages find their samples by their ids. A dataset has the ids of another machine where both use one database, or
    where it was exported and imported as ``fiftyone.types.FiftyOneDataset``. If it has none of them, the samples'
    file paths decide. Pages without a sample are left out.

    Where the dataset has the index already, the pages that it lacks are added: so an import that was killed goes on,
    and the exports of several machines become one index. A run that came with the dataset from another machine, whose
    vectors did not come along, is replaced.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        folder: the folder that ``index.export()`` wrote
        brain_key: the index's brain key in this dataset
        rel_dir (None): the folder of the images on this machine, if the export was made with a ``rel_dir``
        uri (None): the folder in which the index's folder is created, as in ``compute_similarity()``
        index_name (None): the name of the index's folder
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Returns:
        the :class:`late_interaction.index.LateInteractionSimilarityIndex`

    Raises:
        ValueError: if the folder is no export, no page has a sample in the dataset, or the dataset has another index of
            this brain key
    """
    from .index import LateInteractionSimilarityIndex
    from .similarity import LateInteractionSimilarityConfig

    folder = Path(folder).expanduser().absolute()
    settings = _read_settings(folder)
    source = LocalStore(folder, settings["dtype"])
    source.check()
    config = LateInteractionSimilarityConfig(**settings, uri=uri, index_name=index_name)
    samples = _match(dataset, source, rel_dir, settings["patches_field"])

    def choose(ids: Sequence[str], sample_ids: Sequence[str]) -> list[tuple[str, str] | None]:
        patches = settings["patches_field"] is not None
        found = [samples.get(sample_id) for sample_id in sample_ids]
        return [
            None if sample_id is None else (page_id if patches else sample_id, sample_id)
            for page_id, sample_id in zip(ids, found, strict=True)
        ]

    _delete_run_without_vectors(dataset, brain_key)
    backend = config.build()
    backend.register_run(dataset, brain_key)
    index = LateInteractionSimilarityIndex(dataset, config, brain_key, backend=backend)
    store = cast(LocalStore, index._store)
    store.create()
    # Saved now, so that a killed import can go on.
    backend.save_run_results(dataset, brain_key, index)
    _copy(source, store, choose, progress)
    index.reload()
    return index


def _copy(source: LocalStore, target: LocalStore, choose: Callable, progress: bool | None) -> None:
    with fou.ProgressBar(total=source.size(), progress=progress) as bar:
        for count, damaged in copy_pages(source, target, choose):
            for page_id in damaged:
                logger.warning("The vectors of page %s in %s were changed, and are left out", page_id, source.folder)
            bar.update(count)


def _write_filepaths(store: LocalStore, samples: SampleCollection, rel_dir: str | os.PathLike | None) -> None:
    """Stores the file path of each page's sample, for datasets with other ids."""

    def filepath_of(path: str) -> str:
        if rel_dir is None:
            return path
        return fou.safe_relpath(path, str(Path(rel_dir).expanduser().absolute()), default=path).replace(os.sep, "/")

    collection = samples._dataset._sample_collection
    with store._writing() as database:
        database.execute("CREATE TABLE filepaths (sample_id TEXT PRIMARY KEY, filepath TEXT) WITHOUT ROWID")
    for ids in _sample_ids(store):
        found = collection.find({"_id": {"$in": [ObjectId(sample_id) for sample_id in ids]}}, {"filepath": 1})
        rows = [(str(sample["_id"]), filepath_of(sample["filepath"])) for sample in found]
        with store._writing() as database:
            database.executemany("INSERT OR REPLACE INTO filepaths VALUES (?, ?)", rows)


def _sample_ids(store: LocalStore) -> Iterator[list[str]]:
    """Yields lists of the ids of the pages' samples. That of a sample with many patches may be in several lists."""
    last = ""
    while True:
        with store._reading() as database:
            rows = database.execute(
                "SELECT id, sample_id FROM pages WHERE id > ? ORDER BY id LIMIT ?", (last, _IDS_AT_ONCE)
            ).fetchall()
        if not rows:
            return
        yield list(dict.fromkeys(sample_id for _, sample_id in rows))
        last = rows[-1][0]


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        description = json_util.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        number, settings = description["format"], description["settings"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is no exported index, or its export was interrupted ({type(error).__name__}: {error}): pass the "
            "folder that index.export(folder) wrote"
        ) from error
    if number != _FORMAT:
        raise ValueError(f"{folder} was exported by a newer version, in format {number}: update this package")
    return settings


def _match(
    dataset: SampleCollection, source: LocalStore, rel_dir: str | os.PathLike | None, patches_field: str | None
) -> dict[str, str]:
    """Finds the samples of an export in a dataset: a dict of the dataset's ids by the export's."""
    collection = dataset._dataset._sample_collection
    wanted: set[str] = set()
    samples: dict[str, str] = {}
    for ids in _sample_ids(source):
        wanted.update(ids)
        found = collection.find({"_id": {"$in": [ObjectId(sample_id) for sample_id in ids]}}, {"_id": 1})
        samples.update((str(sample["_id"]), str(sample["_id"])) for sample in found)
    total, lacking = len(wanted), next((sample_id for sample_id in wanted if sample_id not in samples), "")
    what = "id"
    if not samples and total:
        if patches_field is not None:
            raise ValueError(
                f"None of the {total} samples with patches in {source.folder} has its id in the dataset "
                f"{dataset.name!r}, and patches are found by their ids alone: export and import the dataset as "
                "fiftyone.types.FiftyOneDataset, which keeps them"
            )
        what = "file path"
        samples, lacking = _match_filepaths(collection, source, rel_dir)
    if not samples and total:
        raise ValueError(
            f"None of the {total} samples in {source.folder} is in the dataset {dataset.name!r}, by its id or its file "
            f"path, such as {lacking!r}. Where the images lie elsewhere here, pass rel_dir=, the folder of the images, "
            "to index.export() there, and to import_index() here"
        )
    if len(samples) < total:
        logger.warning(
            "%d of the %d samples in %s are not in the dataset %r by their %s, such as %s: their pages are left out",
            total - len(samples),
            total,
            source.folder,
            dataset.name,
            what,
            lacking,
        )
    return samples


def _match_filepaths(collection, source, rel_dir):
    root = "" if rel_dir is None else str(Path(rel_dir).expanduser().absolute())
    ids = {sample["filepath"]: str(sample["_id"]) for sample in collection.find({}, {"filepath": 1})}
    samples, lacking = {}, ""
    with source._reading() as database:
        for sample_id, filepath in database.execute("SELECT sample_id, filepath FROM filepaths"):
            path = os.path.normpath(os.path.join(root, filepath))
            if path in ids:
                samples[sample_id] = ids[path]
            else:
                lacking = lacking or path
    return samples, lacking


def _delete_run_without_vectors(dataset: SampleCollection, brain_key: str) -> None:
    """Deletes a run that was imported with the dataset, and belongs to a dataset of another database."""
    if brain_key not in dataset.list_brain_runs():
        return
    owner = getattr(dataset.get_brain_info(brain_key).config, "owner", None)
    if owner is not None and foo.get_db_conn().datasets.find_one({"_id": ObjectId(owner)}, {"_id": 1}) is None:
        dataset.delete_brain_run(brain_key)
