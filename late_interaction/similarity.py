"""FiftyOne's similarity backend ``"late-interaction"``: its configuration and its runs.

FiftyOne stores a run's configuration with the path of its class, and imports this path in each process that searches,
including the App's server. It derives the name of the run's class by removing ``Config``.
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
from .stores.qdrant import QUANTIZATIONS, QdrantStore
from .stores.row_formats import DTYPES
from .stores.texts import check_full_text
from .text_fields import check_text_field

BACKEND = "late-interaction"
STORES = ("local", "qdrant")
GATES = ("single", "binary")

# FiftyOne does not pass on all arguments of this function, so they are read from its frame.
_COMPUTE_SIMILARITY = ("fiftyone.brain.similarity.compute_similarity",)

# Settings that may differ between the call that made an index and a call that continues it.
_SETTINGS_THAT_MAY_CHANGE = ("candidates", "gate", "index_name", "uri", "owner", "supports_prompts")


class LateInteractionSimilarityConfig(fbs.SimilarityConfig):
    """The configuration of a late-interaction index.

    Args:
        store ("local"): the store of the vectors: ``"local"``, files in a folder, or ``"qdrant"``, a Qdrant server
        uri (None): the folder in which the index's folder is created, or the server's URL. By default
            ``late-interaction`` in FiftyOne's folder of datasets, or ``http://localhost:6333``
        index_name (None): the name of the index's folder or collection, by default derived from the dataset's name
        dtype ("float16"): the multi-vectors' dtype, ``"float16"``, or for the local store ``"int8"`` at half the size,
            or ``"binary"``, their signs, at a 16th of it
        pool_factor (1): the divisor of the number of a page's tokens, which is reduced by averaging similar tokens
        candidates (1000): the number of pages that the gate chooses, and late interaction ranks, if there are more.
            ``None``: late interaction ranks all
        gate (None): what chooses them: ``"single"`` vectors, or in the local store ``"binary"``, the signs of the
            multi-vectors. By default ``"binary"`` for ``dtype="binary"``, and ``"single"`` otherwise
        text_field (None): a field of strings whose words are indexed, too, eg the ``text`` of ``load_documents()`` or
            the words that OCR has found, ``"ocr.detections.label"``. Text queries then find pages by words as well
        quantization (None): how Qdrant rounds the vectors that it compares first, ``"scalar"`` or ``"binary"``. The
            best by these are ranked by the stored vectors
        api_key (None): the Qdrant server's key. It is not stored with the run: set it in FiftyOne's brain config
        owner (None): the id of the dataset that the index is made for, which is set automatically
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
        gate: str | None = None,
        text_field: str | None = None,
        quantization: str | None = None,
        api_key: str | None = None,
        owner: str | None = None,
        embeddings_field: str | None = None,
        roi_field: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _ARGUMENTS and name not in _STORED_KEYS:
                raise TypeError(_describe_unknown(name))
        check_choice("store", store, STORES)
        check_choice("dtype", dtype, DTYPES)
        check_integer("pool_factor", pool_factor, 1)
        check_integer("candidates", candidates, 1, or_none=True)
        if gate is None:
            gate = "binary" if dtype == "binary" else "single"
        check_choice("gate", gate, GATES)
        if store == "local" and uri is not None and "://" in uri:
            raise ValueError(f"uri={uri!r} is not a folder: pass a folder, or store='qdrant'")
        if store == "qdrant" and dtype != "float16":
            raise ValueError(f"dtype={dtype!r} is for the local store: Qdrant stores float16")
        if store == "qdrant" and gate != "single":
            raise ValueError(f"gate={gate!r} is for the local store: in Qdrant, single vectors choose candidates")
        check_choice("quantization", quantization, (*QUANTIZATIONS, None))
        if store == "local" and quantization is not None:
            raise ValueError(f"quantization={quantization!r} is for Qdrant: pass dtype='int8' to the local store")
        if embeddings_field is not None:
            raise ValueError(f"Multi-vectors do not fit into a field: leave out embeddings_field={embeddings_field!r}")
        if roi_field is not None:
            raise ValueError(f"Regions of interest are not supported: pass patches_field={roi_field!r} instead")
        if text_field is not None and kwargs.get("patches_field") is not None:
            raise ValueError(f"text_field={text_field!r} is for whole pages: leave out patches_field")

        super().__init__(**kwargs)
        self.store = store
        self.uri = uri
        self.index_name = index_name
        # A clone of the dataset has the same run, and must not change its vectors.
        self.owner = owner
        self.dtype = dtype
        self.pool_factor = pool_factor
        self.candidates = candidates
        self.gate = gate
        self.text_field = text_field
        self.quantization = quantization
        # FiftyOne does not store private attributes with the run.
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
        # The brain config's URI is for new indexes. An existing index has its own.
        if uri is not None or self.uri is None:
            self._load_parameters(uri=uri)

    def open_store(self) -> VectorStore:
        """Returns the store of the index's vectors."""
        assert self.uri is not None and self.index_name is not None
        if self.store == "local":
            return LocalStore(os.path.join(self.uri, self.index_name), self.dtype, self.gate)

        return QdrantStore(self.uri, self.index_name, self.api_key, self.quantization)


# All arguments, including those of FiftyOne's configuration.
_ARGUMENTS = sorted(
    {
        name
        for cls in (LateInteractionSimilarityConfig, fbs.SimilarityConfig)
        for name in inspect.signature(cls).parameters
    }
    - {"kwargs", "owner"}
)
# What FiftyOne stores with them.
_STORED_KEYS = ("type", "method", "cls")


def _describe_unknown(name):
    similar = difflib.get_close_matches(name, _ARGUMENTS, n=1)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    return f"Unknown argument {name!r}: {hint}A late-interaction index takes {', '.join(_ARGUMENTS)}"


class LateInteractionSimilarity(fbs.Similarity):
    """Makes late-interaction indexes, and continues unfinished ones.

    Args:
        config: a :class:`LateInteractionSimilarityConfig`
    """

    def ensure_requirements(self) -> None:
        self.ensure_usage_requirements()
        # FiftyOne calls this before it registers the run, so that wrong arguments leave no run.
        embeddings = fiftyone_argument(_COMPUTE_SIMILARITY, "embeddings")
        if embeddings is not None and embeddings is not False:
            raise ValueError("Late interaction embeds images itself: leave out embeddings")

        model = fiftyone_argument(_COMPUTE_SIMILARITY, "_model")
        if self.config.model == fbs._DEFAULT_MODEL:
            raise ValueError("Late interaction needs a model: pass model='jinaai/jina-embeddings-v4'")
        if model is not None and not hasattr(model, "encode_images"):
            raise ValueError(
                f"Late interaction needs a model with multi-vectors, such as model='jinaai/jina-embeddings-v4', found "
                f"a {type(model).__name__}"
            )

    def ensure_usage_requirements(self) -> None:
        if self.config.store == "qdrant":
            import_optional("qdrant_client", "qdrant", "store='qdrant'")
        elif self.config.text_field is not None:
            check_full_text()

    def register_run(
        self, samples: SampleCollection, key: str | None, overwrite: bool = True, cleanup: bool = True
    ) -> None:
        """Registers a run. If the run exists, checks that its settings match, and continues it."""
        if self.config.text_field is not None:
            check_text_field(samples, self.config.text_field)
        if key is None or key not in self.list_runs(samples):
            self.validate_run(samples, key, overwrite=overwrite)
            self._resolve_location(samples, key)
            self._make_store()
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        registered = self.get_run_info(samples, key).config
        if not isinstance(registered, LateInteractionSimilarityConfig):
            return super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

        self._check_settings(key, registered.serialize())
        self.config.text_field = self.config.text_field or registered.text_field
        self.config.uri = registered.uri
        self.config.index_name = registered.index_name
        self.config.owner = registered.owner
        check_owner(samples, self.config)
        self.update_run_config(samples, key, self.config)

    def _check_settings(self, key, stored):
        # Through JSON, since the database returns tuples as lists.
        given, stored = (json_util.loads(json_util.dumps(settings)) for settings in (self.config.serialize(), stored))
        may_change = set(_SETTINGS_THAT_MAY_CHANGE)
        if None in (given["text_field"], stored.get("text_field")):
            # An index keeps its text field, and one without any may get one.
            may_change.add("text_field")
        changed = [name for name in given if name not in may_change and given[name] != stored.get(name)]
        if changed:
            raise ValueError(
                f"The index {key!r} was made with {', '.join(f'{name}={stored.get(name)!r}' for name in changed)}: "
                f"call dataset.delete_brain_run({key!r}) first, or choose another brain_key"
            )

    def _resolve_location(self, samples, key):
        """Sets the location of a new index's vectors, before the configuration is stored with the run."""
        self.config.load_credentials()
        if self.config.uri is None:
            folder = os.path.join(fo.config.default_dataset_dir, BACKEND)
            self.config.uri = folder if self.config.store == "local" else "http://localhost:6333"
        if "://" not in self.config.uri:
            self.config.uri = os.path.abspath(os.path.expanduser(self.config.uri))
        if self.config.owner is None:
            self.config.owner = dataset_id(samples)

        name = self.config.index_name
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
            raise ValueError(
                f"index_name={name!r} is not allowed: expected letters, digits, '.', '-' and '_'. Pass the folder in "
                "which the index's folder is created as uri"
            )
        if name is None:
            # The same in all processes, so that those that make the same index share it. With the dataset's id, since
            # a name may be used again after its dataset was deleted.
            slug = fou.to_slug(samples._root_dataset.name)
            self.config.index_name = f"{slug}-{dataset_id(samples)}-{key or ObjectId()}"

        same, others = self._runs_of_name(samples, key)
        if same is not None:
            self._check_settings(key, same)
        elif name is None and (others or (os.path.isdir(self.config.uri) and self.config.open_store().size())):
            # A renamed run has this name, or a deleted one left its vectors.
            self.config.index_name += f"-{ObjectId()}"
        elif others:
            raise ValueError(
                f"index_name={name!r} in {self.config.uri} is used by the brain run {others[0][1]!r} of the dataset "
                f"{others[0][0]!r}: choose another index_name, since two indexes cannot share their vectors"
            )

    def _runs_of_name(self, samples, key):
        """Finds the runs whose vectors have the location of this index.

        Returns:
            a tuple of the settings of the run with this key, if another process registered it, or ``None``, and a list
            of the other runs, tuples of the dataset's name and the run's key
        """
        database = foo.get_db_conn()
        same, others = None, []
        location = {"config.index_name": self.config.index_name, "config.uri": self.config.uri}
        for run in database.runs.find(location):
            dataset = database.datasets.find_one({"_id": run["_dataset_id"]}, {"name": 1, "brain_methods": 1})
            for brain_key, run_id in (dataset or {}).get("brain_methods", {}).items():
                if run_id != run["_id"]:
                    continue
                if str(dataset["_id"]) == dataset_id(samples) and brain_key == key:
                    same = run["config"]
                else:
                    others.append((dataset["name"], brain_key))
        return same, others

    def _make_store(self):
        try:
            self.config.open_store().create()
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"uri={self.config.uri!r} cannot be written ({error}): pass uri=..., the path of a writable folder"
            ) from error

    def initialize(self, samples: SampleCollection, brain_key: str | None) -> LateInteractionSimilarityIndex:
        index = self.open_index(samples, brain_key)
        # FiftyOne would hold the embeddings of all samples in memory, 200 KB a page. It embeds nothing if the index has
        # pages, so they are added here. The view and its options are not passed on, and are read from FiftyOne's frame.
        if fiftyone_argument(_COMPUTE_SIMILARITY, "embeddings") is None:
            index._model = fiftyone_argument(_COMPUTE_SIMILARITY, "_model")
            names = ("batch_size", "num_workers", "skip_failures", "force_square", "alpha", "progress")
            options = {name: fiftyone_argument(_COMPUTE_SIMILARITY, name) for name in names}
            failed = index.add_samples(fiftyone_argument(_COMPUTE_SIMILARITY, "samples"), **options)
            if failed and not index.total_index_size:
                raise ValueError(f"None of {failed} images could be embedded: the warnings above say why")
        return index

    def open_index(self, samples: SampleCollection, brain_key: str | None) -> LateInteractionSimilarityIndex:
        """Opens the index, which is empty where it is new. Nothing is embedded."""
        if brain_key is None:
            self._resolve_location(samples, None)
            self._make_store()
        index = LateInteractionSimilarityIndex(samples, self.config, brain_key, backend=self)
        index._store.create()
        if brain_key is not None:
            # Saved now, so that an unfinished index can be searched if this process is killed.
            self.save_run_results(samples, brain_key, index)
        return index

    def cleanup(self, samples: SampleCollection, key: str) -> None:
        # Deleting the run of a clone keeps the vectors, which are the original's.
        if self.config.owner == dataset_id(samples):
            self.config.open_store().drop()


def prepare_index(samples: SampleCollection, brain_key: str, **settings: Any) -> LateInteractionSimilarityIndex:
    """Makes an index without pages, or opens one to continue it, without loading the model.

    FiftyOne's ``compute_similarity`` loads the model in any case, which other processes may be there for.

    Args:
        samples: a dataset or view
        brain_key: the brain key
        **settings: arguments of :class:`LateInteractionSimilarityConfig`. An index that exists keeps its own

    Returns:
        the :class:`LateInteractionSimilarityIndex`

    Raises:
        ValueError: if there is another run of this key, or an index with other settings
    """
    dataset = samples._root_dataset
    similarity = LateInteractionSimilarity(LateInteractionSimilarityConfig(**settings))
    similarity.ensure_usage_requirements()
    if brain_key in similarity.list_runs(dataset):
        stored = similarity.get_run_info(dataset, brain_key).config
        if isinstance(stored, LateInteractionSimilarityConfig):
            kept = {name: value for name, value in stored.serialize().items() if name in _ARGUMENTS}
            similarity = LateInteractionSimilarity(LateInteractionSimilarityConfig(**(kept | settings)))
    similarity.register_run(dataset, brain_key, overwrite=False)
    return similarity.open_index(dataset, brain_key)


def register_backend() -> None:
    """Registers the backend with FiftyOne Brain in this process."""
    settings = fob.brain_config.similarity_backends.setdefault(BACKEND, {})
    settings.setdefault("config_cls", f"{__name__}.{LateInteractionSimilarityConfig.__name__}")
