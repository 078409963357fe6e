"""A private MongoDB, model zoo and Hugging Face cache for the whole suite, so that the person's own are never touched.

All of it is in place before anything imports FiftyOne, which reads its configuration on import.
"""

import atexit
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures"
DEMO_MODEL = "jina-embeddings-v4-demo"


def pytest_configure(config):
    folder = Path(tempfile.mkdtemp(prefix="jina-v4-tests-"))
    # Exit handlers run last in, first out: FiftyOne's, which still talks to MongoDB, must run before these.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    zoo = folder / "zoo"
    copy_source(zoo / "jina_embeddings_v4")

    os.environ |= {
        "FIFTYONE_DATABASE_URI": _start_mongod(folder / "mongo"),
        "FIFTYONE_DATABASE_NAME": "jina-v4-tests",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_MODEL_ZOO_DIR": str(zoo),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "datasets"),
        "FIFTYONE_CONFIG_PATH": str(folder / "config.json"),
        "FIFTYONE_BRAIN_CONFIG_PATH": str(folder / "brain_config.json"),
        "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def copy_source(folder):
    """Copies what FiftyOne gets to see of this repository."""
    hidden = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, folder, ignore=hidden)


def _start_mongod(folder):
    """Starts MongoDB on a free port, and returns its URI."""
    fiftyone = Path(importlib.util.find_spec("fiftyone").origin).parent
    bundled = fiftyone / "db" / "bin" / "mongod"
    mongod = str(bundled) if bundled.is_file() else shutil.which("mongod")
    if mongod is None:
        raise pytest.UsageError("There is no mongod: run the tests with `make test`, which installs one")

    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    command = [mongod, "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1", "--logpath", folder / "log"]
    mongod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(lambda: (mongod.kill(), mongod.wait()))
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"mongodb://127.0.0.1:{port}"
        time.sleep(0.1)

    raise pytest.UsageError(f"mongod did not start: see {folder / 'log'}")


@pytest.fixture(scope="session")
def checkpoint():
    """The tiny checkpoint that the golden embeddings were made with."""
    return FIXTURES / "checkpoint"


@pytest.fixture(scope="session")
def encoder(checkpoint):
    """An encoder of the tiny checkpoint, in float32 on the CPU."""
    from jina_embeddings_v4.jina_v4.encoder import Encoder

    return Encoder.from_checkpoint(checkpoint, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def golden_images():
    """The paths of the images that golden embeddings exist for, by name."""
    return {path.stem: path for path in sorted((FIXTURES / "golden" / "images").iterdir())}


@pytest.fixture
def load_demo():
    """Loads the demo model through FiftyOne's zoo, with any arguments."""
    import fiftyone.zoo as foz

    return lambda **kwargs: foz.load_zoo_model(DEMO_MODEL, device="cpu", **kwargs)


@pytest.fixture
def image_files(tmp_path):
    """Twelve image files of different sizes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(51)
    paths = []
    for i in range(12):
        height, width = random.integers(60, 260, size=2)
        coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        paths.append(tmp_path / f"image-{i:02}.png")
        coarse.resize((int(width), int(height))).save(paths[-1])

    return paths


@pytest.fixture
def dataset(image_files):
    """A FiftyOne dataset of those image files."""
    import fiftyone as fo

    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=str(path)) for path in image_files])
    yield dataset
    dataset.delete()
