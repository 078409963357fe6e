"""The panel as the App's server runs it: a click is a request with the panel's state, answered by operations."""

import os

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from bson import json_util
from fiftyone.operators.executor import Executor

PANEL, RUN = "jina_embeddings_v4/page_search", "jina_embeddings_v4/run_page_search"
QUERY = "a page headed Umbra"


class App:
    """What the App holds of an open panel: its state, its data and the view, for one person."""

    def __init__(self, dataset):
        self.dataset, self.state, self.data, self.view, self.schema = dataset, {}, {}, [], {}
        self.told = []
        self.click("on_load")

    def click(self, method, **params):
        requests = [(PANEL, {"__method__": method, "panel_state": self.state, **params})]
        while requests:
            requests += self._run(*requests.pop(0))

    def search(self, query, **options):
        self.state = {**self.state, "form": {"query": query}, "options": options}
        self.click("search")

    def rows(self):
        return self.schema["results"]["type"]["properties"]

    def _run(self, uri, params):
        # As the server reads a request.
        request = json_util.loads(json_util.dumps({"params": {"panel_id": "panel", **params}, "view": self.view}))
        executor = Executor()
        context = foo.ExecutionContext({"dataset_name": self.dataset.name, **request}, executor=executor)
        result = foo.get_operator(uri).execute(context)
        messages = (message.to_json()["body"] for message in result) if uri == RUN else executor.to_json()["requests"]
        for message in json_util.loads(json_util.dumps([dict(message) for message in messages])):
            uri, params = message["operator_uri"], message["params"]
            if uri in (PANEL, RUN):
                yield uri, params
            else:
                self._do(uri, params)

    def _do(self, operation, params):
        if operation == "patch_panel_state":
            self.state |= params["state"]
        elif operation == "patch_panel_data":
            self.data |= params["data"]
            self.told.append(params["data"].get("status"))
        elif operation == "clear_panel_state":
            self.state = {}
        elif operation == "set_view":
            self.view = params["view"]
        elif operation == "set_active_fields":
            self.fields = params["fields"]
        elif operation == "show_panel_output":
            self.schema = params["output"]["type"]["properties"]

    def shown(self):
        return fo.DatasetView._build(self.dataset, self.view)


@pytest.fixture
def app(indexed_pages):
    foo.list_operators()
    return App(indexed_pages)


def test_a_search_shows_document_page_snippet_and_where_it_matched(app):
    app.search(QUERY)
    assert app.told[0] == "Starting" and "Heatmaps of 12 of 12 pages" in app.told
    assert len(app.rows()) == len(app.state["rows"]) == 12 and not app.state["busy"]
    assert app.shown().values("id") == [row["id"] for row in app.state["rows"]]
    assert app.fields == ["document", "page", "match"]

    first, sample = app.state["rows"][0], app.shown().first()
    assert sample.headline == "Umbra"
    assert first["title"] == f"{sample.document} · page {sample.page} of 4"
    assert "number of this **page** is" in first["snippet"]
    assert app.data["results"]["row0"]["picture"].startswith("data:image/jpeg;base64,")


def test_the_next_search_is_of_all_pages_whatever_the_panel_shows(app):
    app.search("a chart")
    app.click("show_document", document="1.pdf")
    assert app.shown().values("page") == [1, 2, 3, 4] and app.shown().distinct("document") == ["1.pdf"]
    app.search(QUERY)
    assert app.state["searched"] == 12 and len(app.state["rows"]) == 12

    # But in the pages that a person has chosen, and again after a look at a document.
    app.view = app.dataset.match({"document": "2.pdf"})._serialize()
    for _ in range(2):
        app.search(QUERY)
        assert app.state["searched"] == 4
        app.click("show_document", document="1.pdf")
    app.click("show_all")
    assert app.shown().distinct("document") == ["2.pdf"]
    app.click("show_results")
    assert app.shown().values("id") == [row["id"] for row in app.state["rows"]]


def test_by_words_alone(app):
    app.search("N7", mode="text")
    (row,) = app.state["rows"]
    assert row["title"] == "1.pdf · page 4 of 4" and "is N7" in row["snippet"]
    assert "Loading the model" not in app.told
    app.search("zebra", mode="text")
    assert app.state["rows"] == [] and app.state["searched"] == 12


def test_a_failure_is_shown_and_the_next_search_works(app, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fiftyone.zoo.load_zoo_model", lambda name, **kwargs: 1 / 0)
        app.search(QUERY)
    assert "ZeroDivisionError" in app.schema["error"]["view"]["description"] and not app.state["busy"]
    app.search(QUERY)
    assert "error" not in app.schema and app.state["rows"]


def test_a_page_that_cannot_be_read_is_named(app):
    sample = app.dataset.match({"document": "0.pdf", "page": 2}).first()
    os.rename(sample.filepath, f"{sample.filepath}.gone")
    try:
        app.search(QUERY)
    finally:
        os.rename(f"{sample.filepath}.gone", sample.filepath)
    (row,) = (row for row in app.state["rows"] if row["id"] == sample.id)
    assert sample.filepath in row["unreadable"] and len(app.state["rows"]) == 12


def test_a_search_whose_dataset_was_left_changes_nothing(app):
    app.search(QUERY)
    view, state = app.view, dict(app.state)
    found = {"rows": [], "view": "[]", "searched": 0}
    app.click("show_found", found=found, has_new_colour=False, dataset="another")
    assert (app.view, app.state) == (view, state)
    app.click("on_change_dataset")
    assert not app.state and "results" not in app.schema


def test_without_an_index_the_panel_says_what_to_do(plugin):
    foo.list_operators()
    dataset = fo.Dataset()
    app = App(dataset)
    assert app.schema["no_index"]["view"]["description"].startswith("*Index pages*")
    dataset.delete()
