"""When a video matches a text query, as FiftyOne's temporal detections.

Each frame that is read of a video stands for a span of it, and has the score that it would have as a page of its own in
a late-interaction index: the mean cosine of the query's tokens with their best matches on the frame (MaxSim). A frame
matches if its score is nearer to that of the video's best frame than to that of its worst::

    score[frame] >= best - max((best - worst) / 2, 0.02)

A moment is a run of frames that match. The 0.02 keeps a video that shows the same all along in one piece. So each video
has a moment, and its confidence tells how good it is. Scores are not scaled per video, so that videos are comparable.
"""

from typing import TYPE_CHECKING

import fiftyone as fo
import fiftyone.core.validation as fov
import numpy as np
from fiftyone.core.collections import SampleCollection

from ..engine.images import resized_size
from .embedding import VideoEmbeddings, encode_videos
from .frames import Video, VideoError
from .loading import VideoPart

if TYPE_CHECKING:
    from ..late_interaction.index import LateInteractionSimilarityIndex
    from ..zoo import JinaV4

# The least difference to the best score that a frame may have and match, a difference of cosines.
_LEAST = 0.02

# Videos whose vectors are read from an index at a time. Those of 64 full frames take 25 MB.
_VIDEOS_AT_ONCE = 8


def write_moments(
    model: "JinaV4",
    samples: SampleCollection,
    query: str,
    label_field: str = "moments",
    index: "LateInteractionSimilarityIndex | None" = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
    progress: bool | None = None,
) -> None:
    """Writes when a text query matches each video, as :class:`fiftyone.core.labels.TemporalDetections`.

    A detection has the query as its label. Its support is in frame numbers, for the App, and its attribute ``seconds``
    in seconds. ``second`` is the middle of the span of its best frame, and ``confidence`` that frame's score, in
    ``[0, 1]``. What matches is defined in this module. A detection is as exact as the spans are short: a second at the
    model's default ``video_fps``, unless the video is longer than ``max_video_frames`` spans.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        samples: a dataset or view of videos
        query: a string
        label_field ("moments"): the field to write. What an earlier query left there is replaced on these samples
        index (None): a :class:`late_interaction.index.LateInteractionSimilarityIndex` of the videos, made with the
            model's task. Videos whose frames it holds are not embedded again, if it was made with the model's
            ``video_fps``, ``max_video_frames`` and ``max_pixels``
        batch_size (None): the number of frames that are prepared together, by default 16
        num_workers (None): the number of processes that decode videos
        skip_failures (True): whether to log a warning for a video that cannot be read, and keep its field, instead of
            raising an error
        progress (None): whether to show a progress bar; by default as FiftyOne's configuration says

    Raises:
        TypeError: if the query is not a string
        ValueError: if the query is empty, the samples are not videos, or the field is of another type
        VideoError: if a video cannot be read and ``skip_failures`` is False
    """
    fov.validate_video_collection(samples)
    if samples._is_clips:
        raise ValueError("Moments are of whole videos: pass the dataset or a view of videos, not of clips")
    tokens = model.encode_prompts([query]).multi[0]
    if not query.strip():
        raise ValueError("The query is empty: pass a text")

    field = samples.get_field(label_field)
    if field is not None and getattr(field, "document_type", None) is not fo.TemporalDetections:
        raise ValueError(f"The field {label_field!r} holds no temporal detections, but {field}: choose another one")

    ids, paths, metadata = samples.values(["id", "filepath", "metadata"])
    with fo.ProgressBar(total=len(ids), progress=progress) as bar:
        done = set()
        if index is not None and index.serves(model):
            for i, labels in _moments_from_index(model, index, ids, paths, metadata, tokens, query):
                samples.set_values(label_field, {ids[i]: labels}, key_field="id")
                done.add(i)
                bar.update(1)
        rest = [i for i in range(len(ids)) if i not in done]
        parts = [VideoPart(paths[i]) for i in rest]
        for batch in encode_videos(model, parts, batch_size, num_workers, skip_failures):
            labels = {}
            for n, video in batch:
                if isinstance(video, VideoEmbeddings):
                    i, end = rest[n], video.end
                    clock = _clock(metadata[i], end.frame_rate, end.frame_count)
                    labels[ids[i]] = _moments(_scores(tokens, video.frames.multi), end.spans, clock, query)
            if labels:
                samples.set_values(label_field, labels, key_field="id")
            bar.update(len(batch))


def _moments_from_index(model, index, ids, paths, metadata, tokens, query):
    """Yields the places and the moments of the videos whose frames an index holds."""
    for start in range(0, len(ids), _VIDEOS_AT_ONCE):
        found = index.get_multi_vectors(ids[start : start + _VIDEOS_AT_ONCE])
        for i, sample_id in enumerate(ids[start : start + _VIDEOS_AT_ONCE], start):
            if sample_id not in found:
                continue
            try:
                with Video(paths[i]) as video:
                    spans = video.spans(model.video_fps, model.max_video_frames)
                    length = _tokens_of_frame(model, video)
            except VideoError:
                continue  # embedding the video will report the reason

            rows = found[sample_id]
            length = -(-length // index.config.pool_factor)
            # Their number differs if the video was indexed with other settings, or its file has changed.
            if len(rows) == length * len(spans):
                frames = np.split(rows, len(spans))
                clock = _clock(metadata[i], video.frame_rate, int(video.frame_count))
                yield i, _moments(_scores(tokens, frames), spans, clock, query)


def _tokens_of_frame(model, video):
    processor = model.encoder.processor
    settings = processor.image_settings
    limit = settings.check_max_pixels(model.max_pixels)
    height, width = resized_size(video.height, video.width, settings, limit)
    return sum(processor.tokens_around_image) + height // settings.token_size * (width // settings.token_size)


def _scores(tokens, frames):
    """Compares a query's multi-vector with those of frames: a float32 array ``(frames,)``."""
    return np.array([(tokens @ rows.T).max(axis=1).mean() for rows in frames], dtype=np.float32)


def _clock(metadata, frame_rate, frame_count):
    """Returns the frame rate and the number of frames by which the App plays a video, where FiftyOne knows them."""
    # FiftyOne counts -1 frames, or other negative numbers, where a header does not say.
    if metadata is not None and (metadata.frame_rate or 0) > 0 and (metadata.total_frame_count or 0) > 0:
        return metadata.frame_rate, metadata.total_frame_count
    return frame_rate, frame_count


def _moments(scores, spans, clock, query):
    """Returns the runs of frames that match as :class:`fiftyone.core.labels.TemporalDetections`, in their order."""
    frame_rate, frame_count = clock
    matches = scores >= scores.max() - max((scores.max() - scores.min()) / 2, _LEAST)
    edges = np.flatnonzero(np.diff(matches, prepend=False, append=False))
    detections = []
    for first, stop in edges.reshape(-1, 2):
        best = first + int(scores[first:stop].argmax())
        seconds = [float(spans[first, 0]), float(spans[stop - 1, 1])]
        # Frame n is shown from (n - 1) / rate on.
        begins = min(int(seconds[0] * frame_rate + 1e-6) + 1, frame_count)
        ends = min(max(begins, round(seconds[1] * frame_rate)), frame_count)
        detections.append(
            fo.TemporalDetection(
                label=query,
                support=[begins, ends],
                confidence=float(np.clip(scores[best], 0, 1)),
                seconds=seconds,
                second=float(spans[best].mean()),
            )
        )
    return fo.TemporalDetections(detections=detections)
