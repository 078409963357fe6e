"""A FiftyOne of one's own: database, model zoo, datasets and settings, all in one folder.

    python -m jina_embeddings_v4.cli.private_fiftyone FOLDER COMMAND [ARGUMENT ...]

``FIFTYONE_DATABASE_DIR`` would not keep the database apart: FiftyOne joins whatever MongoDB another FiftyOne process of
the same user has started, in whatever folder. So one is started here, and found by its address. Processes that use the
same folder at once share it, and the last of them stops it.

FiftyOne reads its settings when it is imported, so nothing here imports it.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests", "jina-embeddings-v4*.json")


def main() -> None:
    """Runs a command with a FiftyOne of its own."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)

    folder, *command = sys.argv[1:]
    # The command handles Ctrl-C. A child process inherits SIG_IGN, but not a handler.
    signal.signal(signal.SIGINT, lambda *_: None)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))

    with private_fiftyone(folder) as variables:
        sys.exit(subprocess.run(command, env=os.environ | variables).returncode)


@contextmanager
def private_fiftyone(folder: str | os.PathLike) -> Iterator[dict[str, str]]:
    """Runs a folder's database, with this repository in its model zoo and among its plugins.

    Args:
        folder: the folder, which is made where it is missing

    Yields:
        a dict of the environment variables by which FiftyOne uses it

    Raises:
        SystemExit: if MongoDB is missing or does not start, with the reason
    """
    folder = Path(folder).expanduser().resolve()
    with run_mongodb(folder / "database") as uri:
        # Not under the feet of another process that may be loading it.
        if len(_users(folder / "database")) == 1:
            for ours in ("models", "plugins"):
                copy_source(folder / ours / "jina_embeddings_v4")
        yield environment(folder, uri)


def copy_source(folder: str | os.PathLike) -> None:
    """Copies this repository as registering it would, since FiftyOne writes files next to a registered source."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPOSITORY, folder, ignore=NOT_SOURCE)


def environment(folder: Path, uri: str) -> dict[str, str]:
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
def run_mongodb(folder: Path) -> Iterator[str]:
    """Runs MongoDB on a folder and a free port as long as any process uses it so.

    Args:
        folder: the folder of its files

    Yields:
        its URI

    Raises:
        SystemExit: if MongoDB is missing or does not start, with the reason
    """
    (folder / "users").mkdir(parents=True, exist_ok=True)
    user = folder / "users" / str(os.getpid())
    lock = FileLock(folder / "users.lock")
    with lock:
        server = _server(folder)
        if server is not None and not _users(folder):
            # Those that used it were killed.
            _stop(folder)
            server = None
        port = _start(folder) if server is None else server[1]
        user.touch()
    try:
        yield f"mongodb://127.0.0.1:{port}"
    finally:
        with lock:
            user.unlink(missing_ok=True)
            if not _users(folder):
                _stop(folder)


def _users(folder):
    """Returns the processes that use a database."""
    return [pid for pid in map(int, os.listdir(folder / "users")) if psutil.pid_exists(pid)]


def _server(folder):
    """Returns the process and the port of the MongoDB that runs on a folder, or ``None``."""
    try:
        pid, port = map(int, (folder / "server").read_text().split())
        process = psutil.Process(pid)
        # Another process may have its number by now.
        is_ours = str(folder) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None

    return (process, port) if is_ours else None


def _start(folder):
    mongod = _find_mongod()
    if mongod is None:
        sys.exit("There is no mongod: `make demo` and `make test` install one on Linux; elsewhere, install MongoDB")

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
    (folder / "server").write_text(f"{process.pid} {port}")
    while not _listens(port):
        if process.poll() is not None:
            sys.exit(f"MongoDB did not start: {log} says why")
        time.sleep(0.1)
    return port


def _stop(folder):
    server = _server(folder)
    if server is not None:
        server[0].terminate()
        # Where it is a child of this process, this collects it, too.
        psutil.wait_procs([server[0]], timeout=60)
    (folder / "server").unlink(missing_ok=True)


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
