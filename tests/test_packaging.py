"""What the wheel holds, and what it asks for."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent

# Where the name of what is imported is not that of what is installed.
# ETA comes with FiftyOne, Triton with torch where there is a GPU for it, and PyArrow with ray[data].
INSTALLED_AS = {
    "PIL": "pillow",
    "bson": "pymongo",
    "cv2": "opencv-python-headless",
    "eta": "fiftyone",
    "pyarrow": "ray",
    "sklearn": "scikit-learn",
    "triton": "torch",
    "umap": "umap-learn",
}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def sources(project):
    """The paths of the modules in the package, from the repository's root."""
    folders = [Path(*name.split(".")[1:]) for name in project["tool"]["setuptools"]["packages"]]
    return [path for folder in folders for path in sorted((ROOT / folder).glob("*.py"))]


def test_every_package_that_is_imported_is_declared(project, sources):
    declared = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    for extra in project["project"]["optional-dependencies"].values():
        declared += extra
    declared = {re.match(r"[\w.-]+", line)[0].replace("_", "-").lower() for line in declared}

    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names:
                    wanted = INSTALLED_AS.get(top, top).replace("_", "-").lower()
                    assert wanted in declared, f"{path.relative_to(ROOT)} imports {top}, which nothing declares"


def test_the_wheel_holds_the_whole_package(sources, tmp_path):
    # What it is built from is copied, since building writes beside it.
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in files:
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            copy = tmp_path / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tmp_path / "source")], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    held = set(ZipFile(wheel).namelist())
    expected = {f"jina_embeddings_v4/{path.relative_to(ROOT)}" for path in sources}
    expected |= {f"jina_embeddings_v4/{name}" for name in ("manifest.json", "fiftyone.yml")}
    expected |= {f"jina_embeddings_v4/{name}" for name in files if name.startswith("demo/checkpoint/")}
    assert expected <= held, expected - held
