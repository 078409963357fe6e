"""The operators as the App and its workers run them: from a plugin folder, by their names."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.plugins as fop
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import Executor
from fiftyone.server.view import get_view
from jina_embeddings_v4.cli.private_fiftyone import copy_source
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.rendering import draw_document

MODEL = "jina-embeddings-v4-demo"
INDEX, SEARCH = "jina_embeddings_v4/index_pages", "jina_embeddings_v4/search_pages"


@pytest.fixture(scope="module", autouse=True)
def plugin():
    copy_source(Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "jina_embeddings_v4")


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset(persistent=True)
    samples = []
    for i, document in enumerate(documents("test", 20_000, 20_012)):
        path = tmp_path / f"{i}.png"
        draw_document(document, i).save(path)
        samples.append(fo.Sample(filepath=str(path), headline=document.headline))
    dataset.add_samples(samples)
    yield dataset
    for key in dataset.list_brain_runs():
        dataset.delete_brain_run(key)
    dataset.delete()


def run(operator, dataset, delegate=False, view=None, **params):
    """Runs an operator at once, as the App's server does, or delegated, as a worker does."""
    context = {"dataset": dataset, "view": view, "params": params, "request_delegation": delegate}
    result = foo.execute_operator(operator, context)
    assert result.error is None, result.error
    if delegate:
        service = DelegatedOperationService()
        operations = service.list_operations(dataset_name=dataset.name, operator=operator)
        (operation,) = (one for one in operations if one.run_state == "queued")
        service.execute_operation(operation, log=False)
        done = service.get(operation.id)
        assert done.run_state == "completed", done.result
    dataset.reload()


def test_the_plugin_is_listed_without_an_error():
    (plugin,) = [one for one in fop.list_plugins() if one.name == "jina_embeddings_v4"]
    assert set(plugin.operators) == {"index_pages", "search_pages", "run_page_search", "page_search"}
    assert {INDEX, SEARCH} <= {operator.uri for operator in foo.list_operators()}


@pytest.mark.parametrize("delegate", [False, True])
def test_index_then_search(dataset, delegate):
    run(INDEX, dataset, delegate, brain_key="pages", model=MODEL, batch_size=4, num_workers=0, pool_factor=1)
    assert dataset.load_brain_results("pages").total_index_size == len(dataset)

    wanted = dataset.match(fo.ViewField("headline") == "Umbra")
    assert len(wanted) > 1
    run(SEARCH, dataset, delegate, brain_key="pages", query="a page headed Umbra", k=len(wanted), heatmaps=True)
    assert dataset.has_field("match")
    if delegate:
        found = dataset.load_saved_view(dataset.list_saved_views()[0])
    else:
        found = dataset.sort_by_similarity("a page headed Umbra", k=len(wanted), brain_key="pages")
    assert len(set(found.values("id")) & set(wanted.values("id"))) >= len(wanted) - 1
    assert found.exists("match").count() == len(found)
    assert dataset.exists("match").count() == len(found)
    assert found.values("pages_distance") == sorted(found.values("pages_distance"))


def test_videos_get_the_moments_that_match(dataset, tmp_path):
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=112x112:rate=2:duration=2"]
    subprocess.run([*command, tmp_path / "video.mp4"], check=True)
    videos = fo.Dataset(persistent=True)
    videos.add_sample(fo.Sample(filepath=str(tmp_path / "video.mp4")))
    run(INDEX, videos, brain_key="pages", model=MODEL, num_workers=0)
    run(SEARCH, videos, brain_key="pages", query="a map", k=1, heatmaps=True)
    assert videos.first().match.detections[0].label == "a map"
    videos.delete_brain_run("pages")
    videos.delete()


def test_an_index_that_exists_gets_what_it_lacks_with_its_own_settings(dataset):
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0, pool_factor=2)
    path = dataset.first().filepath
    dataset.add_sample(fo.Sample(filepath=path))
    run(INDEX, dataset, brain_key="pages", num_workers=0)
    index = dataset.load_brain_results("pages")
    assert index.total_index_size == len(dataset)
    assert index.config.pool_factor == 2 and index.config.model == MODEL


def test_a_second_search_is_not_of_the_first_ones_results(dataset):
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    looked_at = dataset.limit(9).sort_by_similarity("a chart", k=2, brain_key="pages")
    run(SEARCH, dataset, True, view=looked_at, brain_key="pages", query="Umbra", k=12, heatmaps=False)
    (name,) = dataset.list_saved_views()
    assert name.endswith(": Umbra")
    found = dataset.load_saved_view(name)
    assert set(found.values("id")) == set(dataset.limit(9).values("id"))


def test_a_search_after_the_apps_box_is_of_all_pages(dataset):
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    ids = dataset.sort_by_similarity("a chart", k=3, brain_key="pages").values("id")
    stages = {
        "fiftyone.core.stages.Select": {"sample_ids": ids, "ordered": False},
        "fiftyone.core.stages.SortBySimilarity": {"query": "a chart", "k": 3, "brain_key": "pages"},
    }
    view = get_view(dataset.name, extended_stages=stages)
    assert len(view) == 3
    run(SEARCH, dataset, True, view=view, brain_key="pages", query="Umbra", k=12, heatmaps=False)
    assert len(dataset.load_saved_view(dataset.list_saved_views()[0])) == len(dataset)


def test_a_persons_own_field_is_not_written_to(dataset):
    dataset.set_values("pages_distance", [7.0] * len(dataset))
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    for _ in range(2):
        run(SEARCH, dataset, brain_key="pages", query="Umbra", k=3, heatmaps=False)
    assert dataset.values("pages_distance") == [7.0] * len(dataset)
    assert dataset.has_field("pages_distance_2") and not dataset.has_field("pages_distance_3")


@pytest.mark.parametrize("uri", [INDEX, SEARCH])
def test_a_failure_is_shown_to_the_person(dataset, uri):
    params = {"brain_key": "pages", "model": "no-such-model", "query": "Umbra", "k": 3}
    request = {"dataset_name": dataset.name, "params": params}
    context = foo.ExecutionContext(request_params=request, executor=Executor())
    messages, said = [], "KeyError" if uri == SEARCH else "no-such-model"
    # The server sends each message before it asks for the next.
    with pytest.raises(Exception, match="no-such-model|pages"):
        for message in foo.get_operator(uri).execute(context):
            messages.append(message.body.params)
    assert said in messages[-2]["label"] and messages[-2]["progress"] == 1
    assert said in messages[-1]["message"] and messages[-1]["variant"] == "error"


def test_patches_are_searched_without_heatmaps(dataset):
    for sample in dataset.iter_samples(autosave=True):
        sample["parts"] = fo.Detections(detections=[fo.Detection(label="top", bounding_box=[0, 0, 1, 0.4])])
    run(INDEX, dataset, brain_key="parts_index", model=MODEL, patches_field="parts", num_workers=0)
    assert dataset.load_brain_results("parts_index").total_index_size == len(dataset)
    run(SEARCH, dataset, brain_key="parts_index", query="Umbra", k=3, heatmaps=True)
    assert not dataset.has_field("match")


def test_each_delegated_search_keeps_its_results(dataset):
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    queries = ["total?", "total!", "合計", "請求書", "total?"]
    for query in queries:
        run(SEARCH, dataset, True, brain_key="pages", query=query, k=2, heatmaps=False)
    assert [name.rpartition(": ")[2] for name in dataset.list_saved_views()] == queries


def test_pages_of_documents_are_indexed_from_a_grouped_view(dataset):
    dataset.set_values("document", [f"document {i // 4}" for i in range(len(dataset))])
    run(INDEX, dataset, view=dataset.group_by("document"), brain_key="pages", model=MODEL, num_workers=0)
    assert dataset.load_brain_results("pages").total_index_size == len(dataset)


def form(operator, dataset, **params):
    operator = foo.get_operator(operator)
    context = foo.ExecutionContext(request_params={"dataset_name": dataset.name, "params": params})
    return operator.resolve_input(context).type.properties


def test_forms_say_what_is_wrong_before_anything_runs(dataset):
    assert form(SEARCH, dataset)["brain_key"].invalid  # there is no index yet
    assert form(INDEX, dataset, brain_key="not a key")["brain_key_refused"].invalid
    assert "pool_factor" in form(INDEX, dataset, brain_key="pages")

    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    assert "pool_factor" not in form(INDEX, dataset, brain_key="pages")
    assert "pages" in form(SEARCH, dataset)["brain_key"].type.values


def test_ray_is_offered_where_it_is_installed_and_for_whole_pages(dataset, monkeypatch):
    assert "ray" in form(INDEX, dataset) and "ray_refused" not in form(INDEX, dataset, ray=True)
    assert form(INDEX, dataset, ray=True, patches_field="parts")["ray_refused"].invalid
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *args: None if name == "ray" else find(name, *args))
    assert "ray" not in form(INDEX, dataset)


PLUGIN_ALONE = '''
import importlib.util, sys

class Without:
    """Finds what another finder does, but for this repository: as where it was not installed as a package."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name == "jina_embeddings_v4" else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


sys.meta_path = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("jina_embeddings_v4") is None

import fiftyone as fo
import fiftyone.operators as foo

foo.list_operators()
view = fo.load_dataset(sys.argv[1]).sort_by_similarity("a page headed Umbra", k=3, brain_key="pages")
print(*view.values("id"))
'''


def test_the_plugin_alone_lets_the_app_search(dataset):
    run(INDEX, dataset, brain_key="pages", model=MODEL, num_workers=0)
    expected = dataset.sort_by_similarity("a page headed Umbra", k=3, brain_key="pages").values("id")
    answer = subprocess.run(
        [sys.executable, "-c", PLUGIN_ALONE, dataset.name], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[-3:] == expected
