"""How the panel *Page search* looks, in FiftyOne's components."""

from typing import Any

from fiftyone.operators import types

# The width of a page's picture, in pixels.
_WIDTH = 150

_GAP = {"sx": {"gap": 2}}


def layout(panel: Any, state: Any, keys: list[str]) -> types.Property:
    """Returns the panel's components.

    Args:
        panel: the :class:`panel.PageSearch`, whose methods the components call
        state: its state
        keys: the brain keys of the indexes that can be searched
    """
    root = types.Object()
    if not keys:
        _no_index(root)
    else:
        _form(root, panel, state, keys)
        if state.get("error"):
            root.view("error", types.Error(label="The search failed", description=state.get("error")))
        if state.get("busy"):
            _progress(root)
        elif state.get("rows") is not None:
            _results(root, panel, state)
    return types.Property(root, view=types.GridView(orientation="vertical", gap=2, px=3, py=3, align_x="stretch"))


def _no_index(root):
    root.view(
        "no_index",
        types.Notice(
            label="There is no index of pages yet",
            description="*Index pages* makes one, by which the pages can be searched. Open this panel again then",
        ),
    )
    root.btn("index", label="Index pages", operator="jina_embeddings_v4/index_pages", prompt=True, variant="contained")


def _form(root, panel, state, keys):
    # A form, so that the Enter key clicks its button. By this method it does nothing else, outside a dialog.
    form = types.Object()
    form.str(
        "query",
        default="",
        view=types.TextFieldView(
            label="Query", compact=True, placeholder="What to look for, such as an invoice with a stamp"
        ),
    )
    form.btn(
        "search",
        label="Search",
        icon="search",
        on_click=panel.search,
        variant="contained",
        disabled=bool(state.get("busy")),
        componentsProps={"button": {"type": "submit"}},
    )
    props = {
        "container": {"component": "form", "method": "dialog"},
        "grid": {"sx": {"gridTemplateColumns": "1fr auto", "alignItems": "center"}},
    }
    root.define_property("form", form, view=types.GridView(orientation="horizontal", gap=1, componentsProps=props))
    if len(keys) > 1:
        form.enum("brain_key", keys, default=keys[0], view=types.DropdownView(label="Index"))


def _progress(root):
    root.str("status", view=types.MarkdownView(read_only=True))
    root.float("fraction", view=types.ProgressView())


def _results(root, panel, state):
    rows = state.get("rows")
    root.md(f"**{len(rows)} of {state.get('searched')} pages** for “{state.get('asked')}”", name="found")
    results = types.Object()
    for rank, row in enumerate(rows):
        results.define_property(
            f"row{rank}",
            _row(panel, row),
            view=types.GridView(
                orientation="horizontal",
                gap=2,
                variant="outline",
                componentsProps={"grid": {"sx": {"gridTemplateColumns": f"{_WIDTH}px 1fr"}}},
            ),
        )
    root.define_property("results", results, view=types.GridView(orientation="vertical", gap=1))


def _row(panel, row):
    cells, text = types.Object(), types.Object()
    cells.str(
        "picture",
        view=types.ImageView(width=f"{_WIDTH}px", alt=row["title"], operator=panel.open_page, params={"id": row["id"]}),
    )
    text.btn("open", label=row["title"], on_click=panel.open_page, params={"id": row["id"]})
    if row["snippet"]:
        text.md(row["snippet"], name="snippet")
    text.md(f"{row['score']:.2f}", name="score")
    if row["document"] is not None:
        text.btn(
            "document",
            label="Show the whole document",
            on_click=panel.show_document,
            params={"document": row["document"]},
        )
    cells.define_property("text", text, view=types.GridView(orientation="vertical", gap=1))
    return cells
