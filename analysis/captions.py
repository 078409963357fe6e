"""How well each text fits its image, written to fields, to sort by in the App."""

import fiftyone.core.models as fom
import numpy as np
from fiftyone.core.collections import SampleCollection

from .pairs import check_model, embed_pairs

# Samples whose vectors are held at a time.
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

    ``<field>`` is the cosine of the image and its text, in [-1, 1]. ``<field>_rank`` counts from 1, the sample whose
    text fits worst, so that ``samples.sort_by("caption_fit_rank")`` brings up texts that may be of another image. An
    image or a text that cannot be embedded costs its own sample alone, whose fields stay as they are.

    Args:
        samples: a dataset or view of images
        model: a FiftyOne model that embeds images and prompts, or the name of one in the zoo
        text_field: a field with a text for each image
        field ("caption_fit"): the field to write
        batch_size (None): the number of images to embed at a time
        num_workers (None): the number of processes that load images
        progress (None): whether to show progress bars; by default as FiftyOne's configuration says

    Returns:
        a dict of the reasons by the ids of the samples that were left out

    Raises:
        ValueError: if the model does not embed images and prompts
    """
    models = {"the model": check_model("model", model)}
    scores: dict[str, float] = {}
    skipped: dict[str, str] = {}
    ids = samples.values("id")
    for start in range(0, len(ids), _AT_ONCE):
        view = samples.select(ids[start : start + _AT_ONCE])
        good, pairs, reasons = embed_pairs(
            view, models, text_field, batch_size=batch_size, num_workers=num_workers, progress=progress
        )
        if good:
            scores.update(zip(good, (pairs[0].images * pairs[0].texts).sum(axis=1).tolist(), strict=True))
        skipped |= reasons

    if not scores:
        return skipped

    order = np.argsort(list(scores.values()), kind="stable")
    ranks = dict(zip(np.array(list(scores))[order].tolist(), range(1, len(scores) + 1), strict=True))
    samples.set_values(field, scores, key_field="id")
    samples.set_values(f"{field}_rank", ranks, key_field="id")
    return skipped
