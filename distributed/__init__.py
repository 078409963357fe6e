"""Embeds a dataset on all GPUs of a machine or of a cluster, with Ray Data.

:func:`embed` is the one call, and ``python -m jina_embeddings_v4.distributed`` the same as a command. Ray plans, moves
and retries the work. What is here is what Ray cannot know: how an image is prepared, which process embeds it, and how
a block of vectors is committed, so that a block that runs twice counts once.
"""

from typing import TYPE_CHECKING, Any

from ..integration.optional import import_optional

if TYPE_CHECKING:
    from .embedding import embed, iter_embed
    from .report import Report

__all__ = ["Report", "embed", "iter_embed"]


def __getattr__(name: str) -> Any:
    # Not imported above: Ray's workers import this package before they know the address of FiftyOne's database, to
    # which FiftyOne connects when it is imported.
    if name in __all__:
        import_optional("pyarrow", "ray", "Embedding on Ray")
        from . import embedding

        return getattr(embedding, name)

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
