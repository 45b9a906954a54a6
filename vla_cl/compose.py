"""From yaml files and command-line overrides to settings and parts. With `vla_cl.run`, all that knows Hydra.

A yaml names a part by an import string and gives its constructor's arguments. The string must name a subclass of the
interface that its group stands for, in this package or in one the user listed under ``plugins``; arguments are checked
against the constructor's signature. Nothing else in a configuration is ever imported or called.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.types import ConfigurationError

Settings = dict[str, Any]

_CONFIGURATIONS = Path(__file__).parent / "conf"
GROUPS = tuple(sorted(folder.name for folder in _CONFIGURATIONS.iterdir() if folder.is_dir() and folder.name[0] != "_"))


def choices(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """The names that a configuration group offers, here and in further folders."""
    return sorted({path.stem for folder in (_CONFIGURATIONS, *folders) for path in (folder / group).glob("*.yaml")})


def compose(overrides: Sequence[str], root: str = "config", folders: Sequence[Path] = ()) -> Settings:
    """Compose the settings of a command.

    Args:
        overrides: Hydra overrides: ``group=choice``, ``dotted.key=value``.
        root: Which yaml at the top of ``conf/`` to begin with.
        folders: Further folders laid out like ``conf/``, for suites, policies or methods of one's own.

    Returns:
        Plain nested dictionaries, interpolations resolved.

    Raises:
        ConfigurationError: A group, a choice or a key does not exist (the nearest is named), or the syntax is wrong.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"--conf {folder} is not a folder; expected one laid out like vla_cl/conf")
    _check_choices(overrides, folders)
    if folders:
        paths = ",".join(f"file://{folder.resolve()}" for folder in folders)
        overrides = [f"hydra.searchpath=[{paths}]", *overrides]
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(str(_CONFIGURATIONS.resolve()), version_base="1.3"):
        try:
            config = hydra_compose(root, list(overrides))
            resolved = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            groups = [item for item in overrides if item.partition("=")[0] in (*GROUPS, "hydra.searchpath")]
            known = _all_keys(hydra_compose(root, groups), OmegaConf)
            raise ConfigurationError(_explain(str(error), overrides, known)) from error
    return typing.cast(Settings, resolved)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: the likeliest ones, else all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(item) for item in close)}?"
    return f"known: {', '.join(known)}"


def build[Part](
    settings: Mapping[str, Any], interface: type[Part], plugins: Sequence[str] = (), **extra: object
) -> Part:
    """Construct the part that ``settings["class"]`` names with the remaining settings as arguments.

    Args:
        settings: ``class`` (``package.module:Class``), optionally ``name``, and constructor arguments.
        interface: What the class must be a subclass of.
        plugins: Packages, beside ``vla_cl``, that the class may come from.
        extra: Further constructor arguments.

    Raises:
        ConfigurationError: The class is not allowed, does not exist, or does not take these arguments.
    """
    kind = part_class(str(settings.get("class", "")), interface, plugins)
    arguments = {key: value for key, value in settings.items() if key not in ("class", "name")} | extra
    if "plugins" in inspect.signature(kind).parameters:  # it imports by name too; only the user's own list counts
        arguments["plugins"] = list(plugins)
    part: Part = kind(**checked_arguments(kind, arguments))
    if "name" in settings:
        part.name = str(settings["name"])  # type: ignore[attr-defined]  # Suite and Method both have one
    return part


def part_class[Part](location: str, interface: type[Part], plugins: Sequence[str] = ()) -> type[Part]:
    """The class that an import string names, if it may be used.

    Raises:
        ConfigurationError: It is not of the form ``package.module:Class``, its package is not allowed, it does not
            exist, or it is no subclass of ``interface``.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", location):
        raise ConfigurationError(f"expected a class as package.module:Class; got {location!r}")
    module_name, class_name = location.split(":")
    allowed = ("vla_cl", *plugins)
    if module_name.split(".")[0] not in allowed:
        raise ConfigurationError(
            f"class {location!r} is not in an allowed package ({', '.join(allowed)}); list its package under `plugins`"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"module {module_name!r} of class {location!r} does not exist ({error})") from error
    kind = getattr(module, class_name, None)
    if not (inspect.isclass(kind) and issubclass(kind, interface)):
        fitting = [name for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, interface)]
        raise ConfigurationError(f"{location!r} is no {interface.__name__}; {nearest(class_name, fitting or ['none'])}")
    return kind


def checked_arguments(kind: type, arguments: Mapping[str, object]) -> dict[str, Any]:
    """The arguments, if the constructor of ``kind`` takes them by these names and types.

    Raises:
        ConfigurationError: A name is unknown, a required one is missing, or a value is of another type.
    """
    signature = inspect.signature(kind)
    hints = typing.get_type_hints(vars(kind).get("__init__", object)) or typing.get_type_hints(kind)
    for name in arguments:
        if name not in signature.parameters:
            hint = nearest(name, list(signature.parameters))
            raise ConfigurationError(f"{kind.__name__} has no setting {name!r}; {hint}")
    for name, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigurationError(f"{kind.__name__} needs the setting {name!r}, which is missing")
    return {name: _typed(f"{kind.__name__}.{name}", value, hints.get(name)) for name, value in arguments.items()}


def _typed(name: str, value: object, annotation: object) -> object:
    """The value, an integer made a float where one is due."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if typing.get_origin(annotation) is typing.Literal:
        allowed = typing.get_args(annotation)
        if value not in allowed:
            raise ConfigurationError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
        return value
    plain = [option for option in options if option in (bool, int, float, str, type(None))]
    if len(plain) != len(options):
        return value  # a structured argument: its own class checks it
    if float in plain and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not any(type(value) is option for option in plain):
        expected = " or ".join(getattr(option, "__name__", str(option)) for option in plain)
        raise ConfigurationError(f"{name} must be of type {expected}; got {value!r}")
    return value


def _check_choices(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Misspelt groups and choices, before Hydra's own and longer message."""
    for override in overrides:
        key, equals, value = override.lstrip("+~").partition("=")
        if not equals:
            raise ConfigurationError(f"expected key=value, for example method=er; got {override!r}")
        if key in GROUPS and value not in ("null", *choices(key, folders)):
            raise ConfigurationError(f"unknown {key} {value!r}; {nearest(value, choices(key, folders))}")


def _all_keys(config: Any, omegaconf: Any) -> list[str]:  # noqa: ANN401 - omegaconf's objects are untyped
    def walk(node: Mapping[str, Any], prefix: str) -> list[str]:
        keys = []
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, Mapping):
                keys += walk(value, f"{prefix}{key}.")
        return keys

    return walk(omegaconf.to_container(config, resolve=False), "")


def _explain(message: str, overrides: Sequence[str], known: Sequence[str]) -> str:
    """One sentence instead of Hydra's paragraphs."""
    for override in overrides:
        key = override.lstrip("~").partition("=")[0]
        if key not in known and not override.startswith(("+", "hydra.")):
            return f"unknown key {key!r}; {nearest(key, known)}"
    return f"the configuration cannot be composed: {' '.join(message.split())}"
