"""Workarounds for what FiftyOne has no interface for. Each says what FiftyOne would have to offer for it to go."""

import os
import sys
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np

# The package's name, by which a stored index finds its class.
PACKAGE = "jina_embeddings_v4"

# The folder that the source lies in.
_SOURCE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# The frames of FiftyOne's calls. FiftyOne tells a model neither whether failures are to be skipped nor whether its
# embeddings go to a field or into memory, and tells a download nothing at all. The answers decide what an unreadable
# image must become: an error, an empty field, or a ``None`` in a list. To go, once FiftyOne hands the arguments of
# ``compute_embeddings``, ``apply_model`` and ``load_zoo_model`` to the model and to ``download_model``.

LOAD_ZOO_MODEL = ("fiftyone.zoo.models.load_zoo_model",)
APPLY_MODEL = ("fiftyone.core.models.apply_model",)
COMPUTE_PATCH_EMBEDDINGS = ("fiftyone.core.models.compute_patch_embeddings",)
COMPUTE_EMBEDDINGS = ("fiftyone.core.models.compute_embeddings", *COMPUTE_PATCH_EMBEDDINGS)
# Crops patches.
READ_PATCHES = ("fiftyone.utils.torch.TorchImagePatchesDataset.__getitem__",)


def fiftyone_argument(functions: Sequence[str], name: str, default: Any = None) -> Any:
    """Looks up a variable of the innermost of some functions that is running.

    Args:
        functions: functions such as :data:`APPLY_MODEL`, all of which have the variable
        name: the variable
        default (None): what to return where none of the functions is running, as when a model's method is called
            directly, or the variable has no value yet

    Returns:
        the variable's value

    Raises:
        RuntimeError: if a function has no such variable, as in a version of FiftyOne that is not known here
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        function = f"{frame.f_globals.get('__name__')}.{code.co_qualname}"
        if function in functions:
            if name not in code.co_varnames + code.co_cellvars + code.co_freevars:
                import fiftyone

                raise RuntimeError(
                    f"FiftyOne {fiftyone.__version__} has no {name!r} in {function}(), from which this model learns "
                    "what it was asked to do: install a version that docs/tested_versions.md names"
                )
            return frame.f_locals.get(name, default)

        frame = frame.f_back

    return default


# Videos. ``compute_embeddings`` sets a model's ``mode`` to the media type of the samples, ``apply_model`` does not, and
# neither regards that a field begins with "frames.". To go, once both tell the model whether they want labels of videos
# or of frames.


def media_of_call() -> str | None:
    """Returns what the running FiftyOne call asks of a video dataset.

    Returns:
        ``"video"``, or ``"image"`` where the field is one of the frames; ``None`` where no call on videos is running
    """
    whole, of_frames = COMPUTE_EMBEDDINGS[:1], False
    samples = fiftyone_argument((*APPLY_MODEL, *whole), "samples")
    if samples is None or samples.media_type != "video":
        return None

    field = fiftyone_argument(APPLY_MODEL, "label_field")
    if field is None:
        field = fiftyone_argument(whole, "embeddings_field")
        # Which FiftyOne strips of its "frames.".
        of_frames = fiftyone_argument(whole, "_is_frame_field", default=False)
    return "image" if of_frames or str(field).startswith("frames.") else "video"


# ``sys.path``. A source of the model zoo is imported by its path. A data loader's worker that is spawned, rather than
# forked, imports what it is sent by name, along the path that it inherits: while workers start, the source's folder is
# on it. To go, once FiftyOne puts the folder of its sources on the path itself.


def extend_path() -> None:
    """Puts the source's folder on the path, until :func:`restore_path`."""
    sys.path.append(_SOURCE_FOLDER)


def source_folder() -> str:
    """Returns the folder that the source lies in."""
    return _SOURCE_FOLDER


def restore_path() -> None:
    """Undoes :func:`extend_path`."""
    if _SOURCE_FOLDER in sys.path:
        # The last of them, since a person may have it there, too.
        del sys.path[-1 - sys.path[::-1].index(_SOURCE_FOLDER)]


# ``sys.modules``. FiftyOne imports plugins by a name that it makes up, and a stored index finds its class by the
# package's. To go, once FiftyOne resolves the class of a run through the plugin that made it.


def be_the_package(module_name: str) -> None:
    """Lets a module be found by the package's name, unless the package is installed.

    Args:
        module_name: the name by which FiftyOne imported it
    """
    import importlib.util

    if importlib.util.find_spec(PACKAGE) is None:
        sys.modules[PACKAGE] = sys.modules[module_name]


# The cache of loaded models. It hands one instance to all who load the same name: what a person sets on a loaded model
# would change the queries of a similarity index that was made by that name. To go, once FiftyOne caches models by
# their arguments for its own calls alone. A model that is not cached costs little, since all share their weights.


def keep_out_of_model_cache(model_class: type) -> None:
    """Keeps the instances of a class out of FiftyOne's cache of loaded models.

    Args:
        model_class: the class, which gets the attribute ``is_cached_by_fiftyone``
    """
    import fiftyone.zoo.models as fozm

    model_class.is_cached_by_fiftyone = False  # type: ignore[attr-defined]
    # This module is executed again each time that FiftyOne loads the source.
    if type(fozm._MODELS).__name__ != _ModelCache.__name__:
        fozm._MODELS = _ModelCache(fozm._MODELS)


class _ModelCache(weakref.WeakValueDictionary):
    def __setitem__(self, key, model):
        if getattr(model, "is_cached_by_fiftyone", True):
            super().__setitem__(key, model)


# How FiftyOne puts embeddings together: by ``np.stack``, ``np.concatenate`` and ``torch.stack``, which take no
# ``None``. To go, once it takes a ``None`` for an image or a patch that failed, and patches of different sizes.


class StackablePatch:
    """A patch of any size. FiftyOne stacks a sample's patches with ``torch.stack``, which makes a list of these."""

    def __init__(self, image):
        self.image = image

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import torch

        from ..engine.image_batch import ImageBatch

        if function is torch.stack:
            return ImageBatch(patch.image for patch in args[0])

        return NotImplemented


class EmbeddingRows(list):
    """The embeddings of a batch in which an image failed: a vector per image, ``None`` or ``MISSING`` for that one.

    FiftyOne concatenates the batches of a sample's patches, which joins lists of these into one.
    """

    def __array_function__(self, function, types, args, kwargs):
        if function is np.concatenate:
            return [None if row is MISSING else row for batch in args[0] for row in batch]

        return NotImplemented


class _Missing:
    """The embedding of an image that failed, where FiftyOne puts embeddings together.

    FiftyOne stacks the embeddings of images. With this among them, that gives the list that it documents for
    collections with failures: a vector or ``None`` per image. It concatenates the batches of a sample's patches. With
    this for one of them, that gives the ``None`` that it documents for samples with failures.
    """

    def __array_function__(self, function, types, args, kwargs):
        if function is np.stack:
            return [None if row is self else row for row in args[0]]
        if function is np.concatenate:
            return None

        return NotImplemented

    def __getitem__(self, index):
        return self  # where a patch is embedded alone


MISSING = _Missing()


class StackedRow(np.ndarray):
    """An embedding that stands beside ``None`` where others failed.

    FiftyOne stacks the embeddings of images. With this among them, that gives the list that it documents for
    collections with failures: a vector or ``None`` per image. In all else it is an array like any other.
    """

    @classmethod
    def of(cls, vector: np.ndarray) -> "StackedRow":
        return vector.view(cls)

    def __array_function__(self, function, types, args, kwargs):
        if function is np.stack:
            rows = [np.asarray(row) if isinstance(row, np.ndarray) else None for row in args[0]]
            return rows if any(row is None for row in rows) else np.stack(rows, *args[1:], **kwargs)

        return super().__array_function__(function, types, args, kwargs)
