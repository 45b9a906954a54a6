"""Parquet of others: footer, sizes and columns are looked at before a row is read.

Only plain columns come out: the notes that pandas and other libraries leave in a schema are dropped, because some of
them are code to those libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_cl.trust.reading import MIB, require_file
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

ROWS = 100_000_000
"""Most rows in one file; a dataset of 10^7 frames has them in several."""

COLUMNS = 20_000
"""Most leaf columns: the statistics of a hundred features in the episode metadata are some thousands."""

ROW_GROUPS = 1_000_000
"""Most row groups; LeRobot writes one per episode, image datasets some hundred per file."""

FOOTER_BYTES = 256 * MIB
"""Largest footer, which is parsed whole."""

UNPACKED_BYTES = 4096 * MIB
"""Most bytes of the wanted columns once unpacked: the rows that a file promises at their width."""

PIECE_BYTES = 64 * MIB
"""Bytes of the columns that are read at once where a file is read in pieces."""

CELL_BYTES = 64 * MIB
"""Largest text or picture in one cell."""

IMAGE_ARRAYS = tuple(f"datasets.features.features.Array{n}DExtensionType" for n in (2, 3, 4, 5))
"""The only extension types that are read, as the plain lists they are stored as: Hugging Face's arrays."""

_MAGIC = b"PAR1"
_STRINGS = 16 * MIB  # bytes of one text of the footer, such as a schema's note


@dataclass(frozen=True)
class TableFile:
    """A parquet file that passed.

    Attributes:
        file: Reads rows.
        schema: Columns and types.
        rows: Rows that the footer promises.
        what: What it is, for messages.
        remedy: What to do if it is damaged.
    """

    file: ParquetFile
    schema: pyarrow.Schema
    rows: int
    what: str
    remedy: str

    def rows_within(self, columns: Sequence[str], most: int = PIECE_BYTES) -> int:
        """How many rows of these columns may be read at once for about so many bytes; at least one."""
        metadata = self.file.metadata
        unpacked = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = (group.column(place) for place in range(group.num_columns))
            unpacked += sum(
                max(chunk.total_uncompressed_size, chunk.num_values * 8)
                for chunk in chunks
                if chunk.path_in_schema.split(".")[0] in columns
            )
        return max(1, self.rows * most // max(1, unpacked))

    def require_columns(self, columns: Sequence[str]) -> None:
        """Refuse a table that lacks columns.

        Raises:
            ConfigurationError: One is missing; the message names it.
        """
        lacking = [name for name in columns if name not in self.schema.names]
        if lacking:
            there = harmless(", ".join(self.schema.names), 60)
            raise ConfigurationError(
                f"{self.what} lacks the column {', '.join(lacking)[:60]} (it has {there}); {self.remedy}"
            )


@contextmanager
def open_table(
    path: Path,
    what: str,
    remedy: str,
    columns: Sequence[str] | None = None,
    most: int = UNPACKED_BYTES,
    as_dictionary: Sequence[str] = (),
) -> Iterator[TableFile]:
    """Open a parquet file; what goes wrong inside the body while reading becomes a sentence too.

    Args:
        path: The file.
        what: What it is to the reader, for the message: ``the episode table``.
        remedy: What to do if it is damaged.
        columns: The only columns that will be read, for the bound on their size; None: all.
        most: Most bytes of these columns once unpacked.
        as_dictionary: Columns of text to be read as distinct values and their places.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.require_file`; it is no parquet file, is damaged, has an
            extension type, or is larger than the bounds of this module.
    """
    import pyarrow
    from pyarrow import parquet

    shown = f"{what} at {short(path)}"
    size = require_file(path, what, remedy)
    failures = (pyarrow.ArrowException, OSError, OverflowError, MemoryError, UnicodeDecodeError)
    with told_as(f"{shown} cannot be read", remedy, *failures):
        _check_ends(path, size, shown, remedy)
        limits: dict[str, Any] = {"thrift_string_size_limit": _STRINGS, "thrift_container_size_limit": COLUMNS * 50}
        # an open file, not a path: a folder named "method=er" above it must not become a column
        limits["read_dictionary"] = list(as_dictionary)
        with path.open("rb") as source, parquet.ParquetFile(source, **limits, pre_buffer=False) as file:
            schema = _plain_schema(file.schema_arrow, shown, remedy)
            found = TableFile(file, schema, file.metadata.num_rows, shown, remedy)
            _check_sizes(found, columns, most)
            yield found


def read_table(
    path: Path, what: str, remedy: str, columns: Sequence[str] | None = None, most: int = UNPACKED_BYTES
) -> pyarrow.Table:
    """A whole parquet file, or some of its columns, without the notes of other libraries.

    Raises:
        ConfigurationError: As of `open_table`; a column is missing, a cell is too large, or rows are.
    """
    import pyarrow

    with open_table(path, what, remedy, columns, most) as found:
        found.require_columns(columns or ())
        wanted = list(columns) if columns is not None else found.schema.names
        texts = [name for name in wanted if _is_text(found.schema.field(name).type)]
    with open_table(path, what, remedy, columns, most, texts) as found:
        table = found.file.read(columns=wanted, use_threads=False)
        if table.num_rows != found.rows:
            raise ConfigurationError(f"{found.what} has {table.num_rows} rows, its footer says {found.rows}; {remedy}")
        table.validate(full=True)
        plain = [_plain(column, most, found) for column in table.columns]
        return pyarrow.table(plain, names=table.column_names)


def read_rows(
    path: Path, what: str, remedy: str, columns: Sequence[str] | None = None, most: int = UNPACKED_BYTES
) -> list[dict[str, Any]]:
    """The same as one dictionary per row; text is bounded before it is spread over the rows.

    Raises:
        ConfigurationError: As of `read_table`.
    """
    table = read_table(path, what, remedy, columns, most)
    with told_as(f"{what} at {short(path)} has values of no known kind", remedy, ValueError, OverflowError):
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _check_ends(path: Path, size: int, shown: str, remedy: str) -> None:
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        file.seek(max(0, size - 8))
        end = file.read(8)
    if size < 12 or start != _MAGIC or end[4:] != _MAGIC:
        raise ConfigurationError(f"{shown} is no whole parquet file; {remedy}")
    footer = int.from_bytes(end[:4], "little")
    if footer > min(size - 12, FOOTER_BYTES):
        raise ConfigurationError(f"{shown} is damaged: its footer of {footer} bytes does not fit; {remedy}")


def _plain_schema(schema: pyarrow.Schema, shown: str, remedy: str) -> pyarrow.Schema:
    import pyarrow

    for field in schema:
        kind = field.type
        named = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
        if isinstance(kind, pyarrow.BaseExtensionType):
            named = kind.extension_name
        if named and named not in IMAGE_ARRAYS:
            raise ConfigurationError(
                f"{shown} has the column {harmless(field.name, 40)!r} of the extension type {harmless(named, 60)!r}; "
                f"only plain types are read; {remedy}"
            )
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"{shown} has the column {harmless(twice[0], 60)!r} more than once; {remedy}")
    return schema.remove_metadata()


def _check_sizes(found: TableFile, columns: Sequence[str] | None, most: int) -> None:
    metadata = found.file.metadata
    for what, count, allowed in (
        ("rows", metadata.num_rows, ROWS),
        ("columns", metadata.num_columns, COLUMNS),
        ("row groups", metadata.num_row_groups, ROW_GROUPS),
    ):
        if not 0 <= count <= allowed:
            raise ConfigurationError(
                f"{found.what} says it has {count} {what}, at most {allowed} are read; {found.remedy}"
            )
    wanted = [
        number
        for number in range(metadata.num_columns)
        if columns is None or found.file.schema.column(number).path.split(".")[0] in columns
    ]
    rows = unpacked = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows += group.num_rows
        for place in wanted:
            chunk = group.column(place)
            # values that repeat are stored once, but take their width each when they are read
            unpacked += max(chunk.total_uncompressed_size, chunk.num_values * 8)
            if min(chunk.num_values, chunk.total_uncompressed_size, group.num_rows) < 0:
                raise ConfigurationError(f"{found.what} is damaged: its footer has negative sizes; {found.remedy}")
            if chunk.total_compressed_size > 0 and unpacked > most:
                raise ConfigurationError(
                    f"{found.what} would unpack to more than the {most // MIB} MiB that are read; {found.remedy}"
                )
    if rows != metadata.num_rows:
        raise ConfigurationError(
            f"{found.what} is damaged: its row groups have {rows} rows, not {metadata.num_rows}; {found.remedy}"
        )


def _is_text(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind))


def _plain(column: pyarrow.ChunkedArray, most: int, found: TableFile) -> pyarrow.ChunkedArray:
    """The plain values of a column: of a known extension type its storage, of text each row's own copy.

    Raises:
        ConfigurationError: One long text repeats in so many rows that it does not fit.
    """
    import pyarrow
    from pyarrow import compute

    if isinstance(column.type, pyarrow.BaseExtensionType):
        return pyarrow.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if not pyarrow.types.is_dictionary(column.type):
        return column
    total = 0
    for chunk in column.chunks:
        lengths = compute.binary_length(chunk.dictionary).cast("int64")
        total += compute.sum(lengths.take(chunk.indices)).as_py() or 0
        longest = compute.max(lengths).as_py() or 0
        if total > most or longest > CELL_BYTES:
            raise ConfigurationError(f"{found.what} has texts of more than {most // MIB} MiB; {found.remedy}")
    return column.cast(column.type.value_type)
