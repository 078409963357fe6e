"""Trains an adapter on a CSV file of queries and the pages that they should find."""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from ..engine.checkpoint import CheckpointError
from ..finetuning.finetune import finetune
from .documents import load_indexed

FIELD = "queries"
_COLUMNS = ("document", "page", "query")


def finetune_on_pairs(options: argparse.Namespace) -> int:
    """Writes the queries to the dataset's field ``queries``, and trains an adapter on them."""
    dataset = load_indexed(options)
    queries = read_queries(options.queries)
    ids = {
        (document, page): sample_id
        for document, page, sample_id in zip(*dataset.values(["document", "page", "id"]), strict=True)
    }
    unknown = sorted(place for place in queries if place not in ids)
    if unknown:
        document, page = unknown[0]
        raise SystemExit(
            f"{options.queries} names {len(unknown)} pages that are not in the folder, such as page {page} of "
            f"{document!r}. Documents are named by their paths in the folder"
        )

    texts = {ids[place]: of_page for place, of_page in queries.items()}
    dataset.set_values(FIELD, texts, key_field="id")
    try:
        finetune(
            dataset.select(list(texts)),
            FIELD,
            options.output,
            checkpoint=options.checkpoint,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            device=options.device,
            overwrite=options.overwrite,
        )
    except (CheckpointError, ValueError) as error:
        raise SystemExit(error) from None
    command = f"jina-fiftyone index {options.folder} --adapter {options.output} --dataset NEW_NAME"
    print(f"To search with it: {command}", file=options.out)
    return 0


def read_queries(path: str | Path) -> dict[tuple[str, int], list[str]]:
    """Reads the queries of each page.

    Args:
        path: a CSV file with the columns ``document``, ``page`` and ``query``

    Returns:
        a dict of lists of queries by document and page

    Raises:
        SystemExit: if the file cannot be read, or a row of it
    """
    queries = defaultdict(list)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise SystemExit(
                    f"{path} has no column {missing[0]!r}: expected {', '.join(_COLUMNS)} in its first line"
                )
            for number, row in enumerate(rows, start=2):
                try:
                    queries[row["document"], int(row["page"])].append(row["query"].strip())
                except (AttributeError, TypeError, ValueError):
                    raise SystemExit(
                        f"{path}, line {number}: expected a document, a page's number and a query"
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from None
    return dict(queries)
