"""FiftyOne's similarity backend ``"late-interaction"``: the run, its settings, and the index.

FiftyOne stores a run's settings with the path of the class that holds them, imports it in whatever process asks a
question, the App's server included, and finds the class of the run by leaving out ``Config``.
"""

import copy
import os

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.brain.similarity as fbs
import fiftyone.core.utils as fou
import numpy as np
from bson import ObjectId, json_util

from ..call_context import fiftyone_argument
from ..jina_v4.arguments import check_choice, check_integer
from ..jina_v4.encoder import Embeddings
from .indexing import embed_missing
from .local_store import DTYPES, LocalStore
from .qdrant_store import QdrantStore
from .query import Query

BACKEND = "late-interaction"
STORES = ("local", "qdrant")

# The module whose running function says what compute_similarity() was asked to do.
_BRAIN = "fiftyone.brain.similarity"

# What may differ between the call that made an index and one that goes on with it.
_FREE = ("candidates", "index_name", "uri", "owner", "supports_prompts")


class LateInteractionSimilarityConfig(fbs.SimilarityConfig):
    """What a late-interaction index is made with.

    Args:
        store ("local"): where the vectors are kept: ``"local"``, files in a folder, or ``"qdrant"``, a Qdrant server
        uri (None): the folder in which the index makes its own, or the server's URL. By default
            ``late-interaction`` in FiftyOne's folder of datasets, and ``http://localhost:6333``
        index_name (None): the name of the index's folder or collection, by default one that is made of the dataset's
        dtype ("float16"): of the multi-vectors: ``"float16"``, or ``"int8"`` at half the size, for the local store
        pool_factor (1): by what the number of a page's tokens is divided, by averaging those that say the same
        candidates (1000): where there are more pages than these, the single vectors choose so many, and late
            interaction ranks them. ``None``: late interaction ranks all
        api_key (None): the Qdrant server's key, which is not stored with the run: put it into FiftyOne's brain config
        owner (None): the id of the dataset that the index is made for, which is found out
        **kwargs: arguments of :class:`fiftyone.brain.similarity.SimilarityConfig`
    """

    def __init__(
        self,
        store="local",
        uri=None,
        index_name=None,
        dtype="float16",
        pool_factor=1,
        candidates=1000,
        api_key=None,
        owner=None,
        embeddings_field=None,
        roi_field=None,
        **kwargs,
    ):
        check_choice("store", store, STORES)
        check_choice("dtype", dtype, DTYPES)
        check_integer("pool_factor", pool_factor, 1)
        if candidates is not None:
            check_integer("candidates", candidates, 1)
        if store == "local" and uri is not None and "://" in uri:
            raise ValueError(f"uri={uri!r} is no folder: pass one, or store='qdrant'")
        if store == "qdrant" and dtype != "float16":
            raise ValueError(f"dtype={dtype!r} is for the local store. Qdrant keeps float16")
        if embeddings_field is not None:
            raise ValueError(f"Multi-vectors do not fit into a field: leave out embeddings_field={embeddings_field!r}")
        if roi_field is not None:
            raise ValueError(f"Regions of interest are not supported: give patches_field={roi_field!r} in their place")

        super().__init__(**kwargs)
        self.store = store
        self.uri = uri
        self.index_name = index_name
        # The dataset whose index it is. A clone of the dataset has the run, too.
        self.owner = owner
        self.dtype = dtype
        self.pool_factor = pool_factor
        self.candidates = candidates
        # Private, so that it is not stored with the run.
        self._api_key = api_key

    @property
    def method(self):
        return BACKEND

    @property
    def max_k(self):
        return None

    @property
    def supports_least_similarity(self):
        return self.store == "local"

    @property
    def supported_aggregations(self):
        return ("mean",)

    @property
    def api_key(self):
        """The key for the Qdrant server, from FiftyOne's brain config."""
        return self._api_key

    @api_key.setter
    def api_key(self, value):
        self._api_key = value

    def load_credentials(self, uri=None, api_key=None):
        self._load_parameters(api_key=api_key)
        # Where an index is, its run says: what the brain config says now is for new ones.
        if uri is not None or self.uri is None:
            self._load_parameters(uri=uri)

    def open_store(self):
        """Returns the store with the index's vectors."""
        if self.store == "local":
            return LocalStore(os.path.join(self.uri, self.index_name), self.dtype)

        return QdrantStore(self.uri, self.index_name, self.api_key)


class LateInteractionSimilarity(fbs.Similarity):
    """Makes late-interaction indexes, and goes on with those that were not finished.

    Args:
        config: a :class:`LateInteractionSimilarityConfig`
    """

    def ensure_requirements(self):
        self.ensure_usage_requirements()
        # FiftyOne asks before it registers the run.
        embeddings = fiftyone_argument(_BRAIN, "embeddings")
        if embeddings is not None and embeddings is not False:
            raise ValueError("Late interaction embeds images itself: leave out embeddings")

        model = fiftyone_argument(_BRAIN, "_model")
        if model is not None and not hasattr(model, "encode_images"):
            raise ValueError(
                f"Late interaction needs a model with multi-vectors, such as model='jinaai/jina-embeddings-v4', and "
                f"found a {type(model).__name__}"
            )

    def ensure_usage_requirements(self):
        if self.config.store == "qdrant":
            fou.ensure_package("qdrant-client")

    def register_run(self, samples, key, overwrite=True, cleanup=True):
        """Registers a run. The same call again goes on with the run that is there."""
        self._settle(samples)
        if key is None or key not in self.list_runs(samples):
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        there = self.get_run_info(samples, key).config
        if not isinstance(there, LateInteractionSimilarityConfig):
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        # As the database gives them back: a tuple, for one, as a list.
        mine, its = (json_util.loads(json_util.dumps(config.serialize())) for config in (self.config, there))
        other = [name for name in mine if name not in _FREE and mine[name] != its.get(name)]
        if other:
            raise ValueError(
                f"The index {key!r} was made with {', '.join(f'{name}={its.get(name)!r}' for name in other)}: call "
                f"dataset.delete_brain_run({key!r}) first, or choose another brain_key"
            )
        self.config.uri, self.config.index_name, self.config.owner = there.uri, there.index_name, there.owner
        _check_owner(samples, self.config)
        self.update_run_config(samples, key, self.config)

    def _settle(self, samples):
        """Decides where the vectors will be, before that is stored with the run."""
        self.config.load_credentials()
        if self.config.uri is None:
            local = os.path.join(fo.config.default_dataset_dir, BACKEND)
            self.config.uri = local if self.config.store == "local" else "http://localhost:6333"
        if "://" not in self.config.uri:
            self.config.uri = os.path.abspath(os.path.expanduser(self.config.uri))
        if self.config.index_name is None:
            # Another dataset may have had the same name, and its index may still be there.
            self.config.index_name = f"{fou.to_slug(samples._root_dataset.name)}-{ObjectId()}"
        if self.config.owner is None:
            self.config.owner = _dataset_id(samples)

    def initialize(self, samples, brain_key):
        self._settle(samples)
        index = LateInteractionSimilarityIndex(samples, self.config, brain_key, backend=self)
        index._store.create()

        # FiftyOne would hold the embeddings of all samples at once, 200 KB a page. It hands over neither the view nor
        # how to load it, but they are in its call; and it embeds nothing itself where the index is no longer empty.
        if fiftyone_argument(_BRAIN, "embeddings") is None:
            index._model = fiftyone_argument(_BRAIN, "_model")
            names = ("batch_size", "num_workers", "skip_failures", "force_square", "alpha", "progress")
            given = {name: fiftyone_argument(_BRAIN, name) for name in names}
            missing = index.add_samples(fiftyone_argument(_BRAIN, "samples"), **given)
            if missing and not index.total_index_size:
                raise ValueError(f"None of {missing} images could be embedded: the warnings above say why")
        return index

    def cleanup(self, samples, key):
        # The run of a clone goes without the vectors, which are the other dataset's.
        if self.config.owner == _dataset_id(samples):
            self.config.open_store().drop()


class LateInteractionSimilarityIndex(fbs.SimilarityIndex):
    """A late-interaction index: the single vector and the multi-vector of each page, an image or a patch.

    A page's score is the mean cosine of the query's tokens with their best matches among the page's (MaxSim). It lies
    in ``[-1, 1]``. Its distance, as ``dist_field`` has it, is 1 less the score. The score by several prompts or pages
    is the mean of the scores by each.

    What :meth:`compute_embeddings` gives and :meth:`add_to_index` takes are :class:`jina_v4.encoder.Embeddings`, both
    kinds of vectors.

    Args:
        samples: the :class:`fiftyone.core.collections.SampleCollection`
        config: the :class:`LateInteractionSimilarityConfig`
        brain_key: the brain key
        backend (None): a :class:`LateInteractionSimilarity`
    """

    def __init__(self, samples, config, brain_key, backend=None):
        super().__init__(samples, config, brain_key, backend=backend)
        self._store = config.open_store()

    @property
    def is_external(self):
        # FiftyOne asks whether to embed images although the index has some.
        return False

    @property
    def total_index_size(self):
        return self._store.size()

    @property
    def sample_ids(self):
        found = self._store.ids()
        return None if found is None else found[1]

    @property
    def label_ids(self):
        found = self._store.ids()
        return None if found is None or self.config.patches_field is None else found[0]

    def with_candidates(self, candidates):
        """Returns the same index with another number of candidates.

        Args:
            candidates: how many pages the single vectors choose for late interaction, or ``None`` for all

        Returns:
            a :class:`LateInteractionSimilarityIndex`
        """
        if candidates is not None:
            check_integer("candidates", candidates, 1)

        index = copy.copy(self)
        index._config = copy.copy(self._config)
        index._config.candidates = candidates
        return index

    def add_samples(self, samples, **kwargs):
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

    def iter_add_samples(self, samples, **kwargs):
        """Does what :meth:`add_samples` does, and tells how far it is.

        Args:
            samples: a dataset or view of images
            **kwargs: see :meth:`add_samples`

        Yields:
            tuples of the number of pages that were added, and of those that the index lacked, once more at the end

        Raises:
            ValueError: if the samples are no images, or the index is another dataset's
        """
        _check_owner(self._samples, self.config)
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

    def compute_embeddings(self, samples, model=None, skip_existing=False, warn_existing=False, **kwargs):
        """Embeds images, or patches, without adding them. They are all held in memory: see :meth:`add_samples`.

        Args:
            samples: a dataset or view of images
            model (None): a model to embed them with, by default the index's own
            skip_existing (False): whether to leave out those that are in the index
            warn_existing (False): whether to say how many those are
            **kwargs: see :meth:`add_samples`

        Returns:
            a tuple of the :class:`jina_v4.encoder.Embeddings`, an array of the sample ids, and an array of the patches'
            ids or ``None``
        """

        def wanted(ids):
            missing = self._store.missing(ids) if skip_existing or warn_existing else ids
            if warn_existing and len(missing) < len(ids):
                fbs.logger.warning("%d ids are in the index already", len(ids) - len(missing))
            return missing if skip_existing else ids

        batches = list(self._embed(samples, wanted, model, **kwargs))
        sample_ids = np.array([one for _, of_batch, _ in batches for one in of_batch], dtype="U24")
        label_ids = None
        if self.config.patches_field is not None:
            label_ids = np.array([one for _, _, of_batch in batches for one in of_batch], dtype="U24")
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
        embeddings,
        sample_ids,
        label_ids=None,
        overwrite=True,
        allow_existing=True,
        warn_existing=False,
        reload=True,
    ):
        if not len(embeddings):
            return
        _check_owner(self._samples, self.config)
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                "A late-interaction index takes what index.compute_embeddings(samples) or model.encode_images(images) "
                f"gives, single and multi-vectors, and found {type(embeddings).__name__}. To embed and add samples in "
                "one call: index.add_samples(samples)"
            )

        ids = [str(one) for one in (sample_ids if label_ids is None else label_ids)]
        sample_ids = [str(one) for one in sample_ids]
        keep = range(len(ids))
        if not overwrite or not allow_existing or warn_existing:
            missing = set(self._store.missing(ids))
            existing = [one for one in ids if one not in missing]
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

    def remove_from_index(self, sample_ids=None, label_ids=None, allow_missing=True, warn_missing=False, reload=True):
        _check_owner(self._samples, self.config)
        if sample_ids is None and label_ids is None:
            return

        ids = self._page_ids(sample_ids, label_ids)
        self._check_missing(self._store.missing(ids), allow_missing, warn_missing)
        self._store.remove(ids)
        if reload:
            self.reload()

    def get_embeddings(self, sample_ids=None, label_ids=None, allow_missing=True, warn_missing=False):
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

    def get_multi_vectors(self, sample_ids=None, label_ids=None):
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
        return [one for one in ids if one not in absent]

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

    def cleanup(self):
        _check_owner(self._samples, self.config)
        self._store.drop()

    def _parse_query(self, query):
        if query is None or isinstance(query, np.ndarray):
            return super()._parse_query(query)

        prompts = [query] if isinstance(query, str) else list(query)
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
            self._store.search(one, k=k, candidates=self.config.candidates, ids=within, reverse=reverse)
            for one in queries
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
        return [Query.from_embeddings(one) for one in each], False

    @classmethod
    def _from_dict(cls, d, samples, config, brain_key):
        return cls(samples, config, brain_key)


def register_backend():
    """Makes the backend known to :func:`fiftyone.brain.compute_similarity` in this process."""
    settings = fob.brain_config.similarity_backends.setdefault(BACKEND, {})
    settings.setdefault("config_cls", f"{__name__}.{LateInteractionSimilarityConfig.__name__}")


def _dataset_id(samples):
    return str(samples._root_dataset._doc.id)


def _check_owner(samples, config):
    """Raises a ``ValueError`` where an index, which came with the clone of a dataset, would be changed for both."""
    if config.owner != _dataset_id(samples):
        raise ValueError(
            "This index is that of the dataset of which this one is a clone, which can search it, but not change it: "
            "delete the run here, which leaves the other's index, and index the pages anew"
        )


def _as_list(ids):
    return [ids] if isinstance(ids, str) else [str(one) for one in ids]
