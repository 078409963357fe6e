"""The connection to Ray, and how many processes of which size embed there."""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ..integration.optional import import_optional
from ..integration.seams import PACKAGE, source_folder


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes that embed.

    Args:
        count: how many there are
        num_gpus: the share of a GPU that each has, 0 for none
        threads: the CPU threads of the model in each, ``None`` on a GPU
    """

    count: int
    num_gpus: float
    threads: int | None

    def describe(self) -> str:
        """Names them for a message, eg ``"2 GPUs"``."""
        if self.threads is None:
            gpus = self.count * self.num_gpus
            share = "" if self.num_gpus == 1 else f"{self.count} processes on "
            return f"{share}{gpus:.0f} {'GPU' if round(gpus) == 1 else 'GPUs'}"

        processes = "process" if self.count == 1 else "processes"
        return f"{self.count} {processes} of {self.threads} CPU {'thread' if self.threads == 1 else 'threads'}"


def find_ray(address: str | None) -> ModuleType:
    """Imports Ray, and checks an address for :func:`connected`.

    Raises:
        ImportError: if Ray is not installed
        ValueError: if the address is one of Ray's clients
    """
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"address={address!r} is for Ray's client, which Ray Data does not support: run this on a machine of the "
            "cluster with address='auto', for instance by `ray job submit`"
        )
    ray = import_optional("ray", "ray", "Embedding on Ray")
    import_optional("ray.data", "ray", "Embedding on Ray")
    return ray


@contextlib.contextmanager
def connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connects to Ray, or starts it on this machine, as a context. Ray is stopped at the end if it was started here.

    Args:
        ray: the module
        address: the address of a cluster, ``"auto"`` for one that runs on this machine, ``"local"`` for a new one, or
            ``None`` for one that runs on this machine or else a new one

    Raises:
        ConnectionError: if there is no cluster at the address
    """
    if ray.is_initialized():
        yield
        return

    # Unless the person has decided.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address=address, logging_level=logging.WARNING)
    for handler in logging.getLogger("ray.data").handlers:
        # Of its plans, which it keeps in a file, too.
        # Ray's own: others may have added theirs.
        if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def plan_workers(ray: ModuleType, on_cpu: bool, workers: int | None) -> Workers:
    """Decides which processes embed, from what the cluster has.

    Args:
        ray: the module, connected
        on_cpu: whether the model shall run on the CPU even where there are GPUs
        workers: the number of processes, by default one a GPU, or one a machine where there is none

    Returns:
        the :class:`Workers`
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = 0 if on_cpu else sum(node.get("GPU", 0) for node in nodes)
    if gpus:
        count = workers or int(gpus)
        # Rounded down to four digits, which is what Ray reckons with.
        share = 1.0 if count <= gpus else int(gpus / count * 10_000) / 10_000
        return Workers(count, share, None)

    count = workers or len(nodes)
    on_each = -(-count // len(nodes))
    return Workers(count, 0, max(1, int(min(node["CPU"] for node in nodes)) // on_each))


def is_one_machine(ray: ModuleType) -> bool:
    """Returns whether all of a cluster is on one machine."""
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}) == 1


def importable() -> dict[str, Any]:
    """Returns the options with which Ray's processes find this package, which the model zoo does not install."""
    if any(finder.find_spec(PACKAGE, None) is not None for finder in sys.meta_path):
        return {}

    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), source_folder()]))
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
