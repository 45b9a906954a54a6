"""Path templates of others, such as ``data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet``."""

from __future__ import annotations

import re
from string import Formatter

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

PATH_FIELDS = ("episode_chunk", "episode_index", "chunk_index", "file_index", "video_key")
"""What the path templates of a LeRobotDataset may fill in."""

_WIDTH = re.compile(r"0?1?[0-9]?d?")  # up to 19 digits: an index is an int64
_TEMPLATE = 1000
_FIELDS = 16


def check_format(template: object, what: str, remedy: str, fields: tuple[str, ...] = PATH_FIELDS) -> str:
    """The template, if formatting it only puts numbers and names in.

    Args:
        template: As a file gives it.
        what: Who says it, for the message: ``video_path of the dataset /a/b``.
        remedy: What to do if it is not plain.
        fields: Names that may stand in braces.

    Raises:
        ConfigurationError: It is no text, too long, or has another field, an attribute, an index, a conversion, a
            nested field or a width above 19.
    """
    if not isinstance(template, str) or not 0 < len(template) <= _TEMPLATE:
        raise ConfigurationError(f"{what} is {harmless(repr(template), 60)}, expected a path as text; {remedy}")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(
            f"{what} is {harmless(template, 80)!r}, which is no format ({error}); {remedy}"
        ) from error
    named = [(name, width, conversion) for _, name, width, conversion in parts if name is not None]
    for name, width, conversion in named:
        plain = name in fields and not conversion and _WIDTH.fullmatch(width or "")
        if not plain or len(named) > _FIELDS:
            raise ConfigurationError(
                f"{what} has the field {harmless(str(name), 40)!r} with format {harmless(str(width), 20)!r}; allowed "
                f"are {', '.join(fields)} with at most 19 digits; {remedy}"
            )
    return template
