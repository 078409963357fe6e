"""Reads the command line of ``jina-fiftyone``, and runs its commands."""

import argparse
import atexit
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.checkpoint import REPOSITORY
from ..late_interaction.words import MODES
from .private_fiftyone import private_fiftyone

# The folder of the FiftyOne that the commands use by default.
HOME = "JINA_FIFTYONE_HOME"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments (None): its arguments, by default those of the process

    Returns:
        its exit code
    """
    options = _parser().parse_args(arguments)
    command = options.run
    try:
        if command is doctor:
            return command(options)

        if not options.fiftyone:
            _use_private_fiftyone(options.home)
        # The standard output is for results alone. FiftyOne writes its log and its progress there.
        options.out = sys.stdout
        with contextlib.redirect_stdout(_StandardError()):
            return command(options)
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def index(options: argparse.Namespace) -> int:
    """Reads and indexes a folder's documents."""
    from .documents import index_folder

    return index_folder(options)


def search(options: argparse.Namespace) -> int:
    """Finds pages of an indexed folder."""
    from .documents import search_folder

    return search_folder(options)


def finetune(options: argparse.Namespace) -> int:
    """Trains an adapter on queries and the pages that should be found by them."""
    from .pairs import finetune_on_pairs

    return finetune_on_pairs(options)


def doctor(options: argparse.Namespace) -> int:
    """Says what there is on this machine, and whether it computes right."""
    from .doctor import examine

    return examine(options)


class _StandardError(io.TextIOBase):
    """Writes to the standard error. FiftyOne's progress bars fail where the two standard streams are one object."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def _use_private_fiftyone(home):
    # FiftyOne talks to its database until the process ends. Exit handlers run last in, first out.
    running = contextlib.ExitStack()
    os.environ |= running.enter_context(private_fiftyone(home))
    atexit.register(running.close)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _parser():
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="jina-fiftyone",
        description="Finds the pages of PDFs and images that answer a question, with Jina Embeddings v4 in FiftyOne.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run, text):
        name, description = run.__name__, run.__doc__
        command = commands.add_parser(name, help=text, description=description, formatter_class=formatter)
        command.set_defaults(run=run)
        return command

    def add_folder(command):
        command.add_argument("folder", help="the folder of PDFs and images, which may have subfolders")
        command.add_argument("--dataset", help="the FiftyOne dataset's name; by default the folder's")
        command.add_argument(
            "--fiftyone", action="store_true", help="use your own FiftyOne's database, in place of one that is apart"
        )
        default = os.environ.get(HOME, str(Path.home() / ".jina-fiftyone"))
        command.add_argument("--home", default=default, help=f"where the database that is apart lies; or set {HOME}")

    command = add(index, "read and embed what is new in a folder")
    add_folder(command)
    command.add_argument("--model", default=REPOSITORY, help="the model's name in FiftyOne's model zoo")
    command.add_argument("--adapter", help="the directory of an adapter of your own")
    command.add_argument("--precision", help="of the model; by default what suits the processor")
    command.add_argument("--device", help="cuda, cuda:1, mps or cpu; by default the first that there is")
    command.add_argument("--batch-size", type=int, default=8, help="how many pages to embed at a time")
    command.add_argument("--pixels", type=int, default=4 * 602_112, help="the area to which pages of PDFs are rendered")
    command.add_argument("--pages-dir", help="the folder below which rendered pages are kept")
    command.add_argument("--prune", action="store_true", help="remove the pages of documents that are gone")

    command = add(search, "find the pages that answer a query")
    add_folder(command)
    command.add_argument("query", help="what to look for")
    command.add_argument(
        "--mode",
        choices=MODES,
        default="hybrid",
        help="search by the pages' vectors, by the words of their text layer, which needs no model, or by both",
    )
    command.add_argument("-k", type=int, default=10, help="how many pages to find")
    command.add_argument("--open", action="store_true", help="show them in the FiftyOne App, with where they matched")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print the pages as CSV")
    form.add_argument("--json", action="store_true", help="print the pages as JSON")

    command = add(finetune, "train an adapter on queries of your own")
    add_folder(command)
    command.add_argument("queries", help="a CSV file with the columns document, page and query")
    command.add_argument("output", help="the directory to write the adapter to")
    command.add_argument("--checkpoint", default=REPOSITORY, help="the checkpoint to start from")
    command.add_argument("--steps", type=int, default=500, help="the number of batches")
    command.add_argument("--batch-size", type=int, default=16, help="the number of pairs in a batch")
    command.add_argument("--learning-rate", type=float, default=2e-4, help="the peak learning rate")
    command.add_argument("--device", help="cuda, cuda:1, mps or cpu; by default the first that there is")
    command.add_argument("--overwrite", action="store_true", help="delete the training state there, and start again")

    command = add(doctor, "say what this machine has, and whether it computes right")
    command.add_argument("--model", default=REPOSITORY, help="the checkpoint to verify, if its weights are here")
    command.add_argument("--device", help="cuda, cuda:1, mps or cpu; by default the first that there is")
    command.add_argument("--precision", default="auto", help="the precision to verify")
    return parser


if __name__ == "__main__":
    sys.exit(main())
