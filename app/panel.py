"""The panel *Page search*: a query, the pages that it finds with where they match, and the documents that they are in.

The panel's state and data are in the browser, so that each person has their own. A search runs in an operator of its
own, :class:`RunPageSearch`, since only operators, and no panels, can report while they run.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import fiftyone.operators as foo
from bson import json_util
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from ..engine.image_files import ImageError
from ..integration.query_labels import MATCH
from ..late_interaction.snippets import in_markdown, snippet
from .layout import layout
from .searching import (
    before_search,
    iter_search,
    iter_show,
    late_interaction_indexes,
    serialized,
    show_view,
    shown_fields,
    target,
)
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
        return layout(self, ctx.panel.state, searchable_indexes(ctx.dataset))

    #
    # What a person does
    #

    def search(self, ctx: Any) -> None:
        """Starts the search for what is in the field."""
        state = ctx.panel.state
        asked = {**(state.get("form") or {}), **(state.get("options") or {})}
        query, settings = (asked.get("query") or "").strip(), searchable_indexes(ctx.dataset)
        if not query or not settings:
            return

        key = asked.get("brain_key")
        key = key if key in settings else next(iter(settings))
        params = {"query": query, "brain_key": key, "mode": _mode(asked) if settings[key] else None}
        state.set({"busy": True, "error": None, "results": None})
        ctx.panel.set_data({"status": "Starting", "fraction": None, "results": None})
        ctx.trigger(f"{self.plugin_name}/{RunPageSearch.NAME}", {**params, **_addressed(ctx)})

    def open_page(self, ctx: Any) -> None:
        """Opens a page that was found."""
        ctx.ops.open_sample(id=ctx.params["id"])

    def show_results(self, ctx: Any) -> None:
        """Shows the pages that were found in the grid."""
        self._show(ctx, "results", ctx.panel.state.get("view"))

    def show_all(self, ctx: Any) -> None:
        """Shows the pages that were searched in the grid."""
        self._show(ctx, "all", ctx.panel.state.get("searched_view"))

    def show_document(self, ctx: Any) -> None:
        """Shows all pages of a document in the grid, in order."""
        self._show(ctx, "document", serialized(_pages_of(ctx.dataset, ctx.params["document"])))
        ctx.panel.state.set("document", ctx.params["document"])
        ctx.ops.set_active_fields(shown_fields(ctx.dataset, ctx.active_fields, MATCH))

    def _show(self, ctx, shown, view):
        ctx.panel.state.set({"shown": shown, "document": None})
        show_view(ctx, view)

    #
    # What a search reports at its end
    #

    def show_found(self, ctx: Any) -> None:
        """Shows what a search found."""
        found = ctx.params["found"]
        ctx.panel.state.set({"busy": False, "error": None, "shown": "results", "document": None, **found})
        fields = shown_fields(ctx.dataset, ctx.active_fields, MATCH)
        for _ in iter_show(ctx, found["view"], fields, ctx.params["has_new_colour"]):
            pass

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
        addressed = _addressed(ctx)

        def tell(method, **params):
            return ctx.trigger(f"{self.plugin_name}/page_search", {"__method__": method, **params, **addressed})

        def report(status, fraction=None):
            return ctx.ops.patch_panel_data({"status": status, "fraction": fraction})

        try:
            pages, query, had_match = pages_to_search(ctx), ctx.params["query"], ctx.dataset.has_field(MATCH)
            asked = {"heatmaps_field": MATCH, "mode": ctx.params["mode"], "report": report}
            found = yield from iter_search(ctx.dataset, pages, ctx.params["brain_key"], query, PAGES, **asked)
            yield report("Drawing the pages")
            # By words, too, a score says no more than the order.
            has_scores = ctx.params["mode"] == "vectors" or not searchable_indexes(ctx.dataset)[ctx.params["brain_key"]]
            rows, pictures = _describe(found, query, has_scores)
            yield ctx.ops.patch_panel_data({"results": pictures})
            state = {"asked": query, "rows": rows, "searched": len(pages)}
            state |= {"view": serialized(found.view), "searched_view": serialized(pages)}
            yield tell("show_found", found=state, has_new_colour=found.has_new_colour)
            if not had_match and ctx.dataset.has_field(MATCH):
                # The App knows the fields of opened pages from when it was loaded.
                yield ctx.ops.notify("Load the browser's page again to see where opened pages match", variant="info")
        except Exception as error:
            # The App's server drops what a generator raises, and the panel would wait for ever.
            logger.warning("The search for %r failed", ctx.params.get("query"), exc_info=True)
            yield tell("show_failure", error=f"{type(error).__name__}: {error}")


def searchable_indexes(dataset: fo.Dataset) -> dict[str, bool]:
    """Returns the indexes of whole pages that know their model's name: by brain key, whether each has words, too."""
    if dataset.media_type == fom.VIDEO:
        return {}

    return {
        key: getattr(config, "text_field", None) is not None
        for key, config in sorted(late_interaction_indexes(dataset).items())
        if config.model is not None and config.patches_field is None
    }


def pages_to_search(ctx: Any) -> Any:
    """Returns the pages that a person sees, but those that they saw before where the panel has changed the view."""
    view, document = target(ctx), ctx.panel.state.get("document")
    if document is not None:
        shown = _pages_of(ctx.dataset, document)._stages
        stages = list(view.view()._stages)
        if stages[: len(shown)] == shown:
            view = fo.DatasetView._build(ctx.dataset, json_util.loads(ctx.panel.state.get("searched_view")))
            for stage in stages[len(shown) :]:
                view = view.add_stage(stage)
    return before_search(view)


def _pages_of(dataset, document):
    return dataset.match({"document": document}).sort_by("page")


def _addressed(ctx):
    """The parameters by which a panel and its operator find each other."""
    return {"panel_id": ctx.panel_id, "panel_state": _without_data(ctx.panel_state), "dataset": ctx.dataset_name}


def _without_data(state):
    # The App copies a panel's data into its state when a person types. Pictures need not go to and fro.
    return {name: value for name, value in state.items() if name not in ("results", "status", "fraction")}


def _mode(asked):
    # As the index does by itself, which the view bar can show.
    return None if asked.get("mode") == "hybrid" else asked.get("mode")


def _describe(found, query, has_scores):
    """Describes the pages that were found, and draws them.

    Returns:
        a tuple of the rows that :func:`layout.layout` shows, and the pictures in them
    """
    rows, pictures = [], {}
    for rank, sample in enumerate(found.view):
        names = ("document", "page", "pages", "text", MATCH)
        document, page, pages, text, match = (sample[name] if sample.has_field(name) else None for name in names)
        row = {"id": sample.id, "title": Path(sample.filepath).name, "document": document if pages != 1 else None}
        if document is not None:
            row["title"] = document if pages == 1 else f"{document} · page {page} of {pages}"
        row["snippet"] = in_markdown(snippet(text or "", query, _SNIPPET), query)
        row["score"] = f"{1 - sample[found.distances]:.2f}" if has_scores else ""
        try:
            pictures[f"row{rank}"] = {"picture": thumbnail(sample.filepath, None if match is None else match.map)}
        except ImageError as error:
            row["unreadable"] = str(error)
        rows.append(row)
    return rows, pictures
