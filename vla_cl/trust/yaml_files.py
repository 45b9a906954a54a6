"""YAML of others: plain data as text says it. No tags, no anchors, and ``${...}`` stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from vla_cl.trust.reading import ENTRIES, MIB, NESTING, as_object, read_text
from vla_cl.trust.text import short, told_as
from vla_cl.types import ConfigurationError

YAML_BYTES = MIB // 2
"""Largest YAML file: PyYAML reads about 1 MiB a second, and the settings of a run are some kilobytes."""

_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_LEFT_TO_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """What OmegaConf reads: ``1e-3`` is a number, ``2020-01-01`` is text; two equal keys are an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [item for item in items if item[0] not in _LEFT_TO_TEXT]
        for first, items in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        content: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(content) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
        return content


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_yaml(path: Path, what: str, remedy: str, most: int = YAML_BYTES) -> Any:  # noqa: ANN401 - any plain data
    """A YAML file within bounds.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.read_text` and of `parse_yaml`.
    """
    return parse_yaml(read_text(path, what, remedy, most), f"{what} at {short(path)}", remedy)


def read_yaml_object(path: Path, what: str, remedy: str, most: int = YAML_BYTES) -> dict[str, Any]:
    """A YAML file that holds a mapping; its keys become text.

    Raises:
        ConfigurationError: As of `read_yaml`, or it holds something else.
    """
    content = as_object(read_yaml(path, what, remedy, most), f"{what} at {short(path)}", remedy)
    return {str(key): value for key, value in content.items()}


def parse_yaml(text: str, what: str, remedy: str) -> Any:  # noqa: ANN401 - any plain data
    """YAML text within bounds.

    Raises:
        ConfigurationError: It is no YAML, has a tag, an anchor or an alias, is too deep, or has too many values.
    """
    # ValueError: a number of too many digits
    with told_as(f"{what} is not valid YAML", remedy, yaml.YAMLError, ValueError, RecursionError):
        _look_through(text, what, remedy)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()


def _look_through(text: str, what: str, remedy: str) -> None:
    """Refuse, before anything is built, what only makes sense in a file that does more than list values."""
    depth = 0
    for entries, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ConfigurationError(f"{what} has an anchor or an alias (& or *), which settings never need; {remedy}")
        if getattr(event, "tag", None) is not None:
            raise ConfigurationError(f"{what} has the tag {event.tag[:40]!r}, and plain values have none; {remedy}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > NESTING or entries > ENTRIES:
            raise ConfigurationError(f"{what} is nested too deeply or has too many values; {remedy}")
