"""The data loader's side: frames of videos, decoded and resized in worker processes, and sent on as uint8.

A worker decodes one video after another, and sends batches of frames, of several videos where these are short. So
neither a long video nor many short ones fill the memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fiftyone.utils.torch as fout
import numpy as np
import torch

from ..engine.image_batch import ImageBatch
from ..engine.images import ImageSettings, resize_image
from ..integration.failures import FailedImage
from ..integration.loading import start_workers
from .frames import Video, VideoError

if TYPE_CHECKING:
    from ..zoo import JinaV4


@dataclass(frozen=True)
class VideoPart:
    """A video file, or a part of one.

    Args:
        path: the file's path
        support (None): the numbers of the first and the last frame, from 1, of the part. ``None``: the whole video
    """

    path: str
    support: tuple[int, int] | None = None


@dataclass(frozen=True)
class VideoEnd:
    """What a worker sends after a video's last frame.

    Args:
        spans: a float64 array ``(frames, 2)``, the start and stop of the span that each frame stands for, in seconds
        missing: the number of spans for which there is no frame, because the video ends before its header says so
        frame_rate: the video's frame rate
        frame_count: its number of frames
    """

    spans: np.ndarray
    missing: int
    frame_rate: float
    frame_count: int


@dataclass(frozen=True)
class FrameBatch:
    """A batch of frames as a worker sends it.

    Args:
        images: :class:`engine.image_batch.ResizedImage`
        numbers: the number of the video of each, in the list of videos
        ends: a list of tuples of the number of a video whose last frame is in this batch or an earlier one, and its
            :class:`VideoEnd`, or the :class:`integration.failures.FailedImage` of one that cannot be read
    """

    images: ImageBatch
    numbers: list[int]
    ends: list[tuple[int, VideoEnd | FailedImage]]


class FrameStream(torch.utils.data.IterableDataset):
    """Batches of frames of videos. Of several workers, each reads its share of the videos.

    Args:
        videos: a list of :class:`VideoPart`
        settings: the checkpoint's :class:`engine.images.ImageSettings`
        max_pixels: the largest area of a frame after resizing, in pixels, or ``None``
        fps: the frames to read of a second
        max_frames: the largest number of frames of a video
        batch_size: the number of frames in a batch
    """

    def __init__(
        self,
        videos: Sequence[VideoPart],
        settings: ImageSettings,
        max_pixels: int | None,
        fps: float,
        max_frames: int,
        batch_size: int,
    ) -> None:
        self.videos = videos
        self.settings = settings
        self.max_pixels = max_pixels
        self.fps = fps
        self.max_frames = max_frames
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[FrameBatch]:
        worker = torch.utils.data.get_worker_info()
        share = range(len(self.videos)) if worker is None else range(worker.id, len(self.videos), worker.num_workers)
        batch = FrameBatch(ImageBatch(), [], [])
        for number in share:
            for item in self._read(self.videos[number]):
                if isinstance(item, VideoEnd | FailedImage):
                    batch.ends.append((number, item))
                    continue
                batch.images.append(item)
                batch.numbers.append(number)
                if len(batch.images) == self.batch_size:
                    yield batch
                    batch = FrameBatch(ImageBatch(), [], [])
        if batch.images or batch.ends:
            yield batch

    def _read(self, part):
        """Yields the resized frames of a video, and its end or failure."""
        try:
            with Video(part.path) as video:
                spans, read = video.spans(self.fps, self.max_frames, part.support), 0
                for span, image in zip(spans, video.read(spans), strict=False):
                    # The name in messages.
                    image.filename = f"{part.path} at {span.mean():.1f} s"
                    yield resize_image(image, self.settings, self.max_pixels)
                    read += 1
                if not read:
                    raise video.error("it has no frame that can be read in this part")
                yield VideoEnd(spans[:read], len(spans) - read, video.frame_rate, int(video.frame_count))
        except VideoError as error:
            yield FailedImage(str(error))
        # Any other error, too: an exception would end the worker.
        except Exception as error:
            yield FailedImage(str(VideoError(f"{part.path}: {type(error).__name__}: {error}")))


def load_frames(
    model: "JinaV4", videos: Sequence[VideoPart], batch_size: int | None = None, num_workers: int | None = None
) -> Iterator[FrameBatch]:
    """Reads and resizes frames of videos, in worker processes.

    Args:
        model: the :class:`jina_embeddings_v4.zoo.JinaV4`, which has the settings
        videos: a list of :class:`VideoPart`
        batch_size (None): the number of frames in a batch, by default 16
        num_workers (None): the number of worker processes, by default as many as FiftyOne recommends

    Returns:
        an iterator over :class:`FrameBatch`. The frames of a video come in order, and videos in any
    """
    settings = model.encoder.processor.image_settings
    stream = FrameStream(videos, settings, model.max_pixels, model.video_fps, model.max_video_frames, batch_size or 16)
    workers = min(fout.recommend_num_workers(num_workers), len(videos))
    # The stream makes the batches.
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    return start_workers(loader)


def _as_it_is(batch):
    return batch
