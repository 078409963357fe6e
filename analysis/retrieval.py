"""How well search finds what it should, on a dataset whose right answers are known.

What is compared are similarity indexes, of whatever model, backend and kind of vector: single vectors, pooled ones,
late interaction with all pages or with a few candidates. ranx computes the metrics.
"""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.brain.similarity import SimilarityIndex
from fiftyone.core.collections import SampleCollection
from tabulate import tabulate

from ..integration.optional import import_optional

METRICS = ("ndcg@5", "recall@10", "mrr@10")

_QUERIES_AT_ONCE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchReport:
    """What :func:`evaluate_search` found.

    Args:
        samples: the dataset or view that was searched
        queries: a list of the N queries
        relevant: a list of the sets of the ids of the samples that are right
        found: a dict, by the name of the index, of lists of the ids that were found, best first
        values: a dict, by the name of the index, of dicts by metric of arrays ``(N,)``
        skipped: a dict of the reasons by the queries that were left out
    """

    samples: SampleCollection
    queries: list[str]
    relevant: list[set[str]]
    found: dict[str, list[list[str]]]
    values: dict[str, dict[str, np.ndarray]]
    skipped: dict[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table, a list of dicts: the mean of each metric, for each index."""
        return [
            {"index": name} | {metric: float(values.mean()) for metric, values in metrics.items()}
            for name, metrics in self.values.items()
        ]

    def __str__(self) -> str:
        mean = np.mean([len(ids) for ids in self.relevant])
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        head = f"{len(self.queries)} queries{left_out} over {len(self.samples)} samples, {mean:.1f} right ones a query"
        return f"{head}\n{tabulate(self.rows(), headers='keys', floatfmt='.3f')}"

    def worst(self, name: str, metric: str | None = None, n: int = 10) -> list[tuple[str, float]]:
        """Returns the queries that an index answers worst.

        Args:
            name: the index's name
            metric (None): the metric, by default the first
            n (10): how many

        Returns:
            a list of tuples of a query and its value, the worst first
        """
        values = self.values[name][metric or next(iter(self.values[name]))]
        return [(self.queries[i], float(values[i])) for i in np.argsort(values, kind="stable")[:n]]

    def view(self, name: str, query: str, verdict_field: str | None = None) -> fo.DatasetView:
        """Returns what an index found for a query, best first, and then what it missed.

        Args:
            name: the index's name
            query: one of the queries
            verdict_field (None): a field to write :class:`fiftyone.core.labels.Classification` labels to: ``"right"``,
                ``"wrong"`` or ``"missed"``

        Returns:
            a :class:`fiftyone.core.view.DatasetView`
        """
        i = self.queries.index(query)
        found, relevant = self.found[name][i], self.relevant[i]
        verdicts = {sample_id: "right" if sample_id in relevant else "wrong" for sample_id in found}
        verdicts |= {sample_id: "missed" for sample_id in sorted(relevant - set(found))}
        if verdict_field is not None:
            labels = {sample_id: fo.Classification(label=verdict) for sample_id, verdict in verdicts.items()}
            self.samples.set_values(verdict_field, labels, key_field="id")
        return self.samples.select(list(verdicts), ordered=True)

    def save_worst_views(self, name: str, metric: str | None = None, n: int = 5) -> list[str]:
        """Saves the views of the queries that an index answers worst, for the App's list of saved views.

        Args:
            name: the index's name
            metric (None): the metric, by default the first
            n (5): how many

        Returns:
            a list of the views' names
        """
        names = []
        for rank, (query, value) in enumerate(self.worst(name, metric, n), start=1):
            names.append(f"worst {rank}: {query}"[:80])
            description = f"{name}: {metric or next(iter(self.values[name]))} {value:.3f}"
            dataset = self.samples._root_dataset
            dataset.save_view(names[-1], self.view(name, query), description=description, overwrite=True)
        return names


def evaluate_search(
    samples: SampleCollection,
    queries: str | dict[str, str | Iterable[str]],
    indexes: Sequence[str] | dict[str, str | SimilarityIndex],
    metrics: Sequence[str] = METRICS,
) -> SearchReport:
    """Asks similarity indexes queries whose right answers are known.

    A query that has no right answer among the samples, or that cannot be embedded, costs itself alone: it is left out,
    with a warning.

    Args:
        samples: the dataset or view to search
        queries: a field of strings, or of lists of them, each a query whose right answers are the samples that have it;
            or a dict, by query, of a tag or a list of ids of the right samples
        indexes: a list of brain keys of similarity indexes, or a dict of brain keys or of indexes by the names to call
            them, eg ``{"two-stage": index.with_candidates(100)}``
        metrics (``METRICS``): ranx's names of metrics, each with its cutoff

    Returns:
        a :class:`SearchReport`

    Raises:
        ValueError: if no query is left, a metric has no cutoff, or an index is not of whole images
        Exception: what an index raises that answers none of the first queries
    """
    ranx = import_optional("ranx", "retrieval", "Evaluating search")

    depths = [metric.rpartition("@")[2] for metric in metrics]
    if not depths or not all(depth.isdigit() for depth in depths):
        raise ValueError(f"Expected metrics with their cutoffs, such as 'ndcg@5', found {list(metrics)}")

    depth = max(map(int, depths))
    indexes = {name: _load_index(samples, index) for name, index in _named(indexes).items()}
    relevant, skipped = _relevant(samples, queries)
    found = {}
    for name, index in indexes.items():
        found[name] = _search(samples, index, [query for query in relevant if query not in skipped], depth, skipped)

    asked = [query for query in relevant if query not in skipped]
    for query, reason in skipped.items():
        logger.warning("Leaving out the query %r: %s", query, reason)
    if not asked:
        raise ValueError("There is no query with a right answer to evaluate")

    # Keys that sort as the queries do, which is the order of the values that ranx returns.
    keys = [f"{i:09}" for i in range(len(asked))]
    qrels = ranx.Qrels({key: dict.fromkeys(relevant[query], 1) for key, query in zip(keys, asked, strict=True)})
    values = {}
    for name, of_index in found.items():
        run = ranx.Run({key: _scores(of_index[query]) for key, query in zip(keys, asked, strict=True)})
        with warnings.catch_warnings():
            # numba's, on a cast in one of ranx's loops
            warnings.filterwarnings("ignore", "unsafe cast from uint64")
            computed = ranx.evaluate(qrels, run, list(metrics), return_mean=False)
        values[name] = {metric: np.asarray(rows) for metric, rows in _by_metric(computed, metrics).items()}

    rankings = {name: [of_index[query] for query in asked] for name, of_index in found.items()}
    return SearchReport(samples, asked, [relevant[query] for query in asked], rankings, values, skipped)


def _named(indexes):
    return indexes if isinstance(indexes, dict) else {index: index for index in indexes}


def _load_index(samples, index):
    index = samples.load_brain_results(index) if isinstance(index, str) else index
    if index.config.patches_field is not None:
        raise ValueError(f"The index is of patches in {index.config.patches_field!r}: search is evaluated on images")

    return index


def _relevant(samples, queries):
    """The sets of the ids of the right samples, by query, and the reasons by the queries to leave out."""
    relevant, skipped = {}, {}
    if isinstance(queries, str):
        for sample_id, texts in zip(*samples.values(["id", queries]), strict=True):
            for text in [texts] if isinstance(texts, str) else texts or []:
                relevant.setdefault(text, set()).add(sample_id)
    else:
        present = set(samples.values("id"))
        for query, right in queries.items():
            ids = samples.match_tags(right).values("id") if isinstance(right, str) else map(str, right)
            relevant[query] = present.intersection(ids)

    for query, ids in relevant.items():
        if not isinstance(query, str) or not query.strip():
            skipped[query] = "it is no text"
        elif not ids:
            skipped[query] = "no sample is right"
    return relevant, skipped


def _search(samples, index, queries, depth, skipped):
    """Asks an index: the ids that it finds, by query. Queries that fail are added to those that are skipped."""
    found = {}
    with index.use_view(samples):
        depth = min(depth, index.index_size)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            batch = queries[start : start + _QUERIES_AT_ONCE]
            try:
                found.update(zip(batch, _neighbours(index, batch, depth), strict=True))
            except Exception as error:
                for query in batch:
                    try:
                        found[query] = _neighbours(index, [query], depth)[0]
                    # Whatever it is, it is one query's.
                    except Exception as of_query:
                        skipped[query] = f"{type(of_query).__name__}: {of_query}"
                # It was no query's: the index answers none.
                if not found:
                    raise error
    return found


def _neighbours(index, queries, depth):
    ids, _ = index._kneighbors(index._parse_query(queries), k=depth, aggregation=None)
    # Of one query, a backend may return the list alone.
    return [list(map(str, of_query)) for of_query in ([ids] if len(ids) and isinstance(ids[0], str) else ids)]


def _scores(ids):
    """What ranx ranks by. It wants at least one, and knows no such sample."""
    return {sample_id: float(len(ids) - rank) for rank, sample_id in enumerate(ids)} or {"none": 0.0}


def _by_metric(computed, metrics):
    return computed if isinstance(computed, dict) else {metrics[0]: computed}
