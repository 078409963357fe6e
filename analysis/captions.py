"""Scores how well each text fits its image, in fields to sort by in the App."""

import fiftyone.core.models as fom
import numpy as np
from fiftyone.core.collections import SampleCollection

from .pairs import check_model, embed_pairs

# Samples whose vectors are in memory at a time.
_AT_ONCE = 2000


def score_captions(
    samples: SampleCollection,
    model: fom.Model | str,
    text_field: str,
    field: str = "caption_fit",
    batch_size: int | None = None,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> dict[str, str]:
    """Writes how well the text of each sample fits its image.

    ``<field>`` is the cosine of the image and its text, in [-1, 1]. ``<field>_rank`` counts from 1, the sample with the
    lowest cosine, so that ``samples.sort_by("caption_fit_rank")`` begins with texts that may belong to another image. A
    sample whose image or text cannot be embedded is skipped, and keeps its fields.

    Args:
        samples: a dataset or view of images
        model: a FiftyOne model that embeds images and prompts, or the name of one in the zoo
        text_field: the field with the text of each image
        field ("caption_fit"): the field to write
        batch_size (None): the number of images to embed at a time
        num_workers (None): the number of processes that load images
        progress (None): whether to show progress bars; by default as FiftyOne's configuration says

    Returns:
        a dict of reasons by the ids of the skipped samples

    Raises:
        ValueError: if the model does not embed images and prompts
    """
    models = {"the model": check_model("model", model)}
    scores: dict[str, float] = {}
    skipped: dict[str, str] = {}
    ids = samples.values("id")
    for start in range(0, len(ids), _AT_ONCE):
        view = samples.select(ids[start : start + _AT_ONCE])
        embedded_ids, pairs, reasons = embed_pairs(
            view, models, text_field, batch_size=batch_size, num_workers=num_workers, progress=progress
        )
        if embedded_ids:
            cosines = (pairs[0].images * pairs[0].texts).sum(axis=1).tolist()
            scores.update(zip(embedded_ids, cosines, strict=True))
        skipped |= reasons

    if not scores:
        return skipped

    order = np.argsort(list(scores.values()), kind="stable")
    ranks = dict(zip(np.array(list(scores))[order].tolist(), range(1, len(scores) + 1), strict=True))
    samples.set_values(field, scores, key_field="id")
    samples.set_values(f"{field}_rank", ranks, key_field="id")
    return skipped
