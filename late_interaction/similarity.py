"""FiftyOne's similarity backend ``"late-interaction"``: the run, its settings, and the index.

FiftyOne stores a run's settings with the path of the class that holds them, imports it in whatever process asks a
question, the App's server included, and finds the class of the run by leaving out ``Config``.
"""

import difflib
import inspect
import os
import re
import sqlite3
from typing import Any

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.brain.similarity as fbs
import fiftyone.core.odm as foo
import fiftyone.core.utils as fou
from bson import ObjectId, json_util
from fiftyone.core.collections import SampleCollection

from ..engine.arguments import check_choice, check_integer
from ..integration.optional import import_optional
from ..integration.seams import fiftyone_argument
from .index import LateInteractionSimilarityIndex, check_owner, dataset_id
from .stores.base import VectorStore
from .stores.local import LocalStore
from .stores.qdrant import QdrantStore
from .stores.vector_files import DTYPES

BACKEND = "late-interaction"
STORES = ("local", "qdrant")

# The function whose variables say what it was asked to do.
_BRAIN = ("fiftyone.brain.similarity.compute_similarity",)

# What may differ between the call that made an index and one that goes on with it.
_SETTINGS_THAT_MAY_CHANGE = ("candidates", "index_name", "uri", "owner", "supports_prompts")


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
        store: str = "local",
        uri: str | None = None,
        index_name: str | None = None,
        dtype: str = "float16",
        pool_factor: int = 1,
        candidates: int | None = 1000,
        api_key: str | None = None,
        owner: str | None = None,
        embeddings_field: str | None = None,
        roi_field: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _KNOWN and name not in _STORED:
                raise TypeError(_unknown(name))
        check_choice("store", store, STORES)
        check_choice("dtype", dtype, DTYPES)
        check_integer("pool_factor", pool_factor, 1)
        check_integer("candidates", candidates, 1, or_none=True)
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
    def method(self) -> str:
        return BACKEND

    @property
    def max_k(self) -> None:
        return None

    @property
    def supports_least_similarity(self) -> bool:
        return self.store == "local"

    @property
    def supported_aggregations(self) -> tuple[str, ...]:
        return ("mean",)

    @property
    def api_key(self) -> str | None:
        """The key for the Qdrant server, from FiftyOne's brain config."""
        return self._api_key

    @api_key.setter
    def api_key(self, value: str | None) -> None:
        self._api_key = value

    def load_credentials(self, uri: str | None = None, api_key: str | None = None) -> None:
        self._load_parameters(api_key=api_key)
        # Where an index is, its run says: what the brain config says now is for new ones.
        if uri is not None or self.uri is None:
            self._load_parameters(uri=uri)

    def open_store(self) -> VectorStore:
        """Returns the store with the index's vectors."""
        assert self.uri is not None and self.index_name is not None
        if self.store == "local":
            return LocalStore(os.path.join(self.uri, self.index_name), self.dtype)

        return QdrantStore(self.uri, self.index_name, self.api_key)


# The arguments that there are, those of FiftyOne's configuration and what it stores with them included.
_KNOWN = sorted(
    {
        name
        for cls in (LateInteractionSimilarityConfig, fbs.SimilarityConfig)
        for name in inspect.signature(cls).parameters
    }
    - {"kwargs", "owner"}
)
_STORED = ("type", "method", "cls")


def _unknown(name):
    similar = difflib.get_close_matches(name, _KNOWN, n=1)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    return f"Unknown argument {name!r}: {hint}Those of a late-interaction index are {', '.join(_KNOWN)}"


class LateInteractionSimilarity(fbs.Similarity):
    """Makes late-interaction indexes, and goes on with those that were not finished.

    Args:
        config: a :class:`LateInteractionSimilarityConfig`
    """

    def ensure_requirements(self) -> None:
        self.ensure_usage_requirements()
        # FiftyOne asks before it registers the run.
        embeddings = fiftyone_argument(_BRAIN, "embeddings")
        if embeddings is not None and embeddings is not False:
            raise ValueError("Late interaction embeds images itself: leave out embeddings")

        model = fiftyone_argument(_BRAIN, "_model")
        if self.config.model == fbs._DEFAULT_MODEL:
            raise ValueError("Late interaction needs a model: pass model='jinaai/jina-embeddings-v4'")
        if model is not None and not hasattr(model, "encode_images"):
            raise ValueError(
                f"Late interaction needs a model with multi-vectors, such as model='jinaai/jina-embeddings-v4', and "
                f"found a {type(model).__name__}"
            )

    def ensure_usage_requirements(self) -> None:
        if self.config.store == "qdrant":
            import_optional("qdrant_client", "qdrant", "store='qdrant'")

    def register_run(
        self, samples: SampleCollection, key: str | None, overwrite: bool = True, cleanup: bool = True
    ) -> None:
        """Registers a run. The same call again goes on with the run that is there."""
        if key is None or key not in self.list_runs(samples):
            self.validate_run(samples, key, overwrite=overwrite)
            self._resolve_location(samples, key)
            self._make_store()
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        there = self.get_run_info(samples, key).config
        if not isinstance(there, LateInteractionSimilarityConfig):
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        self._check_settings(key, there.serialize())
        self.config.uri, self.config.index_name, self.config.owner = there.uri, there.index_name, there.owner
        check_owner(samples, self.config)
        self.update_run_config(samples, key, self.config)

    def _check_settings(self, key, its):
        # As the database gives them back: a tuple, for one, as a list.
        mine, its = (json_util.loads(json_util.dumps(settings)) for settings in (self.config.serialize(), its))
        other = [name for name in mine if name not in _SETTINGS_THAT_MAY_CHANGE and mine[name] != its.get(name)]
        if other:
            raise ValueError(
                f"The index {key!r} was made with {', '.join(f'{name}={its.get(name)!r}' for name in other)}: call "
                f"dataset.delete_brain_run({key!r}) first, or choose another brain_key"
            )

    def _resolve_location(self, samples, key):
        """Decides where the vectors of a new index will be, before that is stored with its run."""
        self.config.load_credentials()
        if self.config.uri is None:
            local = os.path.join(fo.config.default_dataset_dir, BACKEND)
            self.config.uri = local if self.config.store == "local" else "http://localhost:6333"
        if "://" not in self.config.uri:
            self.config.uri = os.path.abspath(os.path.expanduser(self.config.uri))
        if self.config.owner is None:
            self.config.owner = dataset_id(samples)

        name = self.config.index_name
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
            raise ValueError(
                f"index_name={name!r} is not allowed: expected letters, digits, '.', '-' and '_'. The folder that the "
                "index's own is in is uri"
            )
        if name is None:
            # What two processes that make one index at once agree on. The name of a dataset may come again.
            slug = fou.to_slug(samples._root_dataset.name)
            self.config.index_name = f"{slug}-{dataset_id(samples)}-{key or ObjectId()}"

        same, others = self._runs_of_name(samples, key)
        if same is not None:
            self._check_settings(key, same)
        elif name is None and (others or (os.path.isdir(self.config.uri) and self.config.open_store().size())):
            # A run that was renamed, or that was deleted without its vectors.
            self.config.index_name += f"-{ObjectId()}"
        elif others:
            raise ValueError(
                f"index_name={name!r} in {self.config.uri} is that of the brain run {others[0][1]!r} of the dataset "
                f"{others[0][0]!r}: choose another index_name, since two indexes cannot share their vectors"
            )

    def _runs_of_name(self, samples, key):
        """Looks up the runs that keep their vectors under this index's name.

        Returns:
            a tuple of the settings of the run of this key, which another process registered, or ``None``, and a list of
            tuples of the name of a dataset and the key of one of its runs
        """
        database = foo.get_db_conn()
        same, others = None, []
        wanted = {"config.index_name": self.config.index_name, "config.uri": self.config.uri}
        for run in database.runs.find(wanted):
            dataset = database.datasets.find_one({"_id": run["_dataset_id"]}, {"name": 1, "brain_methods": 1})
            keys = [name for name, one in (dataset or {}).get("brain_methods", {}).items() if one == run["_id"]]
            for name in keys:
                if str(dataset["_id"]) == dataset_id(samples) and name == key:
                    same = run["config"]
                else:
                    others.append((dataset["name"], name))
        return same, others

    def _make_store(self):
        try:
            self.config.open_store().create()
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"uri={self.config.uri!r} cannot be written ({error}): pass the path of a folder that can, uri=..."
            ) from error

    def initialize(self, samples: SampleCollection, brain_key: str | None) -> LateInteractionSimilarityIndex:
        if brain_key is None:
            self._resolve_location(samples, None)
            self._make_store()
        index = LateInteractionSimilarityIndex(samples, self.config, brain_key, backend=self)
        index._store.create()
        if brain_key is not None:
            # So that an index whose making is killed can be searched, as far as it came.
            self.save_run_results(samples, brain_key, index)

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

    def cleanup(self, samples: SampleCollection, key: str) -> None:
        # The run of a clone goes without the vectors, which are the other dataset's.
        if self.config.owner == dataset_id(samples):
            self.config.open_store().drop()


def register_backend() -> None:
    """Makes the backend known to :func:`fiftyone.brain.compute_similarity` in this process."""
    settings = fob.brain_config.similarity_backends.setdefault(BACKEND, {})
    settings.setdefault("config_cls", f"{__name__}.{LateInteractionSimilarityConfig.__name__}")
