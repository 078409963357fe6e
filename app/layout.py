"""How the panel *Page search* looks, in FiftyOne's components."""

from collections.abc import Mapping
from typing import Any

from fiftyone.operators import types

# The size of a page's picture, in pixels.
_WIDTH, _HEIGHT = 120, 150

_MODES = {"hybrid": "By meaning and words", "vectors": "By meaning", "text": "By words"}

# A row whose first cell takes the space that the second leaves.
_FILLED = {"gridTemplateColumns": "1fr auto", "alignItems": "center"}

# Buttons that look like texts.
_LINK = {"p": 0, "minWidth": 0, "textAlign": "left", "justifyContent": "start"}
_TITLE = _LINK | {"color": "text.primary", "overflowWrap": "anywhere", "& p": {"fontWeight": "bold"}}


def layout(panel: Any, state: Any, indexes: Mapping[str, bool]) -> types.Property:
    """Returns the panel's components.

    Args:
        panel: the :class:`panel.PageSearch`, whose methods the components call
        state: its state
        indexes: the brain keys of the indexes that can be searched, and whether each has words
    """
    root = types.Object()
    if not indexes:
        _no_index(root, panel)
    else:
        _form(root, panel, state, indexes)
        if state.get("error"):
            root.view("error", types.Error(label="The search failed", description=state.get("error")))
        if state.get("busy"):
            root.str("status", view=types.MarkdownView())
            root.float("fraction", view=types.ProgressView())
        elif state.get("rows") is not None:
            _results(root, panel, state)
    return types.Property(root, view=_stack("vertical", gap=2, px=3, py=2))


def _no_index(root, panel):
    root.view(
        "no_index",
        types.Notice(
            label="There is no index of pages yet",
            description="*Index pages* makes one, by which pages are searched.",
        ),
    )
    buttons = root.btn_group("buttons")
    operator = f"{panel.plugin_name}/index_pages"
    buttons.btn("index", label="Index pages", on_click=operator, prompt=True, variant="contained")
    buttons.btn("look", label="Look again", on_click=panel.on_load, variant="outlined")


def _form(root, panel, state, indexes):
    # A form, so that the Enter key clicks its button. By this method it does nothing else, outside a dialog.
    form = types.Object()
    form.str(
        "query",
        view=types.TextFieldView(compact=True, placeholder="What to look for, such as an invoice with a stamp"),
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
    props = {"container": {"component": "form", "method": "dialog"}, "grid": {"sx": _FILLED}}
    root.define_property("form", form, view=types.GridView(orientation="horizontal", componentsProps=props))

    options = types.Object()
    key = (state.get("options") or {}).get("brain_key")
    if len(indexes) > 1:
        _choice(options, "brain_key", {key: f"Index {key}" for key in indexes})
    if indexes.get(key, next(iter(indexes.values()))):
        _choice(options, "mode", _MODES)
    if options.properties:
        root.define_property("options", options, view=types.GridView(orientation="horizontal"))


def _choice(form, name, labels):
    choices = types.DropdownView(compact=True)
    for value, label in labels.items():
        choices.add_choice(value, label=label)
    form.enum(name, choices.values(), default=next(iter(labels)), view=choices)


def _results(root, panel, state):
    rows, shown = state.get("rows"), state.get("shown")
    head = types.Object()
    head.md(f"**{len(rows)} of {state.get('searched')} pages** for “{state.get('asked')}”", name="found")
    if shown == "results":
        head.btn("all", label="Show all pages", on_click=panel.show_all, variant="outlined")
    else:
        head.btn("back", label="Back to the results", on_click=panel.show_results, variant="outlined")
    root.define_property("head", head, view=_stack("horizontal", _FILLED))

    results = types.Object()
    for rank, row in enumerate(rows):
        columns = {"gridTemplateColumns": f"{_WIDTH}px 1fr", "p": 1}
        view = _stack("horizontal", columns, gap=2, variant="outline")
        results.define_property(f"row{rank}", _row(panel, state, row), view=view)
    root.define_property("results", results, view=_stack("vertical", gap=1))


def _row(panel, state, row):
    cells, text, title = types.Object(), types.Object(), types.Object()
    opened = {"operator": panel.open_page, "params": {"id": row["id"]}}
    style = {"maxWidth": "100%", "maxHeight": f"{_HEIGHT}px", "display": "block", "margin": "auto"}
    cells.str("picture", view=types.ImageView(alt=row["title"], componentsProps={"image": {"style": style}}, **opened))

    title.btn(
        "open",
        label=row["title"],
        componentsProps={"button": {"variant": "text", "sx": _TITLE}},
        on_click=panel.open_page,
        params={"id": row["id"]},
    )
    title.md(row["score"], name="score", componentsProps={"container": {"sx": {"color": "text.secondary"}}})
    text.define_property("title", title, view=_stack("horizontal", _FILLED))
    if row.get("unreadable"):
        text.view("unreadable", types.Warning(label=row["unreadable"]))
    if row["snippet"]:
        text.md(row["snippet"], name="snippet")
    if row["document"] is not None:
        text.btn(
            "document",
            label="Show the whole document",
            icon="library_books",
            componentsProps={"button": {"variant": "text", "sx": _LINK}},
            on_click=panel.show_document,
            params={"document": row["document"]},
        )
    cells.define_property("text", text, view=_stack("vertical", gap=1))
    return cells


def _stack(orientation, style=(), **options):
    props = {"grid": {"sx": dict(style)}}
    return types.GridView(orientation=orientation, align_x="stretch", componentsProps=props, **options)
