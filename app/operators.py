"""The App's operators: index pages for late interaction, search them, and show where each page matched.

They make FiftyOne's own calls, so an index of the App can be searched from Python, and the other way round.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.operators as foo
from fiftyone.operators import types

from ..integration.query_labels import MATCH
from ..integration.seams import PACKAGE
from .searching import (
    BACKEND,
    before_search,
    iter_search,
    iter_show,
    late_interaction_indexes,
    serialized,
    shown_fields,
    target,
)

# What an index that exists is continued with.
_SETTINGS = (
    "model",
    "model_kwargs",
    "patches_field",
    "text_field",
    "pool_factor",
    "dtype",
    "store",
    "candidates",
    "gate",
)

MODELS = ("jinaai/jina-embeddings-v4", "jina-embeddings-v4-demo")


def _shows_errors(execute):
    """Shows an error to the person: the App's server drops what a generator raises, and the progress bar would stay."""

    @functools.wraps(execute)
    def executing(self, ctx):
        try:
            yield from execute(self, ctx)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            yield _report(ctx, f"Failed: {said}", 1)
            if not ctx.delegated:
                yield ctx.ops.notify(said, variant="error")
            # For a delegated worker, and for a call of the operator from Python.
            raise

    return executing


class IndexPages(foo.Operator):
    """Makes a late-interaction index, or adds the pages that one lacks."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="index_pages",
            label="Index pages",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        inputs.str(
            "brain_key",
            default="pages",
            required=True,
            label="Brain key",
            description="What to call the index. One that exists gets the pages that it lacks",
        )
        key = ctx.params.get("brain_key", "pages")
        made = late_interaction_indexes(ctx.dataset).get(key)
        if made is not None and made.model is None:
            _refuse(inputs, "brain_key", f"{key!r} was made by a model that was an object, not a name")
        elif made is not None:
            # It keeps the settings that it was made with.
            inputs.message("exists", label=f"{key!r} exists. The pages that it lacks will be added")
        else:
            if not key.isidentifier():
                _refuse(inputs, "brain_key", f"{key!r} is no name such as one of a Python variable")
            elif key in ctx.dataset.list_brain_runs():
                _refuse(inputs, "brain_key", f"{key!r} is another brain run. Choose another key")
            inputs.enum("model", MODELS, default=MODELS[0], required=True, label="Model")
            patches = [""] + _patches_fields(ctx.dataset)
            inputs.enum(
                "patches_field",
                patches,
                default="",
                label="Patches",
                description="A label field, to index the patches that it marks and not whole pages",
            )
            texts = _text_fields(ctx.dataset)
            if texts and not ctx.params.get("patches_field"):
                inputs.enum(
                    "text_field",
                    ["", *texts],
                    default="text" if "text" in texts else "",
                    label="Text",
                    description="A field with the pages' texts, to search by words, too",
                )
            inputs.int(
                "pool_factor",
                default=1,
                min=1,
                label="Token pooling",
                description="By what to divide a page's tokens: 2 takes half of the disk space, 3 a third",
            )
            inputs.enum(
                "dtype",
                ("float16", "int8", "binary"),
                default="float16",
                label="Precision in the index",
                description="int8 takes half of the disk space, binary a 16th and finds a little less",
            )
        inputs.int("batch_size", default=8, min=1, label="Batch size")
        inputs.int("num_workers", default=None, min=0, label="Worker processes that load images")
        if importlib.util.find_spec("ray") is not None:
            inputs.bool(
                "ray",
                default=False,
                label="Use all GPUs, by Ray",
                description="One process on each GPU of this machine, or of the Ray cluster that runs here",
            )
            if ctx.params.get("ray") and (ctx.params.get("patches_field") or (made and made.patches_field)):
                _refuse(inputs, "ray", "Ray embeds whole pages, not patches")
        ctx.target_view()
        return types.Property(inputs, view=types.View(label="Index pages"))

    @_shows_errors
    def execute(self, ctx: Any) -> Iterator:
        params = ctx.params
        key = params["brain_key"]
        settings = {name: params[name] for name in ("pool_factor", "dtype") if params.get(name)}
        settings |= {name: params.get(name) or None for name in ("model", "patches_field", "text_field")}
        if settings["patches_field"]:
            settings["text_field"] = None
        made = late_interaction_indexes(ctx.dataset).get(key)
        if made is not None:
            settings = {name: getattr(made, name) for name in _SETTINGS}

        yield _report(ctx, "Loading the model")
        pages = target(ctx)
        if params.get("ray"):
            # By the package's name, by which Ray's processes import it.
            distributed = importlib.import_module(f"{PACKAGE}.distributed")
            for report in distributed.iter_embed(pages, brain_key=key, **settings):
                yield _report(ctx, f"Indexed {report.in_words()}", report.done / report.total if report.total else 1)
            index = ctx.dataset.load_brain_results(key)
        else:
            index = fob.compute_similarity(ctx.dataset, backend=BACKEND, brain_key=key, embeddings=False, **settings)
            loading = {name: params.get(name) for name in ("batch_size", "num_workers")}
            for done, total in index.iter_add_samples(pages, progress=False, **loading):
                yield _report(ctx, f"Indexed {done} of {total} pages", done / total if total else 1)

        if not ctx.delegated:
            yield ctx.ops.reload_dataset()
        yield _report(ctx, f"{index.total_index_size} pages are in the index {key!r}", 1)


class SearchPages(foo.Operator):
    """Ranks pages by a text query, and draws on each where it matched."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="search_pages",
            label="Search pages",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        keys = _searchable(ctx.dataset)
        if not keys:
            _refuse(inputs, "brain_key", "There is no index with pages, made by a model's name: run Index pages first")
            return types.Property(inputs, view=types.View(label="Search pages"))

        inputs.enum("brain_key", keys, default=keys[0], required=True, label="Index")
        inputs.str("query", required=True, label="Query", description="What to look for, eg an invoice with a stamp")
        inputs.int("k", default=25, min=1, required=True, label="Pages to show")
        inputs.bool(
            "heatmaps",
            default=True,
            label="Show where each page matched",
            description="Writes a heatmap for each page that is found",
        )
        inputs.str("label_field", default=MATCH, label="Field of the heatmaps")
        ctx.target_view()
        return types.Property(inputs, view=types.View(label="Search pages"))

    @_shows_errors
    def execute(self, ctx: Any) -> Iterator:
        key, query = ctx.params["brain_key"], ctx.params["query"]
        field = (ctx.params.get("label_field") or MATCH) if ctx.params.get("heatmaps", True) else None
        pages = before_search(target(ctx))
        report = functools.partial(_report, ctx)
        found = yield from iter_search(ctx.dataset, pages, key, query, ctx.params["k"], field, report)

        if ctx.delegated:
            # Nobody waits for the view. The time makes its name unique.
            moment = datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            ctx.dataset.save_view(f"search {moment}: {query}"[:100], found.view)
        else:
            fields = shown_fields(found.view, ctx.active_fields, field)
            yield from iter_show(ctx, serialized(found.view), fields, found.has_new_colour)
        yield _report(ctx, f"Found {len(found.view)} pages", 1)


def _searchable(dataset):
    """The brain keys of the indexes that are complete, hold pages, and know the name of their model."""
    keys = []
    for key, config in sorted(late_interaction_indexes(dataset).items()):
        index = dataset.load_brain_results(key)
        if config.model is not None and index is not None and index.total_index_size:
            keys.append(key)
    return keys


def _patches_fields(dataset):
    schema = dataset.get_field_schema(ftype=fo.EmbeddedDocumentField)
    kinds = (fo.Detection, fo.Detections, fo.Polyline, fo.Polylines)
    return [name for name, field in schema.items() if issubclass(field.document_type, kinds)]


def _text_fields(dataset):
    """The fields of strings, but those that say which page it is."""
    others = {"filepath", "document", "file_version"}
    return [name for name in dataset.get_field_schema(ftype=fo.StringField) if name not in others]


def _report(ctx, label, progress=None):
    """Reports the progress, in the App or to a delegated worker."""
    if ctx.delegated:
        ctx.set_progress(progress, label=label)

    return ctx.ops.set_progress(label=label, progress=progress)


def _refuse(inputs, name, why):
    """Shows why a form cannot be submitted, and disables it."""
    refused = inputs.view(name if name not in inputs.properties else f"{name}_refused", types.Error(label=why))
    refused.invalid = True
