"""Frames of a video file, read by OpenCV, which FiftyOne brings.

A video, or a part of it, is divided into equal spans of time. The frame that a player shows in the middle of a span
stands for it. So the frames lie evenly, whatever the video's frame rate, and also where that varies.
"""

import os
import stat
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from ..engine.downloads import is_url, readable
from ..engine.image_files import MAX_PIXELS, ImageError, open_at_once

# By how a file in a container that holds video begins. FFmpeg, by which OpenCV reads, knows more formats, among them
# playlists that name other files.
_BEGINNINGS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG-PS
    b"\x30\x26\xb2\x75",  # ASF, WMV
    b"FLV",
    b"OggS",
)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_FORMATS = "MP4, MOV, MKV, WebM, AVI, MPEG, MPEG-TS, FLV, Ogg or WMV"

# Up to this distance, decoding what lies between is as fast as a seek, which decodes from the keyframe before.
_SEEK_SECONDS = 5

# By how much a video may end before its header says so, in seconds and in intervals between its frames.
_MISSING_SECONDS, _MISSING_INTERVALS = 1, 2


class VideoError(ImageError):
    """A video that cannot be embedded. The message names the video and the reason, on one line."""


class Video:
    """A video file, to be used as a context.

    Args:
        path: the path of a regular file

    Raises:
        VideoError: if it cannot be read
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.fspath(path)
        _check_file(self.path)
        self._open()
        self.frame_rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if self.width * self.height > MAX_PIXELS:
            raise self.error(f"frames of {self.width}x{self.height} pixels are over {MAX_PIXELS // 1_000_000} million")
        if not (self.frame_rate > 0 and self.frame_count > 0):
            self._count()
        # OpenCV computes the count of a container that has none as its duration times the rate.
        self.duration = self.frame_count / self.frame_rate

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def error(self, reason: str) -> VideoError:
        """Returns an error that names the video."""
        return VideoError(f"{readable(self.path)}: {reason}")

    def spans(self, fps: float, max_frames: int, support: tuple[int, int] | None = None) -> np.ndarray:
        """Divides the video into spans, of each of which a frame is read.

        Args:
            fps: the spans in a second
            max_frames: the largest number of spans. A longer video is divided into that many
            support (None): the numbers of the first and the last frame of a part, from 1, to divide that alone

        Returns:
            a float64 array ``(spans, 2)`` of their starts and stops, in seconds, at least one
        """
        start, stop = 0.0, self.duration
        if support is not None:
            start, stop = (support[0] - 1) / self.frame_rate, min(stop, support[1] / self.frame_rate)
            if start >= stop:
                raise self.error(f"it has {int(self.frame_count)} frames, and not {support[0]} to {support[1]}")
        count = min(max_frames, max(1, round((stop - start) * fps)))
        edges = np.linspace(start, stop, count + 1)
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def read(self, spans: np.ndarray) -> Iterator[Image.Image]:
        """Reads the frames that a player shows in the middle of spans. Two frames are held in memory.

        Args:
            spans: an array as :meth:`spans` returns it

        Yields:
            an RGB image for each span, upright, up to where the video ends if that is before its header says so
        """
        self._open()
        shown, following = None, self._next()
        if following is None:
            raise self.error("it has no frame that can be read")

        seeks, longest = True, 0.0
        for middle in spans.mean(axis=1):
            if seeks and following is not None and middle - following[0] > _SEEK_SECONDS:
                sought = self._seek(middle)
                seeks = sought is not None and following[0] <= sought[0] <= middle
                if not seeks:
                    # Some files cannot be sought, or it leads elsewhere. What it is read for is decoded then.
                    self._open()
                    sought = self._next()
                shown, following = None, sought
            while following is not None and (shown is None or following[0] <= middle):
                longest = max(longest, following[0] - shown[0]) if shown is not None else longest
                shown, following = following, self._next()
            if shown is None:
                return
            if following is None and middle - shown[0] > max(_MISSING_SECONDS, _MISSING_INTERVALS * longest):
                return
            yield Image.fromarray(cv2.cvtColor(shown[1], cv2.COLOR_BGR2RGB))

    def _open(self):
        self._capture = cv2.VideoCapture(self.path, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise self.error("it is damaged, or holds no video that OpenCV can read")

    def _next(self):
        """Decodes a frame: a tuple of when it is shown, in seconds, and an array ``(height, width, 3)`` in BGR."""
        if not self._capture.grab():
            return None

        second = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        decoded, frame = self._capture.retrieve()
        return (second, frame) if decoded else None

    def _seek(self, second):
        # OpenCV goes to the nearest frame, which may be the one after.
        self._capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * max(0, second - 1 / self.frame_rate))
        return self._next()

    def _count(self):
        """Decodes the whole video for its length, which the header of a recorded stream does not say."""
        count, second = 0, 0.0
        while self._capture.grab():
            count, second = count + 1, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not count:
            raise self.error("it has no frame that can be read")
        if not self.frame_rate > 0:
            self.frame_rate = (count - 1) / second if second > 0 else 1.0
        self.frame_count = count


def _check_file(path):
    """Raises a :class:`VideoError` unless a path is that of a regular file in a known container."""
    if is_url(path):
        raise VideoError(f"{readable(path)}: videos are not downloaded: pass the path of a file")

    try:
        with open(path, "rb", opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise VideoError(f"{readable(path)}: it is a pipe or a device, expected a regular file")
            head = file.read(197)
    except OSError as error:
        raise VideoError(f"{readable(path)}: {type(error).__name__}: {error}") from error

    transport_stream = head[:1] + head[188:189] == b"GG" or head[4:5] + head[196:197] == b"GG"
    avi = head[:4] + head[8:12] == b"RIFFAVI "
    if not (head.startswith(_BEGINNINGS) or head[4:8] in _MP4_BOXES or avi or transport_stream):
        raise VideoError(f"{readable(path)}: it is damaged, or none of {_FORMATS}")
