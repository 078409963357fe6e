"""The late-interaction index, which implements FiftyOne's interface of similarity indexes on a store."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone.brain.similarity as fbs
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.core.view import DatasetView

from ..engine.arguments import check_choice, check_integer
from ..engine.embeddings import Embeddings
from .hybrid import search_hybrid
from .indexing import embed_missing, indexable
from .query import Query, TextQuery
from .stores.base import ID_DTYPE
from .text_fields import read_texts
from .transfer import export_index
from .words import MODES, Words

if TYPE_CHECKING:
    from ..zoo import JinaV4
    from .similarity import LateInteractionSimilarity, LateInteractionSimilarityConfig

# Pages whose texts are read from the dataset at a time.
_TEXTS_AT_ONCE = 1000


class LateInteractionSimilarityIndex(fbs.SimilarityIndex):
    """A late-interaction index: the single vector and the multi-vector of each page, an image or a patch.

    A page's score is the mean cosine of the query's tokens with their best matches on the page (MaxSim). It lies in
    ``[-1, 1]``. Its distance, as in ``dist_field``, is 1 - score. The score of several prompts or pages is the mean of
    their scores.

    An index with a ``text_field`` searches by the words of a text query, too: see :mod:`late_interaction.hybrid`, whose
    scores say no more than the rank.

    :meth:`compute_embeddings` returns and :meth:`add_to_index` takes both kinds of vectors, as
    :class:`engine.embeddings.Embeddings`.

    Args:
        samples: the :class:`fiftyone.core.collections.SampleCollection`
        config: the :class:`LateInteractionSimilarityConfig`
        brain_key: the brain key
        backend (None): a :class:`LateInteractionSimilarity`
    """

    def __init__(
        self,
        samples: SampleCollection,
        config: "LateInteractionSimilarityConfig",
        brain_key: str | None,
        backend: "LateInteractionSimilarity | None" = None,
    ) -> None:
        super().__init__(samples, config, brain_key, backend=backend)
        self._store = config.open_store()

    @property
    def is_external(self) -> bool:
        # FiftyOne embeds images into an external index even if it has pages, which would embed them twice.
        return False

    @property
    def total_index_size(self) -> int:
        return self._store.size()

    @property
    def sample_ids(self) -> np.ndarray | None:
        found = self._store.ids()
        return None if found is None else found[1]

    @property
    def label_ids(self) -> np.ndarray | None:
        found = self._store.ids()
        return None if found is None or self.config.patches_field is None else found[0]

    def serves(self, model: "JinaV4") -> bool:
        """Returns whether this is an index of whole pages under a model's task, whose vectors stand for the model's."""
        task = (self.config.model_kwargs or {}).get("task", model.encoder.tasks[0])
        return self.config.patches_field is None and task == model.task

    def with_candidates(self, candidates: int | None) -> "LateInteractionSimilarityIndex":
        """Returns this index with another number of candidates.

        Args:
            candidates: the number of pages that the index's gate chooses for late interaction, or ``None`` for all

        Returns:
            a :class:`LateInteractionSimilarityIndex`
        """
        check_integer("candidates", candidates, 1, or_none=True)

        index = copy.copy(self)
        index._config = copy.copy(self._config)
        index._config.candidates = candidates
        return index

    def check(self) -> list[str]:
        """Reads all vectors of the local store, and compares them with the checksums that were stored with them.

        To embed damaged pages again, remove them, and call :meth:`add_samples`. Pages that were added by a version
        without checksums are not checked. Qdrant checks its own files.

        Returns:
            a list of the ids of the pages, samples or patches, whose vectors are lost or changed
        """
        self._store.check()
        return self._store.damaged()

    def export(
        self, folder: str | os.PathLike, rel_dir: str | os.PathLike | None = None, progress: bool | None = None
    ) -> None:
        """Copies this index to a folder, from which :func:`late_interaction.transfer.import_index` makes it anew.

        Args:
            folder: the folder, which must not exist, or be empty
            rel_dir (None): a folder to remove from the start of the samples' file paths
            progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

        Raises:
            ValueError: if the folder is not empty, or the index is in Qdrant
        """
        export_index(self, folder, rel_dir, progress)

    def add_samples(self, samples: SampleCollection, **kwargs: Any) -> int:
        """Embeds and adds the images, or patches, that the index lacks.

        Each batch is on the disk before the next is embedded. After a kill, the same call continues.

        Args:
            samples: a dataset or view of images
            **kwargs: ``batch_size``, ``num_workers``, ``skip_failures``, ``force_square``, ``alpha`` and ``progress``,
                as in :func:`fiftyone.brain.compute_similarity`

        Returns:
            the number of images, or patches, that could not be embedded and were not added
        """
        added = total = 0
        for added, total in self.iter_add_samples(samples, **kwargs):  # noqa: B007, the last values are used
            pass
        return total - added

    def iter_add_samples(self, samples: SampleCollection, **kwargs: Any) -> Iterator[tuple[int, int]]:
        """Does what :meth:`add_samples` does, and reports its progress.

        Args:
            samples: a dataset or view of images
            **kwargs: see :meth:`add_samples`

        Yields:
            after each batch and at the end, a tuple of the number of pages added so far and of all pages to add

        Raises:
            ValueError: if the samples are not images, or the index belongs to another dataset
        """
        check_owner(self._samples, self.config)
        # Once, since the texts of each batch are read from them.
        samples = indexable(samples, self.config.patches_field)
        self._store.repair()
        added = total = 0

        def missing(ids):
            nonlocal total
            lacking = self._store.missing(ids)
            total = len(lacking)
            return lacking

        self.add_missing_texts(samples)
        for embeddings, sample_ids, label_ids in self._embed(samples, missing, **kwargs):
            texts = self._read_texts(samples, sample_ids)
            self._store.add(sample_ids if label_ids is None else label_ids, sample_ids, embeddings, texts)
            added += len(embeddings)
            yield added, total
        self.reload()
        yield added, total

    def update_texts(self, samples: SampleCollection | None = None) -> None:
        """Reads the texts of pages again, after their field has changed. Nothing is embedded.

        Args:
            samples (None): a dataset or view of the pages, by default all

        Raises:
            ValueError: if the index has no text field, or belongs to another dataset
        """
        self._check_text_field()
        check_owner(self._samples, self.config)
        samples = indexable(self._samples if samples is None else samples)
        self._write_texts(samples, samples.values("id"))

    def add_missing_texts(self, samples: SampleCollection) -> None:
        """Reads the texts of pages that were added before the index had a text field.

        Args:
            samples: a dataset or view of the pages
        """
        missing = set() if self.config.text_field is None else set(self._store.texts.without())
        if missing:
            samples = indexable(samples)
            self._write_texts(samples, [page_id for page_id in samples.values("id") if page_id in missing])

    def _write_texts(self, samples, ids):
        for start in range(0, len(ids), _TEXTS_AT_ONCE):
            part = ids[start : start + _TEXTS_AT_ONCE]
            self._store.texts.write(part, self._read_texts(samples, part))

    def _read_texts(self, samples, sample_ids):
        return None if self.config.text_field is None else read_texts(samples, self.config.text_field, sample_ids)

    def _check_text_field(self):
        if self.config.text_field is None:
            raise ValueError(
                "This index has no words of its pages: call fob.compute_similarity() for it again with "
                "text_field='text', or the name of another field of strings. Nothing is embedded again"
            )

    def compute_embeddings(
        self,
        samples: SampleCollection,
        model: "JinaV4 | None" = None,
        skip_existing: bool = False,
        warn_existing: bool = False,
        **kwargs: Any,
    ) -> tuple[Embeddings, np.ndarray, np.ndarray | None]:
        """Embeds images, or patches, without adding them. All are held in memory, unlike in :meth:`add_samples`.

        Args:
            samples: a dataset or view of images
            model (None): the model to use, by default the index's own
            skip_existing (False): whether to skip those that are in the index
            warn_existing (False): whether to log how many are in the index
            **kwargs: see :meth:`add_samples`

        Returns:
            a tuple of the :class:`engine.embeddings.Embeddings`, an array of the sample ids, and an array of the
            patches' ids or ``None``
        """

        def choose(ids):
            missing = self._store.missing(ids) if skip_existing or warn_existing else ids
            if warn_existing and len(missing) < len(ids):
                fbs.logger.warning("%d ids are already in the index", len(ids) - len(missing))
            return missing if skip_existing else ids

        batches = list(self._embed(samples, choose, model, **kwargs))
        sample_ids = np.array([sample_id for _, batch_ids, _ in batches for sample_id in batch_ids], dtype=ID_DTYPE)
        label_ids = None
        if self.config.patches_field is not None:
            label_ids = np.array([label_id for _, _, batch_ids in batches for label_id in batch_ids], dtype=ID_DTYPE)
        singles = [embeddings.single for embeddings, _, _ in batches]
        multi = [rows for embeddings, _, _ in batches for rows in embeddings.multi]
        return Embeddings(np.concatenate(singles) if singles else np.empty((0, 0)), multi), sample_ids, label_ids

    def _embed(self, samples, choose, model=None, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        return embed_missing(
            model or self.get_model(), samples, choose, self.config.patches_field, self.config.pool_factor, **kwargs
        )

    def add_to_index(
        self,
        embeddings: Embeddings,
        sample_ids: Iterable[str],
        label_ids: Iterable[str] | None = None,
        overwrite: bool = True,
        allow_existing: bool = True,
        warn_existing: bool = False,
        reload: bool = True,
    ) -> None:
        if not len(embeddings):
            return
        check_owner(self._samples, self.config)
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                "A late-interaction index takes the Embeddings that index.compute_embeddings(samples) or "
                f"model.encoder.encode_images(images) returns, found {type(embeddings).__name__}. To embed and add "
                "samples in one call, use index.add_samples(samples)"
            )

        ids = [str(page_id) for page_id in (sample_ids if label_ids is None else label_ids)]
        sample_ids = [str(sample_id) for sample_id in sample_ids]
        keep: Sequence[int] = range(len(ids))
        if not overwrite or not allow_existing or warn_existing:
            missing = set(self._store.missing(ids))
            existing = [page_id for page_id in ids if page_id not in missing]
            if existing and not allow_existing and not overwrite:
                raise ValueError(f"Found {len(existing)} IDs (eg {existing[0]}) that already exist in the index")
            if existing and warn_existing:
                action = "Overwriting" if overwrite else "Skipping"
                fbs.logger.warning("%s %d IDs that already exist in the index", action, len(existing))
            if not overwrite:
                keep = [i for i in keep if ids[i] in missing]

        if keep:
            kept = Embeddings(embeddings.single[list(keep)], [embeddings.multi[i] for i in keep])
            kept_samples = [sample_ids[i] for i in keep]
            texts = self._read_texts(self._samples._root_dataset, kept_samples)
            self._store.add([ids[i] for i in keep], kept_samples, kept, texts)
        if reload:
            self.reload()

    def remove_from_index(
        self,
        sample_ids: str | Iterable[str] | None = None,
        label_ids: str | Iterable[str] | None = None,
        allow_missing: bool = True,
        warn_missing: bool = False,
        reload: bool = True,
    ) -> None:
        check_owner(self._samples, self.config)
        if sample_ids is None and label_ids is None:
            return

        ids = self._page_ids(sample_ids, label_ids)
        self._check_missing(self._store.missing(ids), allow_missing, warn_missing)
        self._store.remove(ids)
        if reload:
            self.reload()

    def get_embeddings(
        self,
        sample_ids: str | Iterable[str] | None = None,
        label_ids: str | Iterable[str] | None = None,
        allow_missing: bool = True,
        warn_missing: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Reads the single vectors of pages. FiftyOne Brain computes with these.

        Args:
            sample_ids (None): a sample ID or a list of them, by default all
            label_ids (None): of patches, a label ID or a list of them
            allow_missing (True): whether to skip IDs that are not in the index, instead of raising an error
            warn_missing (False): whether to log how many are not in the index

        Returns:
            a tuple of a float32 array ``(pages, dim)``, an array of the sample ids, and an array of the patches' ids or
            ``None``
        """
        ids = self._found(sample_ids, label_ids, allow_missing, warn_missing)
        vectors, found_sample_ids = self._store.single(ids)
        patches = self.config.patches_field is not None
        return vectors, np.array(found_sample_ids), np.array(ids) if patches else None

    def get_multi_vectors(
        self, sample_ids: str | Iterable[str] | None = None, label_ids: str | Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Reads the multi-vectors of pages.

        Args:
            sample_ids (None): a sample ID or a list of them, by default all
            label_ids (None): of patches, a label ID or a list of them

        Returns:
            a dict of float32 arrays ``(tokens_i, 128)`` by sample ID, or of patches by label ID
        """
        ids = self._found(sample_ids, label_ids)
        return dict(zip(ids, self._store.multi(ids), strict=True))

    def nearest_multi_vectors(self, query: Embeddings, k: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Reads the multi-vectors of the pages nearest to a query, of all pages in the index.

        Args:
            query: the query's :class:`engine.embeddings.Embeddings`
            k: the number of pages

        Returns:
            a tuple of a list of float32 arrays ``(tokens_i, 128)``, nearest first, and their scores, a float32 array
        """
        asked = Query.from_embeddings(query)
        ids, _, scores = self._store.search(asked, k=k, candidates=self.config.candidates)
        return self._store.multi(ids.tolist()), np.asarray(scores, dtype=np.float32)

    def _found(self, sample_ids, label_ids, allow_missing=True, warn_missing=False):
        """Returns the ids of the given pages that are in the index."""
        ids = self._page_ids(sample_ids, label_ids)
        missing = self._store.missing(ids)
        self._check_missing(missing, allow_missing, warn_missing)
        missing = set(missing)
        return [page_id for page_id in ids if page_id not in missing]

    def _page_ids(self, sample_ids, label_ids):
        """Returns the ids of the pages with given sample IDs or label IDs, or of all pages."""
        if self.config.patches_field is None:
            if label_ids is not None:
                raise ValueError("This is an index of images, which has no label IDs: pass sample_ids")
            return _as_list(self._store.list_ids()[0] if sample_ids is None else sample_ids)
        if label_ids is not None:
            return _as_list(label_ids)

        ids, page_samples = self._store.list_ids()
        return _as_list(ids if sample_ids is None else ids[np.isin(page_samples, _as_list(sample_ids))])

    def _check_missing(self, missing, allow_missing, warn_missing):
        if missing and not allow_missing:
            raise ValueError(f"Found {len(missing)} IDs (eg {missing[0]}) that are not in the index")
        if missing and warn_missing:
            fbs.logger.warning("Ignoring %d IDs that are not in the index", len(missing))

    def cleanup(self) -> None:
        check_owner(self._samples, self.config)
        self._store.drop()

    def sort_by_similarity(
        self,
        query: Any,
        k: int | None = None,
        reverse: bool = False,
        aggregation: str | None = "mean",
        dist_field: str | None = None,
        mode: str | None = None,
        _mongo: bool = False,
    ) -> DatasetView:
        """Returns a view of the pages that are nearest to a query, or farthest from it.

        Args:
            query: a prompt, an ID, a vector, or a list of these
            k (None): the number of pages, by default all
            reverse (False): whether to return the least similar pages
            aggregation ("mean"): how the scores of several queries become one
            dist_field (None): the name of a float field in which to store the distance of each page
            mode (None): what a text query is compared with: the ``"vectors"`` of the pages, their ``"text"``, for which
                the model is not needed, or both, ``"hybrid"``, the default of an index with a ``text_field``

        Returns:
            a :class:`fiftyone.core.view.DatasetView`

        Raises:
            ValueError: if the index does not have what the mode needs
        """
        return super().sort_by_similarity(
            self._parse_query(query, mode, reverse), k, reverse, aggregation, dist_field, _mongo
        )

    def _parse_query(self, query, mode=None, reverse=False):
        if isinstance(query, TextQuery):
            return query
        check_choice("mode", mode, (*MODES, None))
        if mode in ("hybrid", "text"):
            self._check_text_field()
            if reverse:
                raise ValueError(f"mode={mode!r} does not rank by least similarity: use mode='vectors'")
        if mode == "text":
            return TextQuery(Words.from_query(_one_text(query, mode)), None)

        parsed = self._parse_vectors(query)
        is_text = isinstance(parsed, Embeddings) and isinstance(query, str) and not ObjectId.is_valid(query)
        if is_text and not reverse and self.config.text_field is not None and mode != "vectors":
            return TextQuery(Words.from_query(query), parsed)
        if mode == "hybrid":
            _one_text(query, mode)
        return parsed

    def _parse_vectors(self, query):
        if isinstance(query, Embeddings):
            return query
        if query is None or isinstance(query, np.ndarray):
            return super()._parse_query(query)

        prompts = [query] if isinstance(query, str) else list(query)
        if any(isinstance(prompt, str) and not prompt.strip() for prompt in prompts):
            raise ValueError("The query is empty: pass a text")
        if not prompts or not isinstance(prompts[0], str) or ObjectId.is_valid(prompts[0]):
            return super()._parse_query(prompts)
        if not self.supports_prompts and self._model is None:
            raise ValueError(
                f"The query {prompts[0]!r} needs the index's model, which was passed as an object and is not stored: "
                "make the index with model='jinaai/jina-embeddings-v4', or set index._model"
            )

        model = self.get_model()
        with model:
            return model.encode_prompts(prompts)

    def _kneighbors(self, query=None, k=None, reverse=False, aggregation=None, return_dists=False):
        if k is not None:
            check_integer("k", k, 1)
        if query is None:
            raise ValueError("Late interaction does not compare all pages with all pages: pass a query")
        if reverse and not self.config.supports_least_similarity:
            raise ValueError("Qdrant does not rank by least similarity: use the local store")
        if aggregation not in (None, "mean"):
            raise ValueError(f"aggregation={aggregation!r} is not supported: use 'mean'")

        self._store.check()
        view_ids = None
        if self.has_view:
            # Another process may have added or removed pages.
            self.reload()
            view_ids = self.current_sample_ids if self.config.patches_field is None else self.current_label_ids

        if isinstance(query, TextQuery):
            return self._results([self._search_words(query, k, view_ids)], True, return_dists)

        queries, single = self._queries(query, aggregation)
        found = [
            self._store.search(query, k=k, candidates=self.config.candidates, ids=view_ids, reverse=reverse)
            for query in queries
        ]
        return self._results(found, single, return_dists)

    def _search_words(self, query, k, ids):
        vectors = None if query.embeddings is None else Query.from_embeddings(query.embeddings)
        return search_hybrid(self._store, query.words, vectors, k, self.config.candidates, ids)

    def _results(self, found, single, return_dists):
        """Converts what was found for each query to what FiftyOne expects."""
        ids, sample_ids, scores = ([list(values) for values in column] for column in zip(*found, strict=True))
        dists = [[1 - float(score) for score in query_scores] for query_scores in scores]
        label_ids = None if self.config.patches_field is None else ids
        results = [sample_ids, label_ids, dists] if return_dists else [sample_ids, label_ids]
        return tuple(column[0] if single and column is not None else column for column in results)

    def _queries(self, query, aggregation):
        """Returns a list of :class:`Query`, and whether FiftyOne expects the results of a single query."""
        if isinstance(query, np.ndarray) and query.dtype.kind in "fiu":
            dims = self._store.dims()
            if aggregation is None and query.ndim == 2 and query.shape[1] == dims[0]:
                # A query per row, as FiftyOne Brain expects when it passes all vectors of an index.
                return [Query.from_vectors(vector, *dims) for vector in query], False

            if query.ndim == 2 and dims[0] is not None and query.shape[1] == dims[0] == dims[1]:
                raise ValueError(
                    f"An array {query.shape} may be a multi-vector or {len(query)} single vectors, since both have "
                    f"{dims[0]} dimensions here: pass one single vector, ({dims[0]},), or for a multi-vector the "
                    "Embeddings that model.encode_prompts([...]) returns"
                )
            return [Query.from_vectors(query, *dims)], True

        embeddings = query
        if not isinstance(query, Embeddings):
            ids = _as_list(query)
            missing = self._store.missing(ids)
            if missing:
                raise ValueError(f"Query IDs {missing} were not found in the index")
            embeddings = Embeddings(self._store.single(ids)[0], self._store.multi(ids))

        if aggregation is not None or isinstance(query, str) or len(embeddings) == 1:
            return [Query.from_embeddings(embeddings)], True

        queries = (Embeddings(embeddings.single[[i]], [multi]) for i, multi in enumerate(embeddings.multi))
        return [Query.from_embeddings(query) for query in queries], False

    @classmethod
    def _from_dict(
        cls,
        d: dict[str, Any],
        samples: SampleCollection,
        config: "LateInteractionSimilarityConfig",
        brain_key: str,
    ) -> "LateInteractionSimilarityIndex":
        return cls(samples, config, brain_key)


def dataset_id(samples: SampleCollection) -> str:
    """Returns the ID of the dataset that samples are in."""
    return str(samples._root_dataset._doc.id)


def check_owner(samples: SampleCollection, config: "LateInteractionSimilarityConfig") -> None:
    """Raises a ``ValueError`` if a dataset is a clone of the one that owns an index, whose vectors both share."""
    if config.owner != dataset_id(samples):
        raise ValueError(
            "This index belongs to the dataset that this one was cloned from. A clone can search it, but not change "
            "it: delete the run here, which keeps the original's index, and index the pages again"
        )


def _one_text(query, mode):
    """Returns a text query, and raises a ``ValueError`` for another."""
    if not isinstance(query, str) or ObjectId.is_valid(query):
        raise ValueError(f"mode={mode!r} takes a text, found {query!r:.80}")
    if not query.strip():
        raise ValueError("The query is empty: pass a text")

    return query


def _as_list(ids):
    return [ids] if isinstance(ids, str) else [str(page_id) for page_id in ids]
