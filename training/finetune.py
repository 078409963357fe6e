"""The former place of :mod:`finetuning.finetune`."""

import warnings

from ..finetuning.finetune import finetune

__all__ = ["finetune"]

warnings.warn(
    "jina_embeddings_v4.training.finetune is jina_embeddings_v4.finetuning.finetune now: import it from there",
    DeprecationWarning,
    stacklevel=2,
)
