"""From yaml files and command-line overrides to settings and parts. With `vla_cl.run.root`, all that knows Hydra.

A yaml names a part by an import string and gives its constructor's arguments. The string must name a subclass of the
interface that its group stands for, in this package or in one the user listed under ``plugins``; arguments are checked
against the constructor's signature. Nothing else in a configuration is ever imported or called.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from vla_cl.settings.checks import checked
from vla_cl.settings.hints import nearest, nearest_titled
from vla_cl.settings.overrides import quoted, readable, require_parsed, split
from vla_cl.settings.rules import expanded, shown
from vla_cl.types import ConfigurationError

__all__ = ["OF_WARM_START", "Settings", "build", "checked_arguments", "choices", "compose", "nearest", "part_class"]

Settings = dict[str, Any]

_LONGEST_REASON = 180
_REFUSALS = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
_CONFIGURATIONS = Path(__file__).parents[1] / "conf"
GROUPS = tuple(sorted(folder.name for folder in _CONFIGURATIONS.iterdir() if folder.is_dir() and folder.name[0] != "_"))


def choices(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """The names that a configuration group offers, here and in further folders."""
    return sorted({path.stem for folder in (_CONFIGURATIONS, *folders) for path in (folder / group).glob("*.yaml")})


def leading_comment(group: str, name: str, folders: Sequence[Path] = ()) -> str:
    """The comment that a choice's yaml begins with, in one line; empty if it begins with none."""
    files = (folder / group / f"{name}.yaml" for folder in (_CONFIGURATIONS, *folders))
    lines = next(file for file in files if file.is_file()).read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))


def compose(overrides: Sequence[str], root: str = "config", folders: Sequence[Path] = ()) -> Settings:
    """Compose the settings of a command.

    Args:
        overrides: Hydra overrides: ``group=choice``, ``dotted.key=value``; paths and texts need no second quoting.
        root: Which yaml at the top of ``conf/`` to begin with.
        folders: Further folders laid out like ``conf/``, for suites, policies or methods of one's own.

    Returns:
        Plain nested dictionaries, interpolations resolved, ``~`` expanded, every value within its bounds
        (`vla_cl.settings.checks`).

    Raises:
        ConfigurationError: A group, a choice or a key does not exist (the nearest is named), the syntax is wrong, or a
            value is not allowed.
    """
    folders = [Path(expanded("--conf", str(folder))) for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"--conf {folder} is not a folder; expected one laid out like vla_cl/conf")
    typed = _last_choices(readable(overrides))
    require_parsed(typed)
    _check_choices(typed, folders)
    policy = _PolicyChoice.of(typed, folders)
    settings = _composed(policy.overrides(typed), root, folders)
    if "policy" in settings:
        policy.settle(settings, typed, lambda items: _composed(items, root, folders))
    return checked(settings, root)


def _composed(overrides: Sequence[str], root: str, folders: Sequence[Path]) -> Settings:
    """What Hydra makes of overrides that parse, as plain dictionaries."""
    if folders:
        paths = ",".join(quoted(f"file://{folder.resolve()}") for folder in folders)
        overrides = [f"hydra.searchpath=[{paths}]", *overrides]
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    with initialize_config_dir(str(_CONFIGURATIONS.resolve()), version_base="1.3"):
        try:
            config = hydra_compose(root, list(overrides))
            resolved = typing.cast(Settings, OmegaConf.to_container(config, resolve=True))
            known = list(hydra_compose(root, []) if any(split(item)[0] for item in overrides) else resolved)
        except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
            groups = [item for item in overrides if split(item)[1] in (*GROUPS, "hydra.searchpath")]
            try:
                known = _all_keys(hydra_compose(root, groups), OmegaConf)
            except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError):
                known = []  # not an override is at fault, but a yaml
            raise ConfigurationError(_explain(str(error.__cause__ or error), overrides, known)) from error
    if added := [key for key in resolved if key not in known]:
        raise ConfigurationError(f"there is no setting {added[0]!r}; {nearest(added[0], [str(key) for key in known])}")
    return resolved


OF_WARM_START = "of_the_warm_start"
"""Stands for the type of a policy until the checkpoint that a run starts from has been looked at."""


@dataclass(frozen=True)
class _PolicyChoice:
    """What the user said of the policy; another type than that of the yaml leaves the yaml's fields out.

    Attributes:
        chosen: Of ``policy=``, or None.
        kind: Of ``policy.type=``, or None.
        fields: Names of the fields that were given.
        known: The yaml files of policies.
    """

    chosen: str | None
    kind: str | None
    fields: tuple[str, ...]
    known: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Sequence[str], folders: Sequence[Path]) -> _PolicyChoice:
        given = {key: value.strip("\"'") for _, key, value in map(split, overrides)}
        kind = given.get("policy.type")
        if kind is not None and not re.fullmatch(r"[A-Za-z]\w*", kind):
            raise ConfigurationError(f"policy.type must be the name of a policy, like act; got {kind!r}")
        if kind == "null":
            raise ConfigurationError("policy.type=null is no policy; name one, like act, or leave policy.type out")
        fields = dict.fromkeys(key.split(".")[1] for key in given if key.startswith("policy.") and key != "policy.type")
        return cls(given.get("policy"), kind, tuple(fields), tuple(choices("policy", folders)))

    def overrides(self, typed: Sequence[str]) -> list[str]:
        """For Hydra: the yaml of the type, if there is one, and every field of a policy's class may be named."""
        kept = [item for item in typed if split(item)[1] != "policy.type"]
        kept = [f"++{item}" if item.startswith("policy.") else item for item in kept]
        if self.kind is None or self.chosen is not None:
            return kept
        if self.kind in self.known:
            return [f"policy={self.kind}", *kept]
        return ["~policy", f"++policy.type={self.kind}", *kept]

    def settle(self, settings: Settings, typed: Sequence[str], composed: Callable[[Sequence[str]], Settings]) -> None:
        """Leave out of ``settings["policy"]`` the fields that belong to another policy.

        Args:
            settings: As composed; ``policy`` is replaced.
            typed: The overrides.
            composed: The settings of other overrides.

        Raises:
            ConfigurationError: ``policy=`` and ``policy.type=`` name different types.
        """
        policy = settings["policy"]
        if not isinstance(policy, dict):
            return  # refused by its kind
        if None not in (self.chosen, self.kind) and policy.get("type") != self.kind:
            raise ConfigurationError(
                f"policy={self.chosen} is of type {policy.get('type')!r}, but policy.type={self.kind} was given; "
                "leave one of them out"
            )
        named = self.chosen is not None or self.kind is not None
        if settings.get("warm_start") is not None:  # the checkpoint has fields of its own
            kind = policy.get("type") if named else OF_WARM_START
            settings["policy"] = {"type": kind, **{name: policy[name] for name in self.fields if name in policy}}
        elif named and any(split(item)[1] == "experiment" for item in typed):
            others = [item for item in typed if split(item)[1].partition(".")[0] != "policy"]
            if composed(others)["policy"].get("type") != policy.get("type"):  # the experiment's fields are not of it
                kept = [item for item in typed if split(item)[1] != "experiment"]
                settings["policy"] = composed(self.overrides(kept))["policy"]


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
    group = interface.__name__.lower()  # as the user types it
    if "plugins" in inspect.signature(kind).parameters:  # it imports by name too; only the user's own list counts
        arguments["plugins"] = list(plugins)
    try:
        part: Part = kind(**checked_arguments(kind, arguments, group))
    except ConfigurationError:
        raise
    except _REFUSALS as error:  # a structured argument of another shape, a number that no list can hold
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise ConfigurationError(
            f"{group} {settings.get('name', kind.__name__)!r} cannot be made with these settings "
            f"({type(error).__name__}: {reason}); compare them with its yaml, or run again with --debug"
        ) from error
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


def checked_arguments(kind: type, arguments: Mapping[str, object], group: str | None = None) -> dict[str, Any]:
    """The arguments, if the constructor of ``kind`` takes them by these names and types.

    Args:
        kind: Whose constructor.
        arguments: By name.
        group: Where the user sets them, such as ``method``; None: as the class is called, less ``Settings``.

    Raises:
        ConfigurationError: A name is unknown, a required one is missing, or a value is of another type.
    """
    group = group or kind.__name__.removesuffix("Settings").lower()
    signature = inspect.signature(kind)
    hints = typing.get_type_hints(vars(kind).get("__init__", object)) or typing.get_type_hints(kind)
    for name in arguments:
        if name not in signature.parameters:
            hint = nearest(name, list(signature.parameters))
            raise ConfigurationError(f"there is no setting {group}.{name} of {kind.__name__}; {hint}")
    for name, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigurationError(f"{kind.__name__} needs the setting {group}.{name}, which is missing")
    return {name: _typed(f"{group}.{name}", value, hints.get(name)) for name, value in arguments.items()}


def _typed(name: str, value: object, annotation: object) -> object:
    """The value, an integer made a float where one is due."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if typing.get_origin(annotation) is typing.Literal:
        allowed = typing.get_args(annotation)
        if value not in allowed:
            raise ConfigurationError(f"{name} must be one of {', '.join(map(str, allowed))}; got {shown(value)}")
        return value
    plain = [option for option in options if option in (bool, int, float, str, type(None))]
    if len(plain) != len(options):
        return value  # a structured argument: its own class checks it
    if float in plain and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:  # more than 308 digits
            raise ConfigurationError(f"{name} must be a finite number; got {shown(value)}") from error
    if int in plain and float not in plain and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e3
    if not any(type(value) is option for option in plain):
        expected = " or ".join(getattr(option, "__name__", str(option)) for option in plain)
        raise ConfigurationError(f"{name} must be of type {expected}; got {shown(value)}")
    return value


def _last_choices(overrides: Sequence[str]) -> list[str]:
    """Of several choices in one group, the last: as with any other key."""
    last = {split(item)[1]: number for number, item in enumerate(overrides)}
    return [
        item for number, item in enumerate(overrides) if split(item)[1] not in GROUPS or last[split(item)[1]] == number
    ]


def _check_choices(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Misspelt groups and choices, before Hydra's own and longer message."""
    for override in overrides:
        _, key, value = split(override)
        value = value.strip("\"' ")
        if re.match(r"hydra\b", key):
            raise ConfigurationError(
                f"{key} is a setting of Hydra's own command line, and has no effect here; leave it out"
            )
        known = choices(key, folders) if key in GROUPS else []
        if key not in GROUPS or value in known or (key == "experiment" and value == "null"):
            continue
        if value in ("null", ""):
            raise ConfigurationError(f"a run needs a {key}, and {key}={value} is none; {nearest(value, known)}")
        hint = nearest_titled(value, {name: _title(key, name, folders) for name in known})
        more = "" if folders else "; yaml files of your own need --conf FOLDER"
        raise ConfigurationError(f"unknown {key} {value!r}; {hint}{more}")


def _title(group: str, name: str, folders: Sequence[Path]) -> str:
    """What the first line of a choice's yaml says it is."""
    for folder in (_CONFIGURATIONS, *folders):
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            first = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            return first.lstrip("# ") if first.startswith("#") else ""
    return ""


def known_settings(root: str = "config") -> list[str]:
    """Every setting of ``conf/<root>.yaml`` with its default choices, and the groups."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(_CONFIGURATIONS.resolve()), version_base="1.3"):
        return [*GROUPS, *_all_keys(hydra_compose(root, []), OmegaConf)]


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
        prefix, key, _ = split(override)
        if known and key not in known and not prefix and not key.startswith("hydra."):
            return f"unknown key {key!r}; {nearest(key, known)}"
    at = "" if known else "; look into the yaml files of --conf"
    return f"the configuration cannot be composed: {' '.join(message.split())[:_LONGEST_REASON]}{at}"
