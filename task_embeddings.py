"""Embeddings for several tasks in one pass over a dataset: the vision tower, half of the work, runs once for all."""

import itertools

import fiftyone.utils.torch as fout
import torch

from .batches import FailedImage


def compute_task_embeddings(model, samples, fields, batch_size=16, num_workers=None, skip_failures=True, progress=None):
    """Embeds images for several tasks, each into a field of its own.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of images
        fields: a dict of the fields to write, by task, eg ``{"retrieval": "retrieval", "code": "code"}``
        batch_size (16): the number of images that are prepared together
        num_workers (None): the number of processes that load and resize images
        skip_failures (True): whether to leave the fields of an image that cannot be read as they are, and warn, in
            place of raising an error
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says
    """
    images = torch.utils.data.DataLoader(
        samples.to_torch(model.build_get_item(), skip_failures=skip_failures),
        batch_size=batch_size,
        num_workers=fout.recommend_num_workers(num_workers),
        collate_fn=model.collate_fn,
        worker_init_fn=fout.FiftyOneTorchDataset.worker_init,
    )
    saving = samples.select_fields(list(_existing(samples, fields))).iter_samples(autosave=True, progress=progress)
    with model:
        for batch in images:
            batch, vectors = model.embed_for_tasks(batch, list(fields), skip_failures)
            vectors = {task: iter(rows) for task, rows in vectors.items()}
            for image, sample in zip(batch, itertools.islice(saving, len(batch)), strict=True):
                if isinstance(image, FailedImage):
                    continue
                for task, field in fields.items():
                    sample[field] = next(vectors[task])

        # The last sample is saved when the next is asked for.
        next(saving, None)


def _existing(samples, fields):
    schema = samples.get_field_schema()
    return (field for field in fields.values() if field in schema)
