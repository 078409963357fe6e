"""The search that the operator *Search pages* and the panel *Page search* share."""

import json
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import fiftyone as fo
import fiftyone.core.media as fom
import fiftyone.zoo as foz
from bson import json_util
from fiftyone.core.collections import SampleCollection

from ..engine.image_files import check_dataset_path
from ..integration.query_labels import clear_stale, has_colour, show_by_default

BACKEND = "late-interaction"

# The description of the fields of distances that a search made, by which the next one finds them again.
_DISTANCES = "The distances of the last search by Search pages"

# Pages whose heatmaps are drawn between two reports of the progress.
_HEATMAPS_AT_ONCE = 4

# Stages that keep a page for what it is, whatever the order and the number of the others: those of the sidebar, of the
# grid's order and of selected samples. A search before them can be left out, and not one before a limit, say.
_FILTERS = (
    fo.Exclude,
    fo.ExcludeFields,
    fo.Exists,
    fo.FilterField,
    fo.FilterKeypoints,
    fo.FilterLabels,
    fo.Match,
    fo.MatchLabels,
    fo.MatchTags,
    fo.Select,
    fo.SelectFields,
    fo.SetField,
    fo.SortBy,
)

# FiftyOne keeps one object of an index in a process, and sets its view for a search. Two people may search at once.
_ranking = threading.Lock()


class Found(NamedTuple):
    """What a search found.

    Args:
        view: the :class:`fiftyone.core.view.DatasetView` of the pages, the best first
        distances: the name of the field of their distances
        has_new_colour: whether the heatmaps' field has got its colour by this search
    """

    view: fo.DatasetView
    distances: str
    has_new_colour: bool


def late_interaction_indexes(dataset: fo.Dataset) -> dict[str, Any]:
    """Returns the settings of a dataset's late-interaction indexes, by brain key."""
    keys = dataset.list_brain_runs(type="similarity", method=BACKEND)
    return {key: dataset.get_brain_info(key).config for key in keys}


def target(ctx: Any) -> SampleCollection:
    """Returns the samples that a person chose: of groups, those of the slice that is shown; of documents, all pages."""
    view = ctx.target_view()
    if not view._is_dynamic_groups:
        return ctx.target_view(require_flat=True)

    # FiftyOne takes these for groups with slices, and its data loaders cannot read the flattened view.
    return ctx.dataset.select(view.flatten().values("id"))


def before_search(view: SampleCollection) -> SampleCollection:
    """Returns a view without the searches in it, so that the next search is not among the last one's results.

    What filters the results stays, as the sidebar does. A search whose results were limited, grouped or the like is
    left in place: who does that wants these.

    Args:
        view: a dataset or view

    Returns:
        a dataset or view
    """
    stages = list(view.view()._stages)
    kept: list[Any] = []
    while stages:
        stage = stages.pop()
        if not _is_search(stage):
            kept.insert(0, stage)
            if not isinstance(stage, _FILTERS):
                break
        # The App's search box adds a selection of the ids that it found. Other selections are the person's.
        elif stages and isinstance(stages[-1], fo.Select) and len(stages[-1].sample_ids) == getattr(stage, "k", None):
            stages.pop()

    before = view._base_view if isinstance(view, fo.DatasetView) else view
    for stage in [*stages, *kept]:
        before = before.add_stage(stage)
    return before


def _is_search(stage):
    # Searches by words, and those of FiftyOne's own panel, are ordered selections. Those by clicks are not.
    return isinstance(stage, fo.SortBySimilarity) or (isinstance(stage, fo.Select) and bool(stage.ordered))


def iter_search(
    dataset: fo.Dataset,
    pages: SampleCollection,
    brain_key: str,
    query: str,
    k: int,
    heatmaps_field: str | None,
    report: Callable[..., Any],
    mode: str | None = None,
) -> Generator[Any, None, Found]:
    """Searches pages or videos, and writes where each page that is found matched, or when each video did.

    Args:
        dataset: the dataset
        pages: the dataset, or a view of it, to search
        brain_key: the index
        query: what to look for
        k: the number of pages to find
        heatmaps_field: the field of the heatmaps, or ``None`` for no heatmaps. Patches have none
        report: a function that makes what is yielded of a text and a progress, from 0 to 1 or left out
        mode (None): ``"hybrid"``, ``"vectors"`` or ``"text"``, which needs no model and draws no heatmaps. By default
            the index's own

    Yields:
        what ``report`` returns

    Returns:
        what was found
    """
    config = late_interaction_indexes(dataset)[brain_key]
    if mode != "text":
        yield report("Loading the model")
        model = foz.load_zoo_model(config.model, **(config.model_kwargs or {}))

    if config.patches_field is not None:
        heatmaps_field = None
        pages = pages if pages._is_patches else pages.to_patches(config.patches_field)
    distances = _distance_field(dataset, brain_key)
    if config.patches_field is None and not dataset.has_field(distances):
        dataset.add_sample_field(distances, fo.FloatField, description=_DISTANCES)
    yield report("Searching")
    with _ranking:
        view = _rank(pages, brain_key, query, k, distances, mode)

    found = dataset.select(view.values("sample_id" if view._is_patches else "id"), ordered=True)
    is_video = dataset.media_type == fom.VIDEO
    if not is_video:
        _fill_metadata(found)
    had_colour = has_colour(dataset, heatmaps_field)
    if heatmaps_field is not None and mode == "text":
        clear_stale(dataset, {heatmaps_field: query})
    elif heatmaps_field is not None and is_video:
        yield report("Looking for the moments that match")
        index = dataset.load_brain_results(brain_key)
        model.moments(found, query, label_field=heatmaps_field, num_workers=0, progress=False, index=index)
    elif heatmaps_field is not None:
        options = {"batch_size": _HEATMAPS_AT_ONCE, "num_workers": 0, "progress": False}
        options["index"] = dataset.load_brain_results(brain_key)
        for done, total in model.iter_heatmaps(found, query, label_field=heatmaps_field, **options):
            yield report(f"Heatmaps of {done} of {total} pages", done / total if total else 1)
    show_by_default(dataset, shown_fields(dataset, [], heatmaps_field))
    return Found(view, distances, has_colour(dataset, heatmaps_field) and not had_colour)


def _rank(pages, brain_key, query, k, distances, mode):
    if mode is None:
        # As a stage, which says in the App what was searched.
        return pages.sort_by_similarity(query, k=k, brain_key=brain_key, dist_field=distances)

    index = pages._root_dataset.load_brain_results(brain_key)
    with index.use_view(pages):
        return index.sort_by_similarity(query, k=k, dist_field=distances, mode=mode)


def iter_show(ctx: Any, view: str, fields: list[str], has_new_colour: bool) -> Iterator[Any]:
    """Shows pages that were found in the App.

    Args:
        ctx: the :class:`fiftyone.operators.ExecutionContext`
        view: what :func:`serialized` returned
        fields: the fields to show
        has_new_colour: see :class:`Found`

    Yields:
        the App's operations
    """
    yield ctx.ops.reload_dataset()
    if has_new_colour:
        # An open App goes on with the colours that it began with.
        yield ctx.trigger("set_color_scheme", {"fields": ctx.dataset.app_config.color_scheme.fields})
    yield show_view(ctx, view)
    yield ctx.ops.set_active_fields(fields)


def serialized(view: SampleCollection) -> str:
    """Returns a view as JSON. It stays a string, since the App's server makes objects of ids in what it is sent."""
    return json_util.dumps(view.view()._serialize())


def show_view(ctx: Any, view: str) -> Any:
    """Shows a view that was serialized in the App, and returns the operation."""
    return ctx.trigger("set_view", {"view": json.loads(view)})


def shown_fields(samples: SampleCollection, active: list[str], heatmaps_field: str | None) -> list[str]:
    """Returns the fields to show on pages that were found: what is shown already, and what tells the pages apart.

    Args:
        samples: the pages, or the dataset
        active: the fields that are shown already
        heatmaps_field: the field of the heatmaps, or ``None``
    """
    wanted = [field for field in ("document", "page", heatmaps_field) if field and samples.has_field(field)]
    return [*dict.fromkeys([*active, *wanted])]


def _fill_metadata(samples):
    """Stores the size of each image that has none stored, which the App would look up each time."""
    for sample in samples.exists("metadata", False).iter_samples(autosave=True, progress=False):
        try:
            sample.metadata = fo.ImageMetadata.build_for(check_dataset_path(sample.filepath))
        except Exception:
            continue  # the App, and the heatmaps, tell of images that cannot be read


def _distance_field(dataset, key):
    """The name of a field for the distances that is new or a search's own."""
    name, number = f"{key}_distance", 1
    schema = dataset.get_field_schema()
    while name in schema and schema[name].description != _DISTANCES:
        number += 1
        name = f"{key}_distance_{number}"
    return name
