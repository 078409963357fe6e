"""Deletes the pages of documents that are gone."""

import logging
from collections.abc import Collection
from pathlib import Path

import fiftyone as fo

# Samples that are deleted at a time: MongoDB limits a request to 16 MB.
_AT_ONCE = 10_000

logger = logging.getLogger(__name__)


def remove_gone(dataset: fo.Dataset, folder: Path, present: Collection[str], pages_dir: Path) -> None:
    """Deletes the pages of documents that are gone from a folder, with a warning for each.

    A document whose name cannot be looked up, as for a lack of permissions, stays.

    Args:
        dataset: the dataset that :func:`documents.load_documents` made
        folder: the folder of the documents
        present: the documents that were found in it, by their paths relative to it
        pages_dir: the folder of the dataset's rendered pages

    Raises:
        ValueError: if no document was found, but the dataset has some
    """
    counts = {document: count for document, count in dataset.count_values("document").items() if document}
    if counts and not present:
        raise ValueError(
            f"There is no document in {folder}, and the dataset {dataset.name!r} has {len(counts)}. Nothing was "
            "removed, since its drive may not be mounted. If all are really gone, delete the dataset by "
            f"fiftyone.delete_dataset({dataset.name!r})"
        )

    gone = [document for document in counts if document not in present and _is_gone(folder / document)]
    if not gone:
        return

    removed: list[str] = []
    for document in gone:
        # Not a ViewField expression, which would read a name that starts with a dollar sign as a field.
        samples = dataset.match({"document": document})
        ids, filepaths = samples.values(["id", "filepath"])
        dataset.delete_samples(samples)
        _delete_rendered(filepaths, pages_dir, document)
        removed += ids
        logger.warning("Removed %s and its %d pages from %r: the file is gone", document, len(ids), dataset.name)
    _remove_from_indexes(dataset, removed)


def _is_gone(path):
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass  # it cannot be told
    return False


def _delete_rendered(filepaths, pages_dir, document):
    """Deletes a document's rendered pages, and the folders that are empty then. Images that are used in place stay."""
    directory = pages_dir / document
    for path in map(Path, filepaths):
        if path.parent == directory:
            path.unlink(missing_ok=True)
    while directory != pages_dir and directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


def _remove_from_indexes(dataset, sample_ids):
    """Removes samples from the late-interaction indexes. Other indexes are FiftyOne's, which skips missing samples."""
    for key in dataset.list_brain_runs():
        try:
            if getattr(dataset.get_brain_info(key).config, "method", None) != "late-interaction":
                continue
            index = dataset.load_brain_results(key)
            before = index.total_index_size
            for start in range(0, len(sample_ids), _AT_ONCE):
                index.remove_from_index(sample_ids=sample_ids[start : start + _AT_ONCE])
            logger.warning("Removed %d pages from the index %r", before - index.total_index_size, key)
        # Of a server that cannot be reached, a clone's, a class that cannot be imported.
        except Exception as error:
            logger.warning(
                "The index %r still has pages that were removed from the dataset (%s). To remove them, call "
                "index.remove_from_index(sample_ids) with the ids that index.sample_ids has and the dataset lacks",
                key,
                error,
            )
