"""How a row of a multi-vector is stored, in each dtype.

======== ===================================================================================================
float16  its values
int8     its scale, the largest absolute value / 127, as float16 in two columns, and then its values / the scale
binary   the signs of its values, eight in a byte: 1 where a value is above 0. The first one is the highest bit
======== ===================================================================================================

A bit stands for 1 / sqrt(dim) or -1 / sqrt(dim), so that a row of bits has length 1, and its dot product with a query's
token is a cosine. It is about 0.8 times the cosine with the row that was given, as the length of a random vector's
projection on its own signs is.
"""

import numpy as np

DTYPES = ("float16", "int8", "binary")

# Columns before the values.
SCALE_COLUMNS = {"float16": 0, "int8": 2, "binary": 0}


def row_type(dtype: str, dim: int) -> tuple[np.dtype, int]:
    """Returns numpy's dtype and the number of columns of a stored row of ``dim`` values."""
    if dtype == "binary":
        return np.dtype(np.uint8), -(-dim // 8)

    return np.dtype(dtype), SCALE_COLUMNS[dtype] + dim


def encode(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Converts rows to their stored form.

    Args:
        vectors: a float32 array ``(rows, dim)``
        dtype: one of ``DTYPES``

    Returns:
        an array ``(rows, columns)`` of :func:`row_type`
    """
    if dtype == "float16":
        return vectors.astype(np.float16)
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)

    scales = (np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-4) / 127).astype(np.float16)
    # Divided by the rounded scale, which is the one that is stored.
    values = np.clip(np.rint(vectors / scales.astype(np.float32)), -127, 127).astype(np.int8)
    return np.hstack([scales.view(np.int8), values])


def decode(stored: np.ndarray, dtype: str, dim: int) -> np.ndarray:
    """Converts stored rows to a float32 array ``(rows, dim)``."""
    if dtype == "binary":
        return (2 * np.unpackbits(stored, axis=1, count=dim).astype(np.float32) - 1) / np.float32(np.sqrt(dim))

    vectors = stored[:, SCALE_COLUMNS[dtype] :].astype(np.float32)
    return vectors * scales_of(stored)[:, None] if dtype == "int8" else vectors


def scales_of(stored: np.ndarray) -> np.ndarray:
    """Returns the scales of stored int8 rows, a float32 array ``(rows,)``."""
    return np.ascontiguousarray(stored[:, : SCALE_COLUMNS["int8"]]).view(np.float16)[:, 0].astype(np.float32)


def bits_of(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the signs of stored float16 or int8 rows as ``"binary"`` stores them."""
    return np.packbits(stored[:, SCALE_COLUMNS[dtype] :] > 0, axis=1)
