"""Installs or updates the three copies that FiftyOne keeps of this repository, and says which version each has.

    python -m jina_embeddings_v4.integration.installation https://github.com/<owner>/<repo>
    python -m jina_embeddings_v4.integration.installation                  # only says what there is

FiftyOne has three places for a model's code: the source in the model zoo, which ``load_zoo_model`` runs; the plugin,
which the App runs; and the Python package, which every process that answers a late-interaction search imports. An
update of one copy leaves the others as they were.
"""

import argparse
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .seams import PACKAGE

_GITHUB = re.compile(r"https?://github\.com/[^/]+/[^/]+?/?")

# Folders that are not part of the package.
_OTHERS = ("benchmarks", "build", "demo", "examples", "tests")


@dataclass(frozen=True)
class Copy:
    """One of the copies.

    Args:
        name: which it is
        use: what it is for
        directory: where it is, or ``None`` where it is missing
        version: its version, or ``None``
        contents: a string that is the same for copies of the same code, or ``None``
    """

    name: str
    use: str
    directory: Path | None = None
    version: str | None = None
    contents: str | None = None


def install(url: str, pip_arguments: Sequence[str] = ()) -> None:
    """Installs or updates all three copies.

    Args:
        url: a GitHub repository, or a ``.zip`` or ``.tar.gz`` archive of one
        pip_arguments (()): further arguments of ``pip install``

    Raises:
        subprocess.CalledProcessError: if pip fails, which says why itself
        ValueError: if FiftyOne finds no model or plugin at the address
    """
    import fiftyone.plugins as fop
    import fiftyone.zoo as foz

    # As an archive, so that it needs no git.
    archive = f"{url.rstrip('/').removesuffix('.git')}/archive/HEAD.zip" if _GITHUB.fullmatch(url) else url
    pip = [sys.executable, "-m", "pip", "install", "--upgrade", *pip_arguments]
    subprocess.run([*pip, f"{PACKAGE.replace('_', '-')}-fiftyone @ {archive}"], check=True)
    foz.register_zoo_model_source(url, overwrite=True)
    fop.download_plugin(url, overwrite=True)


def find_copies() -> list[Copy]:
    """Looks for the three copies.

    Returns:
        a list of three :class:`Copy`
    """
    import fiftyone as fo
    import fiftyone.plugins as fop

    spec = importlib.util.find_spec(PACKAGE)
    package = None if spec is None or spec.origin is None else Path(spec.origin).parent
    sources = [
        manifest.parent
        for manifest in sorted(Path(fo.config.model_zoo_dir).rglob("manifest.json"))
        if _name_in(manifest) == PACKAGE
    ]
    plugins = [Path(plugin.directory) for plugin in fop.list_plugins(enabled="all") if plugin.name == PACKAGE]
    return [
        _describe("package", "indexes, fine-tuning, your own imports", package),
        _describe("zoo source", "load_zoo_model", sources[0] if sources else None),
        _describe("plugin", "the App's panel and operators", plugins[0] if plugins else None),
    ]


def _name_in(manifest):
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        return None


def _describe(name, use, directory):
    if directory is None:
        return Copy(name, use)

    start = (directory / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"', start, re.MULTILINE)
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.py")):
        relative = path.relative_to(directory)
        if relative.parts[0] not in _OTHERS and not any(part.startswith(".") for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes())
    return Copy(name, use, directory, version and version[1], digest.hexdigest()[:8])


def are_the_same(copies: Sequence[Copy]) -> bool:
    """Whether all copies are there, and of the same code."""
    return None not in {copy.directory for copy in copies} and len({copy.contents for copy in copies}) == 1


def report(copies: Sequence[Copy]) -> str:
    """Describes the copies, and says whether they are the same.

    Args:
        copies: what :func:`find_copies` returned

    Returns:
        the text, of several lines
    """
    rows = [("copy", "version", "contents", "used by", "where")]
    for copy in copies:
        rows.append((copy.name, copy.version or "-", copy.contents or "-", copy.use, str(copy.directory or "missing")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

    missing = [copy.name for copy in copies if copy.directory is None]
    contents = {copy.contents for copy in copies if copy.directory is not None}
    command = f"`python -m {PACKAGE}.integration.installation URL`"
    if missing:
        lines.append(f"Missing: {', '.join(missing)}. {command} installs all three")
    if len(contents) > 1:
        lines.append(f"They are not the same code. {command} brings all three to one version")
    if are_the_same(copies):
        lines.append("All three are the same")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments (None): its arguments, by default those of the process

    Returns:
        its exit code: 0 where all three copies are there and the same
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="the address of the repository, or of an archive of it")
    url = parser.parse_args(arguments).url
    if url is not None:
        install(url)
        print("Restart the Python processes that are open: they go on with what they imported.\n")

    copies = find_copies()
    print(report(copies))
    return 0 if are_the_same(copies) else 1


if __name__ == "__main__":
    sys.exit(main())
