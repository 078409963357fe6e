"""A machine that is lost, and a driver that is killed, cost no vector."""

import json
import signal
import subprocess
import sys
import time

import psutil
import ray
from jina_embeddings_v4.distributed import iter_embed
from jina_embeddings_v4.distributed.__main__ import main
from ray.cluster_utils import Cluster

from ..conftest import DEMO_MODEL

PLAIN = {"device": "cpu", "precision": "float32"}


def test_a_lost_machine_costs_no_vector(make_dataset, check):
    dataset = make_dataset(160)
    options = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        other = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
        ray.init(address=cluster.address)
        removed = False
        for report in iter_embed(dataset, DEMO_MODEL, "vector", "pages", model_kwargs=PLAIN, workers=2):
            if not removed and 0 < report.done < 80:
                cluster.remove_node(other, allow_graceful=False)
                removed = True
        assert removed and report.embedded == 160 and len(report.failed) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    check(dataset, "vector", "pages")


def test_a_killed_driver_goes_on_where_it_was(make_dataset, check, actors, capsys):
    dataset = make_dataset(200, persistent=True)
    arguments = [dataset.name, "--field", "vector", "--index", "pages", "--model", DEMO_MODEL]
    arguments += ["--model-kwargs", json.dumps(PLAIN), "--workers", "1"]
    others = {process.pid for process in actors()}
    driver = subprocess.Popen(
        [sys.executable, "-m", "jina_embeddings_v4.distributed", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not dataset.has_field("vector") or not len(dataset.exists("vector")):
        assert driver.poll() is None
        time.sleep(0.1)
        dataset.reload()
    embedding = [process for process in actors() if process.pid not in others]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # Ray's processes end with the one that started them.
    assert embedding and psutil.wait_procs(embedding, timeout=60)[1] == []
    begun = len(dataset.exists("vector"))
    assert 0 < begun < 200

    assert main(arguments) == 1  # since one image failed
    assert not ray.is_initialized()
    said = capsys.readouterr().out
    assert f"{200 - begun} images embedded, 1 failed, {begun} were there before" in said and "broken.png: " in said
    dataset.reload()
    check(dataset, "vector", "pages")
