"""A private MongoDB, model zoo and Hugging Face cache for the whole suite, so that the person's own are never touched.

All of it is in place before anything imports FiftyOne, which reads its configuration on import.
"""

import atexit
import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from jina_embeddings_v4.cli.private_fiftyone import copy_source, environment, run_mongodb

FIXTURES = Path(__file__).parent / "fixtures"
SLOWEST = [
    "test_crashes.py",
    "test_finetune.py",
    "test_similarity.py",
    "test_loading.py",
    "test_training.py",
    "test_flow.py",
    "test_tutorial.py",
]
DEMO_MODEL = "jina-embeddings-v4-demo"


def pytest_configure(config):
    _find_demo()
    _find_ffmpeg()
    folder = Path(tempfile.mkdtemp(prefix="jina-v4-tests-"))
    copy_source(folder / "models" / "jina_embeddings_v4")

    # Exit handlers run last in, first out: FiftyOne's, which still talks to MongoDB, run before this one.
    cleanup = contextlib.ExitStack()
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    uri = cleanup.enter_context(run_mongodb(folder / "database"))
    atexit.register(cleanup.close)

    os.environ |= environment(folder, uri) | {
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        # Models that are loaded by their names alone round alike on each processor.
        "JINA_V4_AUTO_PRECISION": "float32",
        # No hub but the one that a test may start there.
        "HF_ENDPOINT": f"http://127.0.0.1:{_free_port()}",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if not torch.cuda.is_available():
        # Kernels for GPUs are interpreted. Triton reads this when it is imported.
        os.environ["TRITON_INTERPRET"] = "1"
    # Where several processes run tests, they share the processor.
    share = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
    if share < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        torch.set_num_threads(share)
    # OpenMP's threads spin while they wait, which on a busy machine makes torch many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _find_demo():
    """Lets tests import how the demo model is made, which a wheel does not hold, where they run against one."""
    name, place = "jina_embeddings_v4.demo", Path(__file__).parent.parent / "demo"
    package = importlib.util.find_spec("jina_embeddings_v4").submodule_search_locations[0]
    if not Path(package, "demo", "__init__.py").exists():
        # As a string: Python finds no submodules along other paths.
        locations = [str(place)]
        spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=locations)
        sys.modules[name] = importlib.util.module_from_spec(spec)


def pytest_collection_modifyitems(items):
    """Begins with the files that take longest, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


def _find_ffmpeg():
    """Puts ffmpeg and ffprobe on the path, which FiftyOne calls for videos, from a wheel where there are none."""
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        import ffmpeg

        ffmpeg.add_to_path()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def checkpoint():
    """The tiny checkpoint that the golden embeddings were made with."""
    return FIXTURES / "checkpoint"


@pytest.fixture(scope="session")
def encoder(checkpoint):
    """An encoder of the tiny checkpoint, in float32 on the CPU."""
    from jina_embeddings_v4.engine.encoder import Encoder

    return Encoder.from_checkpoint(checkpoint, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def golden_images():
    """The paths of the images that golden embeddings exist for, by name."""
    return {path.stem: path for path in sorted((FIXTURES / "golden" / "images").iterdir())}


@pytest.fixture
def load_demo():
    """Loads the demo model through FiftyOne's zoo, with any arguments, by default in float32 on any machine."""
    import fiftyone.zoo as foz

    return lambda **kwargs: foz.load_zoo_model(DEMO_MODEL, **({"device": "cpu", "precision": "float32"} | kwargs))


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
