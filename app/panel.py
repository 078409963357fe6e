"""The panel *Page search*: a query, the pages that it finds with where they match, and the documents that they are in.

The panel's state and data are in the browser, so that each person has their own. A search runs in an operator of its
own, :class:`RunPageSearch`, since only operators, and no panels, can report while they run.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from bson import json_util
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from ..engine.image_files import ImageError
from ..late_interaction.snippets import in_markdown, snippet
from .layout import layout
from .searching import MATCH, before_search, iter_search, late_interaction_indexes, shown_fields, target
from .thumbnails import thumbnail

# Pages that are found.
PAGES = 25

# Characters of a snippet.
_SNIPPET = 200

logger = logging.getLogger(__name__)


class PageSearch(foo.Panel):
    """Searches pages, opens those that are found, and shows their documents."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="page_search",
            label="Page search",
            icon="find_in_page",
            category=Categories.CURATE,
            help_markdown="Finds pages by what is on them, and shows where each matches",
        )

    def on_load(self, ctx: Any) -> None:
        ctx.panel.state.clear()

    def on_change_dataset(self, ctx: Any) -> None:
        ctx.panel.state.clear()

    def execute(self, ctx: Any) -> Any:
        # A search whose dataset was left meanwhile has nothing to show.
        if ctx.params.get("dataset", ctx.dataset_name) == ctx.dataset_name:
            return super().execute(ctx)

    def render(self, ctx: Any) -> types.Property:
        return layout(self, ctx.panel.state, searchable_keys(ctx.dataset))

    #
    # What a person does
    #

    def search(self, ctx: Any) -> None:
        """Starts the search for what is in the field."""
        state = ctx.panel.state
        query = (state.get("form.query") or "").strip()
        keys = searchable_keys(ctx.dataset)
        key = state.get("form.brain_key")
        if not query or not keys:
            return

        state.set({"busy": True, "error": None})
        ctx.panel.set_data({"status": "Starting", "fraction": None})
        params = {"query": query, "brain_key": key if key in keys else keys[0]}
        ctx.trigger(f"{self.plugin_name}/{RunPageSearch.NAME}", {**params, **_addressed(ctx)})

    def open_page(self, ctx: Any) -> None:
        """Opens a page that was found, with its heatmap."""
        self.show_results(ctx)
        ctx.ops.open_sample(id=ctx.params["id"])
        ctx.ops.set_active_fields(shown_fields(ctx.dataset, ctx.active_fields, MATCH))

    def show_results(self, ctx: Any) -> None:
        """Shows the pages that were found in the grid."""
        ctx.panel.state.set("document", None)
        ctx.trigger("set_view", {"view": ctx.panel.state.get("view")})

    def show_document(self, ctx: Any) -> None:
        """Shows all pages of a document in the grid, in order."""
        ctx.panel.state.set("document", ctx.params["document"])
        ctx.ops.set_view(_pages_of(ctx.dataset, ctx.params["document"]))
        ctx.ops.set_active_fields(shown_fields(ctx.dataset, ctx.active_fields, MATCH))

    def show_all(self, ctx: Any) -> None:
        """Shows the pages that were searched in the grid."""
        ctx.panel.state.set("document", None)
        ctx.trigger("set_view", {"view": ctx.panel.state.get("searched_view")})

    #
    # What a search reports at its end
    #

    def show_found(self, ctx: Any) -> None:
        """Shows what a search found."""
        ctx.panel.state.set({"busy": False, "error": None, "document": None, **ctx.params["found"]})
        ctx.panel.set_data("results", ctx.params["pictures"])
        ctx.ops.reload_dataset()
        ctx.trigger("set_view", {"view": ctx.panel.state.get("view")})
        ctx.ops.set_active_fields(shown_fields(ctx.dataset, ctx.active_fields, MATCH))

    def show_failure(self, ctx: Any) -> None:
        """Shows why a search failed."""
        ctx.panel.state.set({"busy": False, "error": ctx.params["error"]})


class RunPageSearch(foo.Operator):
    """Runs a search of the panel, and reports to it."""

    NAME = "run_page_search"

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name=self.NAME, label="Run a search of Page search", unlisted=True, execute_as_generator=True
        )

    def execute(self, ctx: Any) -> Iterator:
        panel, addressed = f"{self.plugin_name}/page_search", _addressed(ctx)

        def report(status, fraction=None):
            return ctx.ops.patch_panel_data({"status": status, "fraction": fraction})

        try:
            query, key = ctx.params["query"], ctx.params["brain_key"]
            pages = pages_to_search(ctx)
            view, distances = yield from iter_search(ctx.dataset, pages, key, query, PAGES, MATCH, report)
            yield report("Drawing the pages")
            rows, pictures = _describe(view, query, distances)
            found = {"asked": query, "rows": rows, "view": _serialized(view), "searched": len(pages)}
            found["searched_view"] = _serialized(pages)
            yield ctx.trigger(f"{panel}#show_found", {"found": found, "pictures": pictures, **addressed})
        except Exception as error:
            # The App's server drops what a generator raises, and the panel would wait for ever.
            logger.warning("The search for %r failed", ctx.params.get("query"), exc_info=True)
            yield ctx.trigger(f"{panel}#show_failure", {"error": f"{type(error).__name__}: {error}", **addressed})


def searchable_keys(dataset: fo.Dataset) -> list[str]:
    """Returns the brain keys of the indexes of whole pages that know the name of their model."""
    indexes = late_interaction_indexes(dataset).items()
    return sorted(key for key, config in indexes if config.model is not None and config.patches_field is None)


def pages_to_search(ctx: Any) -> Any:
    """Returns the pages that a person sees, but those that they saw before where the panel has changed the view."""
    view, document = target(ctx), ctx.panel.state.get("document")
    if document is not None:
        shown = _pages_of(ctx.dataset, document)._stages
        stages = list(view.view()._stages)
        if stages[: len(shown)] == shown:
            view = fo.DatasetView._build(ctx.dataset, ctx.panel.state.get("searched_view"))
            for stage in stages[len(shown) :]:
                view = view.add_stage(stage)
    return before_search(view)


def _pages_of(dataset, document):
    return dataset.match({"document": document}).sort_by("page")


def _addressed(ctx):
    """The parameters by which a panel and its operator find each other."""
    return {"panel_id": ctx.panel_id, "panel_state": ctx.panel_state, "dataset": ctx.dataset_name}


def _serialized(view):
    return json.loads(json_util.dumps(view.view()._serialize()))


def _describe(view, query, distances):
    """Describes the pages that were found, and draws them.

    Returns:
        a tuple of the rows that :func:`layout.layout` shows, and the pictures in them
    """
    rows, pictures = [], {}
    for rank, sample in enumerate(view):
        document, page, pages, text, match = (
            sample[name] if sample.has_field(name) else None for name in ("document", "page", "pages", "text", MATCH)
        )
        row = {"id": sample.id, "document": document, "title": Path(sample.filepath).name, "snippet": ""}
        if document is not None:
            row["title"] = document if pages == 1 else f"{document} · page {page}"
        row["pages"] = pages
        if text:
            row["snippet"] = in_markdown(snippet(text, query, _SNIPPET), query)
        row["score"] = round(1 - sample[distances], 3)
        try:
            pictures[f"row{rank}"] = {"picture": thumbnail(sample.filepath, None if match is None else match.map)}
        except ImageError as error:
            row["unreadable"] = str(error)
        rows.append(row)
    return rows, pictures
