"""Embeds the images of a dataset by Ray Data, into fields or a late-interaction index."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.core.odm as foo
import fiftyone.core.utils as fou
import pyarrow as pa
from fiftyone.core.collections import SampleCollection

from .. import DEMO_MODEL, checkpoint_of
from ..engine.arguments import check_choice, check_integer
from ..engine.checkpoint import REPOSITORY, read_config, resolve
from ..engine.images import ImageSettings
from ..integration.config import JinaV4Config
from ..integration.parameters import PARAMETERS
from ..late_interaction.index import check_owner
from ..late_interaction.indexing import flat
from ..late_interaction.similarity import prepare_index
from .cluster import Workers, connected, find_ray, importable, is_one_machine, plan_workers
from .report import Report, in_words
from .sinks import FieldSink, IndexSink, Sink
from .worker import LOADED_AT_ONCE, Embedder, ModelSource, load_images

if TYPE_CHECKING:
    from ..zoo import JinaV4

# The images in a block, which is what is committed at a time: half a minute's work on a CPU, a second's on a GPU.
# Blocks of images that are smaller than the model takes have more.
_IMAGES_PER_BLOCK = {"cpu": 8, "gpu": 64}

# The images that one task loads. Ray keeps some KB in the driver for each task.
_IMAGES_PER_TASK = 512
# What the first tasks load, so that there soon is an estimate.
_IMAGES_OF_FIRST_TASKS = 4
_SELECTED_AT_ONCE = 50_000

_SENT_VARIABLES = ("FIFTYONE_", "JINA_V4_", "HF_", "HUGGINGFACE_")

logger = logging.getLogger("fiftyone")


def embed(
    samples: SampleCollection,
    model: "str | JinaV4",
    embeddings_field: str | None = None,
    brain_key: str | None = None,
    tasks: Mapping[str, str] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    address: str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Report:
    """Embeds the images of a dataset on all GPUs of a machine or a cluster, or in several processes on CPUs.

    Images that have their vectors are left out, so after a crash the same call goes on. An image that cannot be read or
    embedded costs only itself.

    Args:
        samples: a dataset or view of images
        model: the model's name in the zoo, or a :class:`jina_embeddings_v4.zoo.JinaV4`, whose settings are sent to the
            workers. They load the weights themselves
        embeddings_field (None): the field to write single vectors to
        brain_key (None): the key of a late-interaction index, which is made or continued
        tasks (None): a dict of further fields by task, eg ``{"code": "code_vector"}``
        model_kwargs (None): for a model's name, the arguments of ``load_zoo_model``
        address (None): the address of a Ray cluster, ``"auto"`` for one that runs on this machine, or ``"local"`` for a
            new one. ``None`` takes one that runs on this machine, or else starts Ray, and stops it at the end
        workers (None): the number of processes that hold the model, by default one a GPU, or one a machine without any
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
        **settings: arguments of :class:`late_interaction.similarity.LateInteractionSimilarityConfig`, eg ``dtype``

    Returns:
        a :class:`distributed.report.Report`

    Raises:
        ImportError: if Ray is not installed
        ValueError: if an argument is not allowed, or if workers cannot reach the database
        RuntimeError: if a worker fails, for instance because the disk is full
    """
    steps = iter_embed(samples, model, embeddings_field, brain_key, tasks, model_kwargs, address, workers, **settings)
    report = next(steps)
    if not report.total:
        return report

    # The bar's own estimate would count the loading of the model as images.
    options = {"show_remaining_time": False, "show_iter_rate": False}
    with fou.ProgressBar(total=report.total, progress=progress, **options) as bar:
        for report in steps:
            left = report.seconds_left
            bar.set_iteration(report.done, suffix="" if left is None else f"about {in_words(left)} left")
    if report.failed:
        logger.warning("%d images could not be embedded: the result lists them", len(report.failed))
    return report


def iter_embed(
    samples: SampleCollection,
    model: "str | JinaV4",
    embeddings_field: str | None = None,
    brain_key: str | None = None,
    tasks: Mapping[str, str] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    address: str | None = None,
    workers: int | None = None,
    **settings: Any,
) -> Iterator[Report]:
    """Does what :func:`embed` does, and reports its progress.

    Args:
        samples: see :func:`embed`
        model: see there
        embeddings_field (None): see there
        brain_key (None): see there
        tasks (None): see there
        model_kwargs (None): see there
        address (None): see there
        workers (None): see there
        **settings: see there

    Yields:
        at the start, after each block and at the end, the same :class:`distributed.report.Report`
    """
    check_integer("workers", workers, 1, or_none=True)
    ray = find_ray(address)
    source, directory, config = _find_model(model, model_kwargs)
    samples = _check_samples(samples, settings)
    fields: list[tuple[str | None, str]] = [(None, embeddings_field)] if embeddings_field else []
    fields += (tasks or {}).items()
    for task, _ in fields:
        if task is not None:
            check_choice("task", task, read_config(directory)["task_names"])
    if len({field for _, field in fields}) < len(fields):
        raise ValueError(f"Two tasks cannot share a field: {', '.join(field for _, field in fields)}")
    if brain_key is None and settings:
        raise TypeError(f"Unknown argument {next(iter(settings))!r}: settings of an index need a brain_key")
    if not fields and brain_key is None:
        raise ValueError("Pass an embeddings_field, tasks or a brain_key: there is nowhere to write the vectors")

    for _, field in fields:
        _check_field(samples._root_dataset, field)
    sinks: list[Sink] = []
    if brain_key is not None:
        sinks.append(_prepare_index_sink(samples, brain_key, model, model_kwargs, settings))
    sinks += [_prepare_field_sink(samples._root_dataset, field, task) for task, field in fields]

    ids = samples.values("id")
    lacking = set().union(*(sink.missing(ids) for sink in sinks))
    report = Report(total=len(lacking), present=len(ids) - len(lacking))
    yield report
    if lacking:
        settings_of_images = ImageSettings.from_checkpoint(directory)
        with connected(ray, address):
            yield from _run(ray, samples, ids, lacking, source, config, settings_of_images, sinks, workers, report)
            # This process has the samples and the index as they were before.
            samples._root_dataset.reload()
            if brain_key is not None:
                samples._root_dataset.load_brain_results(brain_key).reload()


def _run(ray, samples, ids, lacking, source, config, settings, sinks, workers, report):
    """Embeds the images with the given ids."""
    plan = plan_workers(ray, config.device == "cpu", workers)
    report.workers = plan.describe()
    environment = _environment(ray)
    device = "cuda" if plan.threads is None else ("cpu" if config.device == "cpu" else None)
    source = ModelSource(source.name, dict(source.config) | {"device": device})

    per_task = max(1, min(_IMAGES_PER_TASK, len(lacking) // (4 * plan.count)))
    tables = list(_tables(samples, [sample_id for sample_id in ids if sample_id in lacking], plan.count, per_task))
    data = ray.data.from_arrow(tables)
    data.context.enable_progress_bars = False
    per_block = _IMAGES_PER_BLOCK["cpu" if plan.threads else "gpu"]
    data.context.target_max_block_size = per_block * 3 * settings.check_max_pixels(config.max_pixels)
    found = importable()
    data = data.map_batches(
        load_images,
        batch_size=min(LOADED_AT_ONCE, per_task),
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={"settings": settings, "max_pixels": config.max_pixels, "environment": environment},
        **found,
    ).map_batches(
        Embedder,
        batch_size=None,
        batch_format="pyarrow",
        compute=_actor_pool(ray, plan),
        # Ray counts processors for the tasks that load images alone. So it can start a process without a GPU anew on
        # any machine that is left.
        num_cpus=0,
        num_gpus=plan.num_gpus or None,
        fn_constructor_kwargs={
            "model": source,
            "sinks": sinks,
            "environment": environment,
            "threads": plan.threads,
        },
        **found,
    )
    try:
        for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in block.to_pylist():
                error = row.pop("error")
                if error is not None:
                    raise RuntimeError(_stopped(report, error))
                is_first = report.seconds_left is None
                report.add(**(row | {"failed": json.loads(row["failed"])}), workers=plan.count)
                if is_first and report.seconds_left is not None:
                    logger.info(
                        "%s images, about %s on %s", f"{report.total:,}", in_words(report.seconds_left), report.workers
                    )
            yield report
    except ray.exceptions.RayError as error:
        raise RuntimeError(_stopped(report, f"{type(error).__name__}: {error}")) from error


def _stopped(report, error):
    return (
        f"Embedding stopped after {report.done:,} of {report.total:,} images: {error}. What is embedded is kept, and "
        "the same call goes on with the rest"
    )


def _actor_pool(ray: ModuleType, plan: Workers) -> Any:
    return ray.data.ActorPoolStrategy(
        size=plan.count,
        # While one thread commits a block, the other embeds the next.
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=3,
    )


def _tables(samples, ids, workers, per_task):
    """Yields tables of ids and paths, one for each task that loads images."""
    first = min(_IMAGES_OF_FIRST_TASKS, per_task)
    rows, count = [], 0
    for start in range(0, len(ids), _SELECTED_AT_ONCE):
        view = samples.select(ids[start : start + _SELECTED_AT_ONCE])
        rows += zip(*view.values(["id", "filepath"]), strict=True)
        while rows:
            size = first if count < workers else per_task
            if len(rows) < size and start + _SELECTED_AT_ONCE < len(ids):
                break
            part, rows = rows[:size], rows[size:]
            yield pa.table(
                {name: list(column) for name, column in zip(("id", "path"), zip(*part, strict=True), strict=True)}
            )
            count += 1


def _find_model(model, model_kwargs):
    """Returns the source of a model, its checkpoint's directory on this machine, and its config."""
    if isinstance(model, str):
        check_choice("model", model, (REPOSITORY, DEMO_MODEL))
        source = ModelSource(model, dict(model_kwargs or {}))
    elif hasattr(model, "encode_images") and hasattr(model, "encoder"):
        if model_kwargs:
            raise ValueError("model_kwargs are for a model's name: set them on the loaded model, or pass its name")
        values = {name: getattr(model.config, name) for name in PARAMETERS}
        source = ModelSource(None, values | {"task": model.task, "checkpoint": str(model.encoder.directory)})
    else:
        raise ValueError(f"Expected a model's name, {REPOSITORY!r}, or a loaded JinaV4, found a {type(model).__name__}")

    # Downloaded here, where an error is seen at once.
    config = JinaV4Config(dict(source.config))
    directory = resolve(config.checkpoint or checkpoint_of(source.name))
    check_choice("task", config.task, read_config(directory)["task_names"])
    return source, directory, config


def _check_samples(samples, settings):
    if samples._is_patches or settings.get("patches_field"):
        raise ValueError(
            "Ray embeds whole images. Index patches by fob.compute_similarity(..., patches_field=...), which runs in "
            "this process"
        )
    if samples._is_generated:
        raise ValueError("Ray's processes cannot open a view of frames: make a dataset of it by view.clone()")
    return flat(samples)


def _check_field(dataset, field):
    found = dataset.get_field(field)
    if found is not None and not isinstance(found, fo.VectorField):
        raise ValueError(f"Field {field!r} is no VectorField, found {found}: choose another field")


def _prepare_field_sink(dataset, field, task):
    """Makes a field, unless it is there, and returns its sink."""
    if not dataset.has_field(field):
        dataset.add_sample_field(field, fo.VectorField)
    first = dataset.exists(field).limit(1).values(field)
    return FieldSink(dataset.name, field, task, len(first[0]) if first else None)


def _prepare_index_sink(samples, brain_key, model, model_kwargs, settings):
    """Makes an index, unless it is there, and returns its sink."""
    dataset = samples._root_dataset
    if isinstance(model, str):
        settings = settings | {"model": model, "supports_prompts": True}
        settings |= {"model_kwargs": dict(model_kwargs)} if model_kwargs else {}
    index = prepare_index(dataset, brain_key, **settings)
    check_owner(dataset, index.config)
    if index.config.patches_field is not None:
        raise ValueError(f"{brain_key!r} is an index of patches, and Ray embeds whole images: use index.add_samples()")
    if index.config.store == "qdrant" and "://" not in index.config.uri:
        raise ValueError(f"uri={index.config.uri!r} is for one process: pass the URL of a Qdrant server")

    index._store.repair()
    index.add_missing_texts(samples)
    return IndexSink(dataset.name, index.config.serialize(), index.config.api_key)


def _environment(ray):
    """Returns the environment variables with which a worker has this process's settings, and reaches its database."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(_SENT_VARIABLES)}
    environment["FIFTYONE_DATABASE_NAME"] = fo.config.database_name
    hosts = {host for host, _ in foo.get_db_conn().client.nodes}
    if fo.config.database_uri is not None:
        environment["FIFTYONE_DATABASE_URI"] = fo.config.database_uri
    if not is_one_machine(ray) and (not hosts or any(_is_loopback(host) for host in hosts)):
        raise ValueError(
            f"The cluster has several machines, and FiftyOne's database is at {', '.join(sorted(hosts)) or 'none'}, "
            "which the others cannot reach: run a MongoDB that all machines reach, and set FIFTYONE_DATABASE_URI"
        )
    return environment


def _is_loopback(host):
    return host == "localhost" or host.startswith("127.") or host == "::1" or host.startswith("/")
