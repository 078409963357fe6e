"""Evaluates search on a dataset with queries whose relevant samples are known.

It compares similarity indexes of any model, backend and kind of vector: single vectors, pooled multi-vectors, late
interaction with all pages or with a few candidates. ranx computes the metrics.
"""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from tabulate import tabulate

from ..integration.optional import import_optional

if TYPE_CHECKING:
    from fiftyone.brain.similarity import SimilarityIndex

METRICS = ("ndcg@5", "recall@10", "mrr@10")

_QUERIES_AT_ONCE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchReport:
    """The result of :func:`evaluate_search`.

    Args:
        samples: the searched dataset or view
        queries: a list of the N queries
        relevant: a list, by query, of the sets of the relevant samples' ids
        found: a dict, by the name of the index, of lists, by query, of the found ids, best first
        values: a dict, by the name of the index, of dicts by metric of arrays ``(N,)``
        skipped: a dict of reasons by the skipped queries
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
        skipped = f", {len(self.skipped)} left out" if self.skipped else ""
        title = f"{len(self.queries)} queries{skipped} over {len(self.samples)} samples, {mean:.1f} relevant per query"
        return f"{title}\n{tabulate(self.rows(), headers='keys', floatfmt='.3f')}"

    def worst(self, name: str, metric: str | None = None, n: int = 10) -> list[tuple[str, float]]:
        """Returns the queries with an index's lowest values.

        Args:
            name: the index's name
            metric (None): the metric, by default the first
            n (10): the number of queries

        Returns:
            a list of tuples of a query and its value, worst first
        """
        values = self.values[name][metric or next(iter(self.values[name]))]
        return [(self.queries[i], float(values[i])) for i in np.argsort(values, kind="stable")[:n]]

    def view(self, name: str, query: str, verdict_field: str | None = None) -> fo.DatasetView:
        """Returns the samples that an index found for a query, best first, and then the relevant ones that it missed.

        Args:
            name: the index's name
            query: one of the queries
            verdict_field (None): a field to write :class:`fiftyone.core.labels.Classification` labels to, ``"right"``,
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
        """Saves the views of the queries with an index's lowest values, for the App's list of saved views.

        Args:
            name: the index's name
            metric (None): the metric, by default the first
            n (5): the number of queries

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
    indexes: "Sequence[str] | dict[str, str | SimilarityIndex]",
    metrics: Sequence[str] = METRICS,
) -> SearchReport:
    """Evaluates similarity indexes on queries whose relevant samples are known.

    A query without relevant samples, or one that cannot be embedded, is skipped with a warning.

    Args:
        samples: the dataset or view to search
        queries: a field of strings or lists of strings, the queries that each sample is relevant for; or a dict, by
            query, of a tag or a list of ids of the relevant samples
        indexes: a list of brain keys of similarity indexes, or a dict of brain keys or indexes by the names to show, eg
            ``{"two-stage": index.with_candidates(100)}``
        metrics (``METRICS``): ranx's names of metrics, each with its cutoff

    Returns:
        a :class:`SearchReport`

    Raises:
        ImportError: if ranx is not installed
        ValueError: if no query is left, a metric has no cutoff, or an index is not of whole images
        Exception: an index's error, if it fails for all of the first queries
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

    kept = [query for query in relevant if query not in skipped]
    for query, reason in skipped.items():
        logger.warning("Leaving out the query %r: %s", query, reason)
    if not kept:
        raise ValueError("There is no query with a relevant sample to evaluate")

    # ranx returns values in the order of the sorted keys, so the keys sort like the queries.
    keys = [f"{i:09}" for i in range(len(kept))]
    qrels = ranx.Qrels({key: dict.fromkeys(relevant[query], 1) for key, query in zip(keys, kept, strict=True)})
    values = {}
    for name, index_found in found.items():
        run = ranx.Run({key: _scores(index_found[query]) for key, query in zip(keys, kept, strict=True)})
        with warnings.catch_warnings():
            # numba warns of a cast in one of ranx's loops.
            warnings.filterwarnings("ignore", "unsafe cast from uint64")
            computed = ranx.evaluate(qrels, run, list(metrics), return_mean=False)
        values[name] = {metric: np.asarray(rows) for metric, rows in _by_metric(computed, metrics).items()}

    rankings = {name: [index_found[query] for query in kept] for name, index_found in found.items()}
    return SearchReport(samples, kept, [relevant[query] for query in kept], rankings, values, skipped)


def _named(indexes):
    return indexes if isinstance(indexes, dict) else {index: index for index in indexes}


def _load_index(samples, index):
    index = samples.load_brain_results(index) if isinstance(index, str) else index
    if index.config.patches_field is not None:
        raise ValueError(f"The index is of patches in {index.config.patches_field!r}: pass an index of whole images")

    return index


def _relevant(samples, queries):
    """Returns a dict of the sets of relevant samples' ids by query, and a dict of reasons by the queries to skip."""
    relevant, skipped = {}, {}
    if isinstance(queries, str):
        for sample_id, texts in zip(*samples.values(["id", queries]), strict=True):
            for text in [texts] if isinstance(texts, str) else texts or []:
                relevant.setdefault(text, set()).add(sample_id)
    else:
        present = set(samples.values("id"))
        for query, tag_or_ids in queries.items():
            is_tag = isinstance(tag_or_ids, str)
            ids = samples.match_tags(tag_or_ids).values("id") if is_tag else map(str, tag_or_ids)
            relevant[query] = present.intersection(ids)

    for query, ids in relevant.items():
        if not isinstance(query, str) or not query.strip():
            skipped[query] = "it is not a text"
        elif not ids:
            skipped[query] = "no sample is relevant"
    return relevant, skipped


def _search(samples, index, queries, depth, skipped):
    """Searches an index, and returns a dict of the found ids by query. Queries that fail are added to ``skipped``."""
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
                    # Models and stores raise errors of any type.
                    except Exception as query_error:
                        skipped[query] = f"{type(query_error).__name__}: {query_error}"
                # All queries failed, so it is the index that does not work.
                if not found:
                    raise error
    return found


def _neighbours(index, queries, depth):
    ids, _ = index._kneighbors(index._parse_query(queries), k=depth, aggregation=None)
    # For one query, a backend may return a single list.
    rankings = [ids] if len(ids) and isinstance(ids[0], str) else ids
    return [list(map(str, ranking)) for ranking in rankings]


def _scores(ids):
    """Returns scores that keep the ranking in ranx, which needs at least one: an unknown id for an empty ranking."""
    return {sample_id: float(len(ids) - rank) for rank, sample_id in enumerate(ids)} or {"none": 0.0}


def _by_metric(computed, metrics):
    return computed if isinstance(computed, dict) else {metrics[0]: computed}
