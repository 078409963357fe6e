"""The late-interaction index: FiftyOne's interface to a store."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone.brain.similarity as fbs
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection

from ..engine.arguments import check_integer
from ..engine.encoder import Embeddings
from .indexing import embed_missing
from .query import Query

if TYPE_CHECKING:
    from ..zoo import JinaV4
    from .similarity import LateInteractionSimilarity, LateInteractionSimilarityConfig


class LateInteractionSimilarityIndex(fbs.SimilarityIndex):
    """A late-interaction index: the single vector and the multi-vector of each page, an image or a patch.

    A page's score is the mean cosine of the query's tokens with their best matches among the page's (MaxSim). It lies
    in ``[-1, 1]``. Its distance, as ``dist_field`` has it, is 1 less the score. The score by several prompts or pages
    is the mean of the scores by each.

    What :meth:`compute_embeddings` gives and :meth:`add_to_index` takes are :class:`engine.encoder.Embeddings`, both
    kinds of vectors.

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
        # FiftyOne asks whether to embed images although the index has some.
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

    def with_candidates(self, candidates: int | None) -> "LateInteractionSimilarityIndex":
        """Returns the same index with another number of candidates.

        Args:
            candidates: how many pages the single vectors choose for late interaction, or ``None`` for all

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

        To embed pages that are damaged anew, remove them, and call :meth:`add_samples`. Pages that were added before
        there were checksums are not compared. Qdrant checks its own files.

        Returns:
            a list of the ids of the pages, samples or patches, whose vectors are lost or were changed
        """
        self._store.check()
        return self._store.damaged()

    def add_samples(self, samples: SampleCollection, **kwargs: Any) -> int:
        """Embeds and adds those images, or patches, that the index lacks.

        Each batch is on the disk before the next is embedded: what is killed can be called again, and goes on.

        Args:
            samples: a dataset or view of images
            **kwargs: ``batch_size``, ``num_workers``, ``skip_failures``, ``force_square``, ``alpha`` and ``progress``,
                as in :func:`fiftyone.brain.compute_similarity`

        Returns:
            the number of those that the index lacked, and that were not added, since they could not be embedded
        """
        added = total = 0
        for added, total in self.iter_add_samples(samples, **kwargs):  # noqa: B007, the last are wanted
            pass
        return total - added

    def iter_add_samples(self, samples: SampleCollection, **kwargs: Any) -> Iterator[tuple[int, int]]:
        """Does what :meth:`add_samples` does, and tells how far it is.

        Args:
            samples: a dataset or view of images
            **kwargs: see :meth:`add_samples`

        Yields:
            tuples of the number of pages that were added, and of those that the index lacked, once more at the end

        Raises:
            ValueError: if the samples are no images, or the index is another dataset's
        """
        check_owner(self._samples, self.config)
        self._store.repair()
        done = total = 0

        def missing(ids):
            nonlocal total
            found = self._store.missing(ids)
            total = len(found)
            return found

        for embeddings, sample_ids, label_ids in self._embed(samples, missing, **kwargs):
            self._store.add(sample_ids if label_ids is None else label_ids, sample_ids, embeddings)
            done += len(embeddings)
            yield done, total
        self.reload()
        yield done, total

    def compute_embeddings(
        self,
        samples: SampleCollection,
        model: "JinaV4 | None" = None,
        skip_existing: bool = False,
        warn_existing: bool = False,
        **kwargs: Any,
    ) -> tuple[Embeddings, np.ndarray, np.ndarray | None]:
        """Embeds images, or patches, without adding them. They are all held in memory: see :meth:`add_samples`.

        Args:
            samples: a dataset or view of images
            model (None): a model to embed them with, by default the index's own
            skip_existing (False): whether to leave out those that are in the index
            warn_existing (False): whether to say how many those are
            **kwargs: see :meth:`add_samples`

        Returns:
            a tuple of the :class:`engine.encoder.Embeddings`, an array of the sample ids, and an array of the patches'
            ids or ``None``
        """

        def wanted(ids):
            missing = self._store.missing(ids) if skip_existing or warn_existing else ids
            if warn_existing and len(missing) < len(ids):
                fbs.logger.warning("%d ids are in the index already", len(ids) - len(missing))
            return missing if skip_existing else ids

        batches = list(self._embed(samples, wanted, model, **kwargs))
        sample_ids = np.array([page_id for _, of_batch, _ in batches for page_id in of_batch], dtype="U24")
        label_ids = None
        if self.config.patches_field is not None:
            label_ids = np.array([page_id for _, _, of_batch in batches for page_id in of_batch], dtype="U24")
        singles = [embeddings.single for embeddings, _, _ in batches]
        multi = [rows for embeddings, _, _ in batches for rows in embeddings.multi]
        return Embeddings(np.concatenate(singles) if singles else np.empty((0, 0)), multi), sample_ids, label_ids

    def _embed(self, samples, wanted, model=None, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        return embed_missing(
            model or self.get_model(), samples, wanted, self.config.patches_field, self.config.pool_factor, **kwargs
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
                "A late-interaction index takes what index.compute_embeddings(samples) or model.encode_images(images) "
                f"gives, single and multi-vectors, and found {type(embeddings).__name__}. To embed and add samples in "
                "one call: index.add_samples(samples)"
            )

        ids = [str(page_id) for page_id in (sample_ids if label_ids is None else label_ids)]
        sample_ids = [str(page_id) for page_id in sample_ids]
        keep: Sequence[int] = range(len(ids))
        if not overwrite or not allow_existing or warn_existing:
            missing = set(self._store.missing(ids))
            existing = [page_id for page_id in ids if page_id not in missing]
            if existing and not allow_existing and not overwrite:
                raise ValueError(f"Found {len(existing)} IDs (eg {existing[0]}) that already exist in the index")
            if existing and warn_existing:
                done = "Overwriting" if overwrite else "Skipping"
                fbs.logger.warning("%s %d IDs that already exist in the index", done, len(existing))
            if not overwrite:
                keep = [i for i in keep if ids[i] in missing]

        if keep:
            kept = Embeddings(embeddings.single[list(keep)], [embeddings.multi[i] for i in keep])
            self._store.add([ids[i] for i in keep], [sample_ids[i] for i in keep], kept)
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
        """Reads the single vectors of pages, which are what FiftyOne can go on with: arrays.

        Args:
            sample_ids (None): a sample ID or a list of them, by default all
            label_ids (None): of patches, a label ID or a list of them
            allow_missing (True): whether to leave out those that are not in the index, in place of raising an error
            warn_missing (False): whether to say how many those are

        Returns:
            a tuple of a float32 array ``(pages, dim)``, an array of the sample ids, and an array of the patches' ids or
            ``None``
        """
        ids = self._found(sample_ids, label_ids, allow_missing, warn_missing)
        vectors, of_samples = self._store.single(ids)
        patches = self.config.patches_field is not None
        return vectors, np.array(of_samples), np.array(ids) if patches else None

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

    def _found(self, sample_ids, label_ids, allow_missing=True, warn_missing=False):
        """The ids of those pages that are in the index."""
        ids = self._page_ids(sample_ids, label_ids)
        missing = self._store.missing(ids)
        self._check_missing(missing, allow_missing, warn_missing)
        absent = set(missing)
        return [page_id for page_id in ids if page_id not in absent]

    def _page_ids(self, sample_ids, label_ids):
        """The ids of pages, by those of samples or of patches, or of all."""
        if self.config.patches_field is None:
            if label_ids is not None:
                raise ValueError("This index is of images: it has no label IDs")
            return _as_list(self._store.list_ids()[0] if sample_ids is None else sample_ids)
        if label_ids is not None:
            return _as_list(label_ids)

        ids, of_samples = self._store.list_ids()
        return _as_list(ids if sample_ids is None else ids[np.isin(of_samples, _as_list(sample_ids))])

    def _check_missing(self, missing, allow_missing, warn_missing):
        if missing and not allow_missing:
            raise ValueError(f"Found {len(missing)} IDs (eg {missing[0]}) that are not in the index")
        if missing and warn_missing:
            fbs.logger.warning("Ignoring %d IDs that are not in the index", len(missing))

    def cleanup(self) -> None:
        check_owner(self._samples, self.config)
        self._store.drop()

    def _parse_query(self, query):
        if isinstance(query, Embeddings):
            return query
        if query is None or isinstance(query, np.ndarray):
            return super()._parse_query(query)

        prompts = [query] if isinstance(query, str) else list(query)
        if any(isinstance(prompt, str) and not prompt.strip() for prompt in prompts):
            raise ValueError("The query is empty: pass a text that says what to look for")
        if not prompts or not isinstance(prompts[0], str) or ObjectId.is_valid(prompts[0]):
            return super()._parse_query(prompts)
        if not self.supports_prompts and self._model is None:
            raise ValueError(
                f"The query {prompts[0]!r} needs the index's model, which was given as an object: make the index with "
                "model='jinaai/jina-embeddings-v4', or set index._model"
            )

        model = self.get_model()
        with model:
            return model.encode_prompts(prompts)

    def _kneighbors(self, query=None, k=None, reverse=False, aggregation=None, return_dists=False):
        if k is not None:
            check_integer("k", k, 1)
        if query is None:
            raise ValueError("Late interaction does not compare all pages with all: give a query")
        if reverse and not self.config.supports_least_similarity:
            raise ValueError("Qdrant does not rank by least similarity: use the local store")
        if aggregation not in (None, "mean"):
            raise ValueError(f"aggregation={aggregation!r}: the scores of several queries are averaged, by 'mean'")

        self._store.check()
        # Another process may have added pages, or removed some.
        within = None
        if self.has_view:
            self.reload()
            within = self.current_sample_ids if self.config.patches_field is None else self.current_label_ids

        queries, single = self._queries(query, aggregation)
        found = [
            self._store.search(each, k=k, candidates=self.config.candidates, ids=within, reverse=reverse)
            for each in queries
        ]
        ids, sample_ids, scores = ([list(part) for part in parts] for parts in zip(*found, strict=True))
        dists = [[1 - float(score) for score in of_query] for of_query in scores]
        label_ids = None if self.config.patches_field is None else ids
        results = [sample_ids, label_ids, dists] if return_dists else [sample_ids, label_ids]
        return tuple(part[0] if single and part is not None else part for part in results)

    def _queries(self, query, aggregation):
        """Returns a list of :class:`Query`, and whether it stands for one query."""
        if isinstance(query, np.ndarray) and query.dtype.kind in "fiu":
            dims = self._store.dims()
            if aggregation is None and query.ndim == 2 and query.shape[1] == dims[0]:
                # Each for itself, as what FiftyOne computes of all vectors of an index asks.
                return [Query.from_vectors(vector, *dims) for vector in query], False

            if query.ndim == 2 and dims[0] is not None and query.shape[1] == dims[0] == dims[1]:
                raise ValueError(
                    f"An array {query.shape} may be a multi-vector or {len(query)} single vectors, since both have "
                    f"{dims[0]} dimensions here: pass a single vector alone, ({dims[0]},), or for a multi-vector the "
                    "Embeddings that model.encode_prompts([...]) gives"
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

        each = (Embeddings(embeddings.single[[i]], [multi]) for i, multi in enumerate(embeddings.multi))
        return [Query.from_embeddings(embeddings) for embeddings in each], False

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
    return str(samples._root_dataset._doc.id)


def check_owner(samples: SampleCollection, config: "LateInteractionSimilarityConfig") -> None:
    """Raises a ``ValueError`` where an index, which came with the clone of a dataset, would be changed for both."""
    if config.owner != dataset_id(samples):
        raise ValueError(
            "This index is that of the dataset of which this one is a clone, which can search it, but not change it: "
            "delete the run here, which leaves the other's index, and index the pages anew"
        )


def _as_list(ids):
    return [ids] if isinstance(ids, str) else [str(page_id) for page_id in ids]
