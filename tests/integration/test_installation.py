"""One command installs and updates the three copies: with the real pip, from a real archive."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import fiftyone as fo
import fiftyone.plugins as fop
import fiftyone.zoo as foz
import pytest
from jina_embeddings_v4.cli.private_fiftyone import NOT_SOURCE
from jina_embeddings_v4.integration import installation
from jina_embeddings_v4.integration.installation import Copy, find_copies, install, main, report


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A model zoo, a plugins folder and a folder for packages, all of them empty."""
    for name in ("zoo", "plugins", "site", "served"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(tmp_path / "zoo"))
    monkeypatch.setattr(fo.config, "plugins_dir", str(tmp_path / "plugins"))
    return tmp_path


@pytest.fixture
def serve(places):
    """Packs this repository, whose version may be another, and returns its address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=places / "served")
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def pack(version):
        folder = places / "packing" / "repository"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(__file__).parents[2], folder, ignore=NOT_SOURCE)
        for name in ("__init__.py", "pyproject.toml", "fiftyone.yml"):
            path = folder / name
            path.write_text(path.read_text().replace("0.1.0", version))
        shutil.make_archive(str(places / "served" / "repository"), "zip", folder.parent)
        return f"http://127.0.0.1:{server.server_port}/repository.zip"

    yield pack
    server.shutdown()
    server.server_close()


def copies_of_a_new_process(places):
    """What another Python finds, which has the packages on its path."""
    code = (
        "import json, fiftyone as fo; from jina_embeddings_v4.integration.installation import find_copies;"
        "print('found', json.dumps([[c.name, str(c.directory), c.version, c.contents] for c in find_copies()]))"
    )
    environment = {
        "FIFTYONE_MODEL_ZOO_DIR": str(places / "zoo"),
        "FIFTYONE_PLUGINS_DIR": str(places / "plugins"),
        "PYTHONPATH": str(places / "site"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return json.loads(line.removeprefix("found "))


def test_all_three_are_installed_and_updated(serve, places):
    pip = ["--quiet", "--no-deps", "--target", str(places / "site")]
    for version in ("0.1.0", "0.2.0"):
        install(serve(version), pip)
        found = copies_of_a_new_process(places)
        assert [name for name, *_ in found] == ["package", "zoo source", "plugin"]
        for (_, directory, *_), folder in zip(found, ("site", "zoo", "plugins"), strict=True):
            assert Path(directory).is_relative_to(places / folder)
        assert {found_version for _, _, found_version, _ in found} == {version}
        assert len({contents for *_, contents in found}) == 1

    assert "jina-embeddings-v4-demo" in [name.rpartition("/")[2] for name in foz.list_zoo_models()]


def test_copies_that_differ_or_are_missing_are_told(serve, places, capsys):
    assert main([]) == 1
    printed = capsys.readouterr().out
    assert "Missing: zoo source, plugin" in printed and str(find_copies()[0].directory) in printed

    url = serve("0.0.9")
    foz.register_zoo_model_source(url)
    assert main([]) == 1
    printed = capsys.readouterr().out
    assert "Missing: plugin." in printed and "They are not the same code" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("zoo source")]
    assert "0.0.9" in line and "load_zoo_model" in line and str(places / "zoo") in line

    fop.download_plugin(url)
    assert [copy.version for copy in find_copies()[1:]] == ["0.0.9", "0.0.9"]


def test_an_address_of_a_repository_needs_no_git(monkeypatch):
    asked = []
    monkeypatch.setattr(installation.subprocess, "run", lambda command, check: asked.append(command))
    monkeypatch.setattr(foz, "register_zoo_model_source", lambda url, overwrite: asked.append(url))
    monkeypatch.setattr(fop, "download_plugin", lambda url, overwrite: asked.append(url))
    url = "https://github.com/someone/something"
    install(url)
    assert asked[0][-1] == f"jina-embeddings-v4-fiftyone @ {url}/archive/HEAD.zip" and asked[1:] == [url, url]


def test_what_is_the_same_is_told():
    copies = [Copy(name, "use", Path("/x"), "1.0", "abc") for name in ("package", "zoo source", "plugin")]
    assert report(copies).endswith("All three are the same")
