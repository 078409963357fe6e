"""Opens safetensors files, and checks the shapes of their tensors before the tensors are read."""

import os
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .checkpoint import CheckpointError

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

Shape = tuple[int, ...]

# The types that weights may be stored in. Quantised integers would be loaded as if they were the weights.
_DTYPES = ("F64", "F32", "F16", "BF16")


def open_safetensors(path: str | os.PathLike, device: str = "cpu") -> "safe_open":
    """Opens a safetensors file, and checks its length against its header.

    Args:
        path: the file
        device ("cpu"): the device to read its tensors to

    Returns:
        an open :class:`safetensors.safe_open`, for a ``with`` statement

    Raises:
        CheckpointError: if the file is truncated or not a safetensors file
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}). Delete it and download it again"
        ) from error


class OpenFile:
    """A safetensors file that stays open, so that its tensors can be read later.

    A file that was deleted, or replaced by another of its name, is still readable. One that was written to is not
    what was checked: :meth:`check` finds that by its size and time.

    Args:
        path: the file

    Raises:
        CheckpointError: if the file is truncated or not a safetensors file
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        # Whether a tensor that was read is a view of the file, and so changes with it.
        self.is_mapped = False
        self._tensors = open_safetensors(path)
        # The mapping of the file does not tell its size and time, which its descriptor does.
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._version = self._read_version()

    def _read_version(self):
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    @property
    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        return self._read_version() != self._version

    def check(self) -> None:
        """Raises a :class:`CheckpointError` if the file was written to since it was opened."""
        if self.changed:
            raise CheckpointError(
                f"{self.path} was written to after the model was loaded from it: load the model again. To change a "
                "checkpoint that is in use, write a new file and rename it to the old one's name"
            )

    def slice(self, name: str) -> Any:
        """Returns a tensor that is read where it is indexed."""
        return self._tensors.get_slice(name)

    def read(self, name: str, device: "torch.device", dtype: "torch.dtype", copy: bool = False) -> "torch.Tensor":
        """Reads a tensor.

        Args:
            name: its name
            device: the :class:`torch.device` to read it to
            dtype: the :class:`torch.dtype` to convert it to
            copy (False): whether to copy it in any case

        Returns:
            the tensor. On the CPU, without ``copy``, one that needs no conversion is a view of the file, which is
            mapped into memory

        Raises:
            CheckpointError: if the file was written to since it was opened
        """
        self.check()
        stored = self._tensors.get_tensor(name)
        tensor = stored.to(device, dtype, copy=copy)
        self.is_mapped = self.is_mapped or tensor is stored
        return tensor


def read_shapes(path: str | os.PathLike) -> dict[str, Shape]:
    """Reads the names and shapes of a safetensors file's tensors, without reading the tensors.

    Args:
        path: the file

    Returns:
        a dict that maps tensor names to shape tuples

    Raises:
        CheckpointError: if the file is truncated or not a safetensors file, or a tensor does not hold floats
    """
    shapes = {}
    with open_safetensors(path) as tensors:
        for key in tensors.keys():
            tensor = tensors.get_slice(key)
            if tensor.get_dtype() not in _DTYPES:
                raise CheckpointError(
                    f"{path} holds {key!r} as {tensor.get_dtype()}, expected one of {', '.join(_DTYPES)}: it is "
                    "quantised or damaged. Use the checkpoint as its authors published it"
                )
            shapes[key] = tuple(tensor.get_shape())
    return shapes


def check_shapes(
    found: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    source: str | os.PathLike | Callable[[str], str | os.PathLike],
) -> None:
    """Checks that one or more files hold exactly the tensors that a module needs.

    Args:
        found: the stored tensors' shapes by name
        expected: the needed tensors' shapes by name
        source: the file of ``found``, for the message: a path, or a function from a tensor's name to a path

    Raises:
        CheckpointError: naming the file and the first tensor that is missing, unknown or of another shape
    """
    where = source if callable(source) else lambda key: source
    for key, shape in expected.items():
        if key not in found:
            raise CheckpointError(
                f"{where(key)} lacks the tensor {key!r} of shape {shape}: the checkpoint is incomplete"
            )
        if found[key] != shape:
            raise CheckpointError(
                f"{where(key)} holds {key!r} in shape {found[key]}, but the network that config.json describes needs "
                f"{shape}: the files do not belong together"
            )

    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise CheckpointError(
            f"{where(unknown[0])} holds {len(unknown)} tensors that the model does not have, {unknown[0]!r} first: "
            "the checkpoint and its config.json do not belong together"
        )
