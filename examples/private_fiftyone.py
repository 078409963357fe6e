"""Runs a command with a FiftyOne of its own: database, model zoo, datasets and settings, all in one folder.

Usage::

    python examples/private_fiftyone.py FOLDER COMMAND [ARGUMENT ...]

``FIFTYONE_DATABASE_DIR`` would not keep the database apart: FiftyOne joins whatever MongoDB another FiftyOne process of
the same user has started, in whatever folder. So one is started here, and found by its address.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests", "jina-embeddings-v4*.json")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)

    folder, *command = sys.argv[1:]
    folder = Path(folder).resolve()
    for ours in ("models", "plugins"):
        copy_source(folder / ours / "jina_embeddings_v4")

    # The command handles Ctrl-C. A child process inherits SIG_IGN, but not a handler.
    signal.signal(signal.SIGINT, lambda *_: None)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))

    with run_mongodb(folder / "database") as uri:
        sys.exit(subprocess.run(command, env=os.environ | environment(folder, uri)).returncode)


def copy_source(folder):
    """Copies this repository as registering it would, since FiftyOne writes files next to a registered source."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPOSITORY, folder, ignore=NOT_SOURCE)


def environment(folder, uri):
    """Returns the environment variables of a FiftyOne that uses one folder and one database alone."""
    return {
        "FIFTYONE_DATABASE_URI": uri,
        "FIFTYONE_DATABASE_NAME": "jina-embeddings-v4-demo",
        # FiftyOne warns of the oldest MongoDB version that it supports, which is the one that it brings.
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_MODEL_ZOO_DIR": str(folder / "models"),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "datasets"),
        "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "datasets"),
        "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
        # Files that do not exist, so that the person's own settings do not apply.
        "FIFTYONE_CONFIG_PATH": str(folder / "config.json"),
        "FIFTYONE_APP_CONFIG_PATH": str(folder / "app_config.json"),
        "FIFTYONE_BRAIN_CONFIG_PATH": str(folder / "brain_config.json"),
        # On the default port, the person's own App may be running.
        "FIFTYONE_DEFAULT_APP_PORT": "5252",
        "FIFTYONE_DO_NOT_TRACK": "true",
    }


@contextmanager
def run_mongodb(folder):
    """Runs MongoDB on a free port, and yields its URI."""
    mongod = _find_mongod()
    if mongod is None:
        sys.exit("There is no mongod: `make demo` and `make test` install one on Linux; elsewhere, install MongoDB")

    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    log = folder / "mongod.log"
    options = {"--dbpath": folder, "--port": port, "--bind_ip": "127.0.0.1", "--logpath": log}
    process = subprocess.Popen(
        [mongod, "--nounixsocket", *(str(word) for option in options.items() for word in option)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # In a session of its own, so that Ctrl-C does not end it before the command.
        start_new_session=True,
    )
    try:
        while not _listens(port):
            if process.poll() is not None:
                sys.exit(f"MongoDB did not start: is the demo, or its App, still running? If not, see {log}")
            time.sleep(0.1)

        yield f"mongodb://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _find_mongod():
    # Found without importing FiftyOne, which would read its settings.
    fiftyone = Path(importlib.util.find_spec("fiftyone").origin).parent
    bundled = fiftyone / "db" / "bin" / "mongod"
    return str(bundled) if bundled.is_file() else shutil.which("mongod")


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
