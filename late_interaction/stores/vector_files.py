"""Flat files of vectors, mapped into memory.

A segment is a pair of files for some thousands of pages: one holds their single vectors in float16, the other their
multi-vectors end to end. Vectors are only appended. The table in ``page_table.py`` holds the place of each page.

A third file may hold the signs of the multi-vectors, row by row, to choose candidates by. It is made of the second, and
can be made again.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .row_formats import bits_of, decode, encode, row_type

# Where a page is stored: its segment, its number there, its first row in the file of multi-vectors, and the number of
# its rows.
Place = tuple[int, int, int, int]

# Bytes of multi-vectors whose signs are taken at a time.
_CONVERTED_AT_ONCE = 2**25

_KINDS = ("single", "multi", "bits")


class VectorFiles:
    """The files of an index.

    Args:
        folder: the folder
        dtype: the multi-vectors' dtype, one of :data:`late_interaction.stores.row_formats.DTYPES`
    """

    def __init__(self, folder: str | os.PathLike, dtype: str) -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self._maps: dict[tuple[int, str], np.ndarray] = {}

    def refresh(self) -> None:
        """Drops the memory maps, so that files that have grown are mapped again."""
        self._maps = {}

    def segments(self) -> list[int]:
        """Returns the numbers of all segments, in order."""
        return sorted(int(path.stem) for path in self.folder.glob("*.single"))

    def pages_in(self, segment: int, single_dim: int) -> int:
        """Returns the number of pages in a segment's files, including pages that are not in the table."""
        path = self.path(segment, "single")
        return path.stat().st_size // (2 * single_dim) if path.exists() else 0

    def delete(self, segment: int) -> None:
        """Deletes a segment's files."""
        for kind in _KINDS:
            self.path(segment, kind).unlink(missing_ok=True)

    def rows(self, segment: int, single_dim: int, multi_dim: int) -> list[int]:
        """Returns the numbers of complete rows in a segment's files of single vectors, multi-vectors and bits."""
        multi, width = row_type(self.dtype, multi_dim)
        sizes = (2 * single_dim, multi.itemsize * width, row_type("binary", multi_dim)[1])
        paths = [self.path(segment, kind) for kind in _KINDS]
        return [path.stat().st_size // size if path.exists() else 0 for path, size in zip(paths, sizes, strict=True)]

    def append(
        self, segment: int, singles: np.ndarray, multi: Sequence[np.ndarray], with_bits: bool = False
    ) -> tuple[list[Place], list[int]]:
        """Appends pages to a segment's files.

        Args:
            segment: the segment's number
            singles: a float32 array ``(pages, dim)``
            multi: a list of float32 arrays ``(tokens_i, 128)``
            with_bits (False): whether the segment has a file of bits

        Returns:
            a tuple of a list of the pages' places and a list of their checksums
        """
        singles = np.asarray(singles, dtype=np.float16)
        stored = encode(np.concatenate(multi), self.dtype)
        places = self.append_stored(segment, singles, stored, [len(vectors) for vectors in multi], with_bits)
        ends = np.cumsum([len(vectors) for vectors in multi])
        pages = zip(singles, np.split(stored, ends[:-1]), strict=True)
        return places, [_checksum(single, rows) for single, rows in pages]

    def append_stored(
        self,
        segment: int,
        singles: np.ndarray,
        tokens: np.ndarray,
        lengths: Sequence[int],
        with_bits: bool = False,
    ) -> list[Place]:
        """Appends pages, given in their stored form, to a segment's files.

        Args:
            segment: the segment's number
            singles: a float16 array ``(pages, dim)``
            tokens: an array ``(rows, columns)``, see :mod:`late_interaction.stores.row_formats`
            lengths: the number of each page's rows
            with_bits (False): whether the segment has a file of bits

        Returns:
            a list of the pages' places
        """
        page = _append_rows(self.path(segment, "single"), singles)
        start = _append_rows(self.path(segment, "multi"), tokens)
        if with_bits:
            _append_rows(self.path(segment, "bits"), bits_of(tokens, self.dtype), start)
        places = []
        for i, length in enumerate(lengths):
            places.append((segment, page + i, start, length))
            start += length
        return places

    def checksum(self, place: Sequence[int], single_dim: int, multi_dim: int) -> int:
        """Returns the checksum of a page as it is in the files."""
        segment, page, start, tokens = place
        single = self.singles(segment, single_dim)[page]
        return _checksum(single, self.tokens(segment, multi_dim)[start : start + tokens])

    def singles(self, segment: int, dim: int) -> np.ndarray:
        """Returns all single vectors of a segment: a float16 array ``(pages, dim)``, mapped into memory."""
        return self._mapped(segment, "single", np.dtype(np.float16), dim)

    def tokens(self, segment: int, dim: int) -> np.ndarray:
        """Returns all rows of a segment's multi-vectors in their stored form.

        Returns:
            an array ``(rows, columns)``, see :mod:`late_interaction.stores.row_formats`, mapped into memory
        """
        return self._mapped(segment, "multi", *row_type(self.dtype, dim))

    def bits(self, segment: int, dim: int) -> np.ndarray:
        """Returns the signs of all rows of a segment's multi-vectors.

        Returns:
            a uint8 array ``(rows, dim / 8)``, see :mod:`late_interaction.stores.row_formats`, mapped into memory
        """
        kind = "multi" if self.dtype == "binary" else "bits"
        return self._mapped(segment, kind, *row_type("binary", dim))

    def make_bits(self, segment: int, dim: int) -> None:
        """Makes a segment's file of bits from its multi-vectors."""
        self.refresh()
        path = self.path(segment, "bits")
        # Under another name until it is complete: another process may have the old file mapped into memory.
        unfinished = path.with_suffix(".bits-unfinished")
        tokens = self.tokens(segment, dim)
        at_once = max(1, _CONVERTED_AT_ONCE // tokens[:1].nbytes)
        with open(unfinished, "wb") as file:
            for start in range(0, len(tokens), at_once):
                file.write(bits_of(tokens[start : start + at_once], self.dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        self.refresh()

    def has_right_bits(self, place: Sequence[int], dim: int) -> bool:
        """Returns whether a page's bits are the signs of its multi-vector."""
        segment, _, start, tokens = place
        rows = slice(start, start + tokens)
        return np.array_equal(self.bits(segment, dim)[rows], bits_of(self.tokens(segment, dim)[rows], self.dtype))

    def read_single(self, places: np.ndarray, dim: int) -> np.ndarray:
        """Reads the single vectors of pages: a float32 array ``(pages, dim)``."""
        vectors = np.empty((len(places), dim), np.float32)
        for row, (segment, page, _, _) in zip(vectors, places, strict=True):
            row[:] = self.singles(segment, dim)[page]
        return vectors

    def read_multi(self, places: np.ndarray, dim: int) -> list[np.ndarray]:
        """Reads the multi-vectors of pages: a list of float32 arrays ``(tokens_i, dim)``."""
        vectors = []
        for segment, _, start, tokens in places:
            vectors.append(decode(self.tokens(segment, dim)[start : start + tokens], self.dtype, dim))
        return vectors

    def path(self, segment: int, kind: str) -> Path:
        """Returns the path of a segment's file of a kind, ``"single"``, ``"multi"`` or ``"bits"``."""
        return self.folder / f"{segment:06}.{kind}"

    def _mapped(self, segment, kind, dtype, columns):
        key = int(segment), kind
        # A local, since another thread may call refresh() meanwhile.
        maps = self._maps
        if key not in maps:
            path = self.path(segment, kind)
            rows = path.stat().st_size // (dtype.itemsize * columns)
            # Copy-on-write, since torch warns of read-only arrays. It is never written to.
            maps[key] = np.memmap(path, dtype, mode="c", shape=(rows, columns))
        return maps[key]


def _checksum(single, rows):
    return zlib.crc32(np.ascontiguousarray(rows), zlib.crc32(np.ascontiguousarray(single)))


def _append_rows(path, rows, count=None):
    """Appends rows to a file, after its first ``count`` rows, by default all, and returns the number of rows before."""
    with open(path, "ab") as file:
        # A killed process may have left an incomplete row, which is padded, or rows of a page that was not committed.
        count = -(-file.tell() // rows[0].nbytes) if count is None else count
        file.truncate(count * rows[0].nbytes)
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return count
