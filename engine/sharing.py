"""Shares one backbone per checkpoint, device and precision among all encoders of a process."""

import os
import threading
import weakref
from pathlib import Path

import torch

from .adapter_files import AdapterFile, adapter_tasks, delete_adapters
from .backbone import Backbone
from .checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .loading import load_backbone

_SHARED: weakref.WeakValueDictionary[tuple[str, str, torch.dtype], Backbone] = weakref.WeakValueDictionary()
_SHARED_LOCK = threading.Lock()


def shared_backbone(directory: str | os.PathLike, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Returns the process's shared copy of a checkpoint on a device. Loads it if there is none.

    The copy is freed when its last user is. One whose files were written to is of no use, and replaced.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`

    Returns:
        a :class:`Backbone`
    """
    key = (str(Path(directory).resolve()), str(device), dtype)
    with _SHARED_LOCK:
        backbone = _SHARED.get(key)
        if backbone is None or backbone.weights.changed:
            backbone = _SHARED[key] = load_backbone(directory, device, dtype)

        return backbone


def shared_adapters(backbone: Backbone, directory: str | os.PathLike) -> "AdapterNames":
    """Adds a user's adapters to a backbone, unless it has them already.

    The base weights are not copied. A file that has changed since is loaded again. Adapters that are no longer
    referenced are deleted.

    Args:
        backbone: a :class:`Backbone`
        directory: the directory of ``adapter_config.json`` and ``adapter_model.safetensors``

    Returns:
        the :class:`AdapterNames`. The backbone keeps the adapters as long as this object is referenced

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or of the wrong shape
    """
    files = [(Path(directory) / name).resolve() for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
    key = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    with backbone.lock:
        for unused in [added for added, (holder, _) in backbone.added_adapters.items() if holder() is None]:
            delete_adapters(backbone.network, backbone.added_adapters.pop(unused)[1])

        if key in backbone.added_adapters:
            names = backbone.added_adapters[key][0]()
            if names is not None:
                return names

        prefix = f"added{next(backbone.adapter_numbers)}-"
        names = AdapterNames({task: prefix + task for task in adapter_tasks(directory)})
        file = AdapterFile(directory, backbone.towers, names)
        try:
            # At once: while the model is in use, a person may train them further, into the same files.
            for task, name in names.items():
                backbone.network = file.add(backbone.network, task, name)
        except BaseException:
            delete_adapters(backbone.network, names.values())
            raise

        backbone.added_adapters[key] = weakref.ref(names), tuple(names.values())
        return names


class AdapterNames(dict[str, str]):
    """The names of adapters in a backbone, by task. Unlike a dict, it can be weakly referenced."""
