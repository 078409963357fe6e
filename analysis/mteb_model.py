"""The model for ``mteb`` (mteb 2, https://github.com/embeddings-benchmark/mteb): ViDoRe, Jina-VDR, CoIR...

    import mteb
    from jina_embeddings_v4.analysis.mteb_model import JinaV4Mteb

    model = JinaV4Mteb("jinaai/jina-embeddings-v4", late_interaction=True)
    mteb.evaluate(model, mteb.get_benchmark("ViDoRe(v2)").tasks, num_proc=4)

The adapter is chosen by the metadata of the mteb task, as in mteb's own definition of jina-embeddings-v4, so that
scores can be compared with published ones:

- ``"code"``, if its domains or languages are those of programming;
- ``"text-matching"``, if its type is ``STS`` or ``PairClassification``;
- ``"retrieval"`` otherwise.

Documents get the passage prefix, and all other texts the query prefix. mteb's definition gives the passage prefix only
to documents of the type ``Retrieval``. Both agree on documents that are images, which have no prefix.

A row with a text and an image, such as a page with its OCR, is embedded as both, as mteb does: as the sum of the two
single vectors, scaled to length 1, or as the rows of both multi-vectors. A row whose image cannot be read or whose text
is missing ends the evaluation with an error that names it, since scores without it would be wrong.

mteb caches results by name, revision and settings. So a checkpoint that is not from the hub has its folder's name, and
a revision that changes with its files and with those of an adapter of your own.

mteb is optional, and no other module imports it. This module uses the network only to download a named checkpoint that
is not in the cache.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..engine.arguments import check_choice
from ..engine.checkpoint import REPOSITORY, fingerprint
from ..engine.encoder import Encoder
from ..engine.image_files import ImageError
from ..engine.images import resize_image
from ..engine.pooling import unit
from ..engine.scoring import TokenSet, maxsim
from ..integration.optional import optional_imports

with optional_imports("mteb", "Evaluation by mteb"):
    import mteb
    from mteb.languages import PROGRAMMING_LANGS
    from mteb.models import ModelMeta, MultiVectorSearchEncoderWrapper
    from mteb.types import PromptType

if TYPE_CHECKING:
    from mteb.types import CorpusDatasetType

LICENCE = "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE"

# Single vectors or, with late interaction, a multi-vector per row.
Vectors = np.ndarray | torch.Tensor | Sequence[np.ndarray]

_TEXT_MATCHING = ("STS", "PairClassification")
_PADDED_TOKENS = 2**18  # document tokens, with padding, that are scored at a time: 128 MiB


def adapter_for(task_metadata: "mteb.TaskMetadata") -> str:
    """Chooses the adapter for an mteb task.

    Args:
        task_metadata: the task's :class:`mteb.TaskMetadata`

    Returns:
        ``"retrieval"``, ``"text-matching"`` or ``"code"``
    """
    if "Programming" in (task_metadata.domains or ()) or set(task_metadata.languages) & set(PROGRAMMING_LANGS):
        return "code"

    return "text-matching" if task_metadata.type in _TEXT_MATCHING else "retrieval"


class JinaV4Mteb(MultiVectorSearchEncoderWrapper):
    """An mteb model with single vectors or late interaction.

    Late interaction is for retrieval and reranking. Other tasks need vectors of one size, for which mteb's evaluators
    call :meth:`encode`.

    mteb's base class does the search. It embeds and scores documents in chunks, and keeps only the best of each query.
    For reranking, mteb holds the whole corpus in memory.

    Args:
        checkpoint ("jinaai/jina-embeddings-v4"): a local directory, ``"org/name"`` or ``"org/name@revision"``, or an
            :class:`engine.encoder.Encoder`
        late_interaction (False): whether to compare multi-vectors by MaxSim, instead of single vectors
        truncate_dim (None): one of the checkpoint's Matryoshka dimensions, for single vectors. ``None`` keeps all
        max_pixels (None): the area in pixels down to which larger images are resized. ``None`` means the checkpoint's
            own. mteb's definition of the model has 37788800, 63 times as much
        batch_size (128): the number of texts or images that are passed to the encoder at a time. The encoder forms its
            own batches by numbers of tokens. mteb's ``batch_size`` is that of its data loader
        corpus_chunk_size (None): the number of documents whose embeddings are in memory at a time. ``None`` means 1000
            with late interaction, at 400 KB a page by default, and 50000 otherwise
        tasks (None): a dict that maps names or types of mteb tasks to adapters, before :func:`adapter_for`
        **kwargs: ``device``, ``precision`` and ``adapter`` of :class:`engine.encoder.Encoder`

    Raises:
        engine.checkpoint.CheckpointError: if the checkpoint cannot be found or downloaded, or is damaged
        ValueError: if an argument is not allowed
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | Encoder = REPOSITORY,
        *,
        late_interaction: bool = False,
        truncate_dim: int | None = None,
        max_pixels: int | None = None,
        batch_size: int = 128,
        corpus_chunk_size: int | None = None,
        tasks: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(checkpoint, Encoder) and kwargs:
            raise ValueError(f"{', '.join(kwargs)}: an Encoder has its own, so pass a checkpoint's name")
        if late_interaction and truncate_dim is not None:
            raise ValueError(f"truncate_dim={truncate_dim!r} is for single vectors, not for late interaction")

        self.encoder = checkpoint if isinstance(checkpoint, Encoder) else Encoder.from_checkpoint(checkpoint, **kwargs)
        self.encoder.check_truncate_dim(truncate_dim)
        self.encoder.processor.image_settings.check_max_pixels(max_pixels)
        self.tasks = dict(tasks or {})
        for name, task in self.tasks.items():
            check_choice(f"the adapter of {name!r}", task, self.encoder.tasks)

        self.late_interaction, self.truncate_dim, self.max_pixels = late_interaction, truncate_dim, max_pixels
        self.batch_size = batch_size
        self.corpus_chunk_size = corpus_chunk_size or (1000 if late_interaction else 50_000)
        self.mteb_model_meta = self._meta()

    def index(self, corpus: "CorpusDatasetType", *, task_metadata: "mteb.TaskMetadata", **kwargs: Any) -> None:
        """Sets the corpus to search, as mteb's class does.

        Raises:
            ValueError: if a document's text is missing, naming it. mteb's own error does not name it
        """
        if "text" in task_metadata.get_modalities(PromptType.document):
            for i, (row_id, text) in enumerate(zip(corpus["id"], corpus["text"], strict=True)):
                if text is None:
                    raise ValueError(f"{task_metadata.name}, document, {_row_name(i, row_id)} has no text")

        super().index(corpus, task_metadata=task_metadata, **kwargs)

    def encode(
        self, inputs: torch.utils.data.DataLoader, *, task_metadata: "mteb.TaskMetadata", **kwargs: Any
    ) -> np.ndarray:
        """Encodes the rows of a task as single vectors.

        Args:
            inputs: mteb's data loader, whose batches are dicts with lists ``text``, ``image`` or both
            task_metadata: the task's :class:`mteb.TaskMetadata`
            **kwargs: ``hf_split`` and ``hf_subset``, for messages, ``prompt_type``, an
                :class:`mteb.types.PromptType` or ``None``, and ``show_progress_bar``. mteb's other ones are ignored

        Returns:
            a float32 array ``(rows, dim)``, rows of length 1

        Raises:
            TypeError: if the model uses late interaction
            ValueError: if a row has no text or image, or one that cannot be read, naming it
        """
        if self.late_interaction:
            raise TypeError(
                f"{task_metadata.name}, of type {task_metadata.type}, needs vectors of one size, and multi-vectors "
                "differ in size: use JinaV4Mteb(..., late_interaction=False)"
            )

        return np.stack(self._encode(inputs, task_metadata=task_metadata, **kwargs))

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> torch.Tensor:
        """Scores all queries against all documents.

        Args:
            embeddings1: the queries' single vectors, ``(N, dim)`` or one ``(dim,)``, or with late interaction N arrays
                ``(tokens_i, 128)``
            embeddings2: the same of M documents

        Returns:
            a float32 tensor ``(N, M)`` of cosines or, with late interaction, of MaxSim, the sum of the cosines of a
            query's tokens with their best matches. It is the sum in mteb's definition, too, and some of mteb's metrics
            compare scores between queries
        """
        if not self.late_interaction:
            return _rows_of(embeddings1) @ _rows_of(embeddings2).T

        queries = TokenSet(list(embeddings1), self.encoder.device)
        lengths = [len(document) for document in embeddings2]
        scores = torch.empty(len(queries), len(lengths))
        for group in _groups(lengths):
            scores[:, group] = maxsim([embeddings2[i] for i in group], queries, normalize=False).T.cpu()
        return scores

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> torch.Tensor:
        """Scores each query against the document of the same index, as in :meth:`similarity`.

        Returns:
            a float32 tensor ``(N,)``
        """
        if not self.late_interaction:
            return (_rows_of(embeddings1) * _rows_of(embeddings2)).sum(dim=-1)

        pairs = zip(embeddings1, embeddings2, strict=True)
        return torch.cat([self.similarity([query], [document])[0] for query, document in pairs])

    def _encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        """Encodes the rows of a task. mteb's search calls this.

        Returns:
            a list of float32 arrays, ``(dim,)`` or ``(tokens_i, 128)``
        """
        chosen = self.tasks.get(task_metadata.name, self.tasks.get(task_metadata.type))
        task = chosen or adapter_for(task_metadata)
        prompt_name = "passage" if prompt_type == PromptType.document else "query"
        name = f"{task_metadata.name} ({hf_subset}, {hf_split}{f', {prompt_type.value}' if prompt_type else ''})"
        vectors, rows = [], []
        for row in _rows(inputs, name, kwargs.get("show_progress_bar", True)):
            rows.append(self._prepare(*row))
            if len(rows) == self.batch_size:
                vectors += self._embed(rows, task, prompt_name)
                rows = []
        return vectors + self._embed(rows, task, prompt_name)

    def _prepare(self, name, text, image):
        """Checks a row, and resizes its image, so that a batch takes less memory."""
        if text is None and image is None:
            raise ValueError(f"{name} has neither a text nor an image")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{name} has a text that is a {type(text).__name__}, not a string")
        try:
            settings = self.encoder.processor.image_settings
            return text, None if image is None else resize_image(image, settings, self.max_pixels)
        except ImageError as error:
            raise ImageError(f"{name} has an image that cannot be embedded: {error}") from error

    def _embed(self, rows, task, prompt_name):
        """Embeds rows, tuples of a text and an image, of which one may be ``None``."""
        parts = [[] for _ in rows]
        texts, images = ({i: row[column] for i, row in enumerate(rows) if row[column] is not None} for column in (0, 1))
        settings = {"task": task, "truncate_dim": self.truncate_dim}
        for inputs, encode in (
            (texts, lambda texts: self.encoder.encode_texts(texts, prompt_name=prompt_name, **settings)),
            (images, lambda images: self.encoder.encode_images(images, **settings)),
        ):
            if inputs:
                embeddings = encode(list(inputs.values()))
                vectors = embeddings.multi if self.late_interaction else embeddings.single
                for i, vector in zip(inputs, vectors, strict=True):
                    parts[i].append(vector)

        if self.late_interaction:
            return [np.concatenate(part) for part in parts]

        return [part[0] if len(part) == 1 else unit(sum(part)) for part in parts]

    def _meta(self):
        encoder = self.encoder
        name, revision = _identity(Path(encoder.directory).absolute())
        licence = LICENCE if name == REPOSITORY else None
        # mteb's metadata of jina-embeddings-v4, such as its training data, does not hold for other weights.
        known = ModelMeta.create_empty()
        if encoder.adapter is not None:
            revision += f"+{Path(encoder.adapter).name}-{fingerprint(encoder.adapter)}"
        elif name == REPOSITORY:
            known = mteb.get_model_meta(REPOSITORY)

        # mteb stores scores per experiment, which these settings identify if they differ from the defaults.
        settings = {
            "late_interaction": self.late_interaction or None,
            "truncate_dim": self.truncate_dim,
            "max_pixels": self.max_pixels,
            "tasks": self.tasks or None,
            # bfloat16 on a GPU and float32 on a CPU are defaults.
            "precision": {torch.int8: "int8", torch.float16: "float16"}.get(encoder.dtype),
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        single_dim = self.truncate_dim or encoder.backbone.hidden_size
        fields = {
            "loader": _load,
            "loader_kwargs": {"checkpoint": str(encoder.directory), "adapter": encoder.adapter},
            "name": name,
            "revision": revision,
            "embed_dim": encoder.multi_vector_dim if self.late_interaction else single_dim,
            "license": licence,
            "framework": ["PyTorch", "Transformers", "safetensors"],
            "similarity_fn_name": "MaxSim" if self.late_interaction else "cosine",
            "model_type": ["late-interaction" if self.late_interaction else "dense"],
            "modalities": ["image", "text"],
            "use_instructions": True,
            "experiment_kwargs": settings or None,
            "output_dtypes": None,
            "extra_requirements_groups": None,
        }
        return ModelMeta(**(dict(known) | fields))


def _load(name, revision=None, checkpoint=None, embed_dim=None, **kwargs):
    """Loads the model by its :class:`mteb.models.ModelMeta`. mteb calls this."""
    if embed_dim is not None and not kwargs.get("late_interaction"):
        kwargs["truncate_dim"] = embed_dim
    return JinaV4Mteb(checkpoint or f"{name}@{revision}", **kwargs)


def _identity(directory):
    """Returns the name and the revision under which mteb stores a checkpoint's results."""
    repository, _, commit = directory.parts[-3:]
    if repository.startswith("models--"):  # the Hugging Face cache
        return repository.removeprefix("models--").replace("--", "/", 1), commit

    return f"local/{directory.name}", fingerprint(directory)


def _rows(inputs, name, progress):
    """Yields the name of each row, for messages, its text and its image."""
    batches, start = iter(tqdm(inputs, desc=name, disable=not progress)), 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            # The data loader decodes images and builds texts, and its errors do not name the row.
            row = _faulty_row(inputs, start)
            raise ValueError(f"{name}, {row} cannot be read: {type(error).__name__}: {error}") from error
        if batch is None:
            return

        count = len(batch.get("text", batch.get("image", ())))
        texts, images, ids = (batch.get(column, [None] * count) for column in ("text", "image", "id"))
        for i, columns in enumerate(zip(texts, images, ids, strict=True), start):
            yield f"{name}, {_row_name(i, columns[2])}", *columns[:2]
        start += count


def _faulty_row(inputs, start):
    """Returns the name of the row at which a data loader failed, found by reading the rows of its batch."""
    dataset, stop = inputs.dataset, start + inputs.batch_size
    for i in range(start, min(stop, len(dataset))):
        try:
            row = dataset[i]
            if all(value is not None for column, value in row.items() if column != "image"):
                continue
        # The caller reports the error.
        except Exception:
            pass
        has_ids = "id" in getattr(dataset, "column_names", ())
        return _row_name(i, dataset.select_columns("id")[i]["id"] if has_ids else None)

    return f"one of the rows {start} to {stop - 1}"


def _row_name(i, row_id):
    return f"row {i}" if row_id is None else f"row {i} (id {row_id!r})"


def _groups(lengths):
    """Yields lists of indexes of documents to score together, which are of similar lengths to save padding."""
    group = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[i] > _PADDED_TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _rows_of(vectors):
    vectors = np.stack(vectors) if isinstance(vectors, list) else vectors
    return torch.atleast_2d(torch.as_tensor(vectors).float())
