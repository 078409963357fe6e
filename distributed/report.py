"""What an embedding on Ray has done, and how long the rest will take."""

import dataclasses
import time


@dataclasses.dataclass
class Report:
    """What a call has done so far.

    Args:
        total: the number of images that lacked vectors when it began
        present: the number of images that had theirs already
        done: the number of images that are dealt with, those that failed included
        failed: a list of tuples of a sample's id, its path and the reason, one for each image that failed
        workers: what embeds, eg ``"2 GPUs"``, or ``None`` before it is known
    """

    total: int = 0
    present: int = 0
    done: int = 0
    failed: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    workers: str | None = None
    _seconds_per_image: float | None = dataclasses.field(default=None, repr=False)
    _started: tuple[float, int] | None = dataclasses.field(default=None, repr=False)

    @property
    def embedded(self) -> int:
        """The number of images whose vectors are committed."""
        return self.done - len(self.failed)

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the seconds that the rest takes, or ``None`` as long as nothing is embedded."""
        if self._started is not None:
            moment, done = self._started
            if self.done > done:
                return (self.total - self.done) * (time.monotonic() - moment) / (self.done - done)
        if self._seconds_per_image is None:
            return None
        return (self.total - self.done) * self._seconds_per_image

    def add(self, images: int, embedded: int, seconds: float, failed: list, workers: int) -> None:
        """Counts a block.

        Args:
            images: the number of its images
            embedded: of those that were embedded just now, some of which may have failed
            seconds: the seconds that embedding them took
            failed: the images that failed
            workers: the number of processes that embed
        """
        self.done += images
        self.failed += [tuple(failure) for failure in failed]
        if self._started is None and embedded:
            self._seconds_per_image = seconds / embedded / workers
            # From here on, all processes have loaded the model, or soon will have.
            self._started = time.monotonic(), self.done

    def in_words(self) -> str:
        """Describes the progress in one line, eg ``"640 of 100,000 images, about 3 h left on 2 GPUs"``."""
        left = self.seconds_left
        rest = "" if left is None or self.done == self.total else f", about {in_words(left)} left on {self.workers}"
        return f"{self.done:,} of {self.total:,} images{rest}" + (
            f", {len(self.failed):,} failed" if self.failed else ""
        )

    def __str__(self) -> str:
        lines = [f"{self.embedded:,} images embedded, {len(self.failed):,} failed, {self.present:,} were there before"]
        return "\n".join(lines + [f"  {sample_id} {path}: {reason}" for sample_id, path, reason in self.failed])


def in_words(seconds: float) -> str:
    """Returns a time in the unit that suits it, eg ``"3 h"``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= 1.5 * length):
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"
