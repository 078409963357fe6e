"""Optional packages: their requirements, and the error where one is missing."""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

# The requirement of each extra, as in pyproject.toml, which the model zoo's copy of this repository cannot ask pip for.
REQUIREMENTS = {
    "pdf": "pypdfium2>=4.30,<6",
    "binary": "numba>=0.61",
    "qdrant": "qdrant-client>=1.16,<2",
    "retrieval": "ranx>=0.3.21",
    "mteb": "mteb>=2.26,<3",
    "umap": "umap-learn>=0.5.7",
    "ray": "ray[data]>=2.60,<3",
}


@contextlib.contextmanager
def optional_imports(extra: str, purpose: str) -> Iterator[None]:
    """Makes an ``ImportError`` say how to install the optional package that is imported within.

    Args:
        extra: the extra of this package that brings it, a key of ``REQUIREMENTS``
        purpose: what needs it, the subject of the message

    Raises:
        ImportError: if an import within fails, because the package is missing or too old
    """
    try:
        yield
    except ImportError as error:
        requirement = REQUIREMENTS[extra]
        raise ImportError(
            f"{purpose} needs {requirement}, which cannot be imported ({error}): pip install '{requirement}', or "
            f"install this package with its extra, 'jina-embeddings-v4-fiftyone[{extra}]'",
            name=error.name,
        ) from error


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: the module's name
        extra: see :func:`optional_imports`
        purpose: see :func:`optional_imports`

    Returns:
        the module

    Raises:
        ImportError: if it is missing or too old
    """
    with optional_imports(extra, purpose):
        return importlib.import_module(module)
