"""Embeds a FiftyOne dataset on all GPUs of a machine or of a cluster.

    python -m jina_embeddings_v4.distributed scans --field jina
    python -m jina_embeddings_v4.distributed scans --index pages --address auto

Killed, the same command goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from ..engine.checkpoint import REPOSITORY


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments (None): its arguments, by default those of the process

    Returns:
        its exit code: 0 where every image has its vectors
    """
    parser = argparse.ArgumentParser(
        prog="python -m jina_embeddings_v4.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="the dataset's name")
    parser.add_argument("--view", help="the name of a saved view of it")
    parser.add_argument("--model", default=REPOSITORY, help="the model's name in the zoo (%(default)s)")
    parser.add_argument("--field", help="the field to write single vectors to")
    parser.add_argument("--index", metavar="KEY", help="the brain key of a late-interaction index, made or continued")
    parser.add_argument(
        "--task", nargs=2, action="append", default=[], metavar=("TASK", "FIELD"), help="a further field for a task"
    )
    parser.add_argument(
        "--model-kwargs", type=json.loads, default={}, metavar="JSON", help='eg \'{"precision": "bfloat16"}\''
    )
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        metavar="JSON",
        help='the index\'s settings, eg \'{"dtype": "int8"}\'',
    )
    parser.add_argument("--address", help="a Ray cluster's address; auto for one that runs on this machine")
    parser.add_argument("--workers", type=int, help="the number of processes that hold the model; one a GPU")
    given = parser.parse_args(arguments)

    import fiftyone as fo

    from . import embed

    samples = fo.load_dataset(given.dataset)
    report = embed(
        samples if given.view is None else samples.load_saved_view(given.view),
        given.model,
        given.field,
        given.index,
        dict(given.task),
        given.model_kwargs or None,
        given.address,
        given.workers,
        progress=True,
        **given.settings,
    )
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
