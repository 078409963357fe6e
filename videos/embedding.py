"""Embeds videos: a video's multi-vector is that of its frames, and its single vector their mean."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import eta.core.frameutils as etaf
import eta.core.video as etav
import numpy as np

from ..engine.embeddings import Embeddings, join
from ..engine.pooling import unit
from ..integration.failures import FailedImage
from .frames import VideoError
from .loading import VideoEnd, VideoPart, load_frames

if TYPE_CHECKING:
    from ..zoo import JinaV4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoEmbeddings:
    """The embeddings of a video's frames.

    Args:
        frames: their :class:`engine.embeddings.Embeddings`
        end: the :class:`videos.loading.VideoEnd`, which says when they are shown
    """

    frames: Embeddings
    end: VideoEnd

    def joined(self, pool: Callable[[np.ndarray], np.ndarray] | None = None) -> Embeddings:
        """Returns the embeddings of the video.

        Args:
            pool (None): a function that reduces the rows of a frame's multi-vector

        Returns:
            :class:`engine.embeddings.Embeddings` of one: the mean of the frames' single vectors, scaled to length 1,
            and the rows of their multi-vectors, one frame after the other
        """
        multi = np.concatenate([rows if pool is None else pool(rows) for rows in self.frames.multi])
        return Embeddings(unit(self.frames.single.mean(axis=0, keepdims=True)), [multi])


def encode_videos(
    model: "JinaV4",
    videos: Sequence[VideoPart],
    batch_size: int | None = None,
    num_workers: int | None = None,
    skip_failures: bool = True,
) -> Iterator[list[tuple[int, VideoEmbeddings | FailedImage]]]:
    """Embeds videos by their frames, which are packed in batches as pages are, several short videos in one.

    In memory are batches of frames, and the embeddings of the videos of which some frames are embedded, one for each
    worker process.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        videos: a list of :class:`videos.loading.VideoPart`
        batch_size (None): the number of frames that are prepared together, by default 16
        num_workers (None): the number of worker processes that decode videos
        skip_failures (True): whether to log a warning for a video that cannot be read, in place of raising an error

    Yields:
        lists of the videos that a batch completes: tuples of the number of one, and its :class:`VideoEmbeddings`, or a
        :class:`integration.failures.FailedImage`

    Raises:
        VideoError: if a video cannot be read, and failures are not to be skipped
    """
    begun: dict[int, list[Embeddings]] = {}
    refused: dict[int, FailedImage] = {}
    for batch in load_frames(model, videos, batch_size, num_workers):
        images, embeddings = model.encode_images(batch.images, skip_failures=skip_failures)
        rows = iter(range(len(embeddings)))
        for number, image in zip(batch.numbers, images, strict=True):
            if isinstance(image, FailedImage):
                refused[number] = image
            else:
                begun.setdefault(number, []).append(embeddings.select([next(rows)]))

        done: list[tuple[int, VideoEmbeddings | FailedImage]] = []
        for number, end in batch.ends:
            frames = begun.pop(number, [])
            failure = end if isinstance(end, FailedImage) else refused.pop(number, None)
            if failure is not None:
                if not skip_failures:
                    raise VideoError(failure.reason)
                logger.warning("Skipping a video that cannot be read: %s", failure.reason)
                done.append((number, failure))
                continue

            assert isinstance(end, VideoEnd)
            if end.missing:
                logger.warning(
                    "%s ends after %.1f seconds, before its header says so: it is embedded up to there",
                    videos[number].path,
                    end.spans[-1, 1],
                )
            done.append((number, VideoEmbeddings(join(frames), end)))
        yield done


def encode_video_readers(model: "JinaV4", readers: Sequence[etav.VideoReader]) -> Embeddings:
    """Embeds the videos that FiftyOne has opened, in this process, each of which must be readable.

    Only their paths are used: FiftyOne's readers decode all frames of a video, at their full size.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`
        readers: the readers. That of a clip reads a part of a video

    Returns:
        the videos' :class:`engine.embeddings.Embeddings`

    Raises:
        VideoError: if a video cannot be read
    """
    parts = []
    for reader in readers:
        part = etaf.parse_frame_ranges(reader.frames).limits
        parts.append(VideoPart(reader.inpath, None if part == (1, reader.total_frame_count) else part))
    found = {
        number: video.joined()
        for batch in encode_videos(model, parts, num_workers=0, skip_failures=False)
        for number, video in batch
        if isinstance(video, VideoEmbeddings)
    }
    return join([found[number] for number in range(len(parts))])
