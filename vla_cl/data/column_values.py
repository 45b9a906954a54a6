"""Columns of a parquet file as numpy arrays: numbers, or lists of numbers of one length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vla_cl.types import ConfigurationError


def numbers(column: pa.Array | pa.ChunkedArray, what: str) -> NDArray[np.generic]:
    """The values of a column, shape (rows,) or (rows, size); lists of lists are laid out flat.

    Args:
        column: Numbers or booleans, or lists of them (of any arrow type, nested too).
        what: Which column of what, for the message.

    Raises:
        ConfigurationError: It holds something else, has empty places, or lists of different lengths.
    """
    rows = len(column)
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_list = False
    while True:
        if isinstance(flat, pa.ExtensionArray):
            flat = flat.storage
        elif isinstance(flat, pa.DictionaryArray):
            flat = flat.dictionary_decode()
        elif pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type):
            is_list = True
            flat = _without_list(flat, what)
        else:
            break
    if flat.null_count:
        raise ConfigurationError(f"{what} has {flat.null_count} empty places; fill them or remove their episodes")
    kind = flat.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ConfigurationError(f"{what} holds {kind!s:.60}, expected numbers or lists of numbers")
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    return values.reshape(rows, -1) if is_list and rows else values


def integers(column: pa.Array | pa.ChunkedArray, what: str) -> NDArray[np.int64]:
    """Whole numbers, shape (rows,); floats and lists of one are taken if they are whole.

    Raises:
        ConfigurationError: As of `numbers`, or a value is not whole.
    """
    values = scalars(column, what)
    if values.dtype.kind == "f":
        size = np.abs(values.astype(np.float64))
        if not np.isfinite(size).all() or (size % 1 != 0).any() or (size > 2**53).any():
            raise ConfigurationError(f"{what} holds values that are no whole numbers")
    elif values.dtype == np.uint64 and len(values) and int(values.max()) > np.iinfo(np.int64).max:
        raise ConfigurationError(f"{what} holds values above {np.iinfo(np.int64).max}")
    return values.astype(np.int64)


def scalars(column: pa.Array | pa.ChunkedArray, what: str) -> NDArray[np.generic]:
    """One number per row, shape (rows,).

    Raises:
        ConfigurationError: As of `numbers`, or there are several numbers in a row.
    """
    values = numbers(column, what)
    if values.ndim == 2 and values.shape[1] != 1:
        raise ConfigurationError(f"{what} holds {values.shape[1]} numbers in each row, expected one")
    return values.reshape(len(column))


def _without_list(column: pa.Array, what: str) -> pa.Array:
    if column.null_count:
        raise ConfigurationError(f"{what} has {column.null_count} empty rows; fill them or remove their episodes")
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten()
    lengths = np.diff(column.offsets.to_numpy())
    if len(lengths) and lengths.min() != lengths.max():
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise ConfigurationError(
            f"{what} has rows of different lengths: {int(lengths[0])} numbers first, {int(lengths[row])} in row {row} "
            "of its file"
        )
    return column.flatten()
