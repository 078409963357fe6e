"""A FiftyOne of one's own: commands that run at once share a database, and the last stops it, whoever was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import fiftyone as fo
import psutil
import pytest
from PIL import Image

PRIVATE = [sys.executable, "-m", "jina_embeddings_v4.cli.private_fiftyone"]
PRINT_URI = "import os; print(os.environ['FIFTYONE_DATABASE_URI'], flush=True)"
COMMAND = [sys.executable, "-m", "jina_embeddings_v4.cli.main"]


@pytest.fixture
def home(tmp_path):
    yield tmp_path / "home"
    for process in databases(tmp_path):
        process.kill()


def databases(folder):
    """Returns the processes of MongoDB on folders below one."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "mongod" and any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def start(home):
    """Starts a command that uses the database until its input ends, and returns it and the database's address."""
    code = f"{PRINT_URI}; import sys; sys.stdin.read()"
    process = subprocess.Popen(
        [*PRIVATE, str(home), sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, process.stdout.readline().strip()


def finish(process):
    process.stdin.close()
    assert process.wait(60) == 0


def test_commands_share_a_database_and_the_last_stops_it(home):
    first, address = start(home)
    second, same = start(home)
    assert same == address and len(databases(home)) == 1
    finish(first)
    assert len(databases(home)) == 1
    finish(second)
    assert databases(home) == []


def test_after_a_kill_the_next_command_starts_and_stops_its_own(home):
    killed, address = start(home)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(databases(home)) == 1  # it is not a child that dies with the command

    other, new_address = start(home)
    assert new_address != address and len(databases(home)) == 1
    finish(other)
    assert databases(home) == []


def test_the_code_of_a_command_is_passed_on(home):
    assert subprocess.run([*PRIVATE, str(home), sys.executable, "-c", "raise SystemExit(7)"]).returncode == 7


def test_a_folder_is_indexed_and_searched_by_two_processes_that_share_no_more_than_the_home(home, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (200, 280), name).save(folder / f"{name}.png")

    run = dict(capture_output=True, text=True, timeout=300, cwd=tmp_path)
    options = ["--home", str(home)]
    indexed = subprocess.run([*COMMAND, "index", "scans", "--model", "jina-embeddings-v4-demo", *options], **run)
    assert indexed.returncode == 0, indexed.stderr
    assert indexed.stdout == "" and "2 pages of 2 documents" in indexed.stderr
    found = subprocess.run([*COMMAND, "search", "scans", "a blue page", "--json", *options], **run)
    assert found.returncode == 0, found.stderr
    assert {page["document"] for page in json.loads(found.stdout)} == {"red.png", "blue.png"}

    # Neither in this FiftyOne, whose address the commands inherited.
    assert not fo.dataset_exists("scans")
    deadline = time.monotonic() + 30
    while databases(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert databases(home) == []
