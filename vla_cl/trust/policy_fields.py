"""What may stand in the fields of a policy's configuration and of its processor steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

PUBLISHERS = (
    "HuggingFaceTB", "OpenGVLab", "Qwen", "Wan-AI", "allenai", "facebook", "google", "lerobot", "nvidia", "openai",
    "physical-intelligence", "robbyant", "x-square-robot",
)  # fmt: skip
"""Whose models the policies that come with LeRobot 0.6.1 are built on; no others are loaded because a file says so."""

RUNS_HUB_CODE = frozenset({"gaussian_actor", "groot", "pi0_fast", "wall_x"})
"""Types for which LeRobot 0.6.1 itself tells transformers to run code from the hub, whatever their folder says."""

RUNS_HUB_CODE_STEPS = ("action_tokenizer_processor", *(f"{kind}_" for kind in sorted(RUNS_HUB_CODE)))
"""How the names of processor steps begin that do the same, or belong to those types."""

OWN_PACKAGES = ("vla_cl.policies",)
"""Packages that a configuration may tell stock LeRobot to discover."""

BOUNDS = (
    (re.compile(r"chunk|horizon|(action|obs|inference|flow|denois\w*|num|n)_steps$|iterations$"), 10_000),
    (re.compile(r"image|img|resize|crop|resolution|height|width|pixels"), 16_384),
    (re.compile(r"layers?$|heads?$|depth|ensemble|cameras|blocks$|groups$|experts$"), 4_096),
    (
        re.compile(r"dim|size|channels|hidden|embed|keypoints|length|tokens?$|shape|bytes|vocab|samples|timesteps"),
        1_000_000,
    ),
)
"""Largest numbers by name of the field, the first that fits: time, pixels, depth, widths."""

MOST = 10**12
"""Of every other number that is whole: steps of a schedule, seeds."""

TEXT = 100_000
"""Longest text of a field: a template of a conversation."""

_CODE = ("auto_map", "remote_code", "_target_", "custom_pipelines", "code_revision", "__class__", "auto_mapping")
_MODEL = re.compile(
    r"(tokenizer|processor|model|encoder|vlm|backbone|checkpoint|pretrained)\w*(name|path|id|base|repo)$"
    r"|name_or_path$|_path$|_repo$|repo_name$"
)
_NOT_READ = ("repo_id", "pretrained_path", "output_dir", "license", "discover_packages_path")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.\-]*)/[A-Za-z0-9][\w.\-]*")
_ADVICE = "use a policy folder that LeRobot wrote"


def check_plain(content: Mapping[str, Any], what: str) -> None:
    """Refuse fields that ask a library for code, and texts without end.

    Raises:
        ConfigurationError: There is one; the message names it.
    """
    for name, value in _leaves(content):
        leaf = name.rpartition(".")[2]
        if any(part in _CODE for part in name.split(".")):
            raise ConfigurationError(
                f"{what} has the field {harmless(name, 40)!r}, and code from data is never run; {_ADVICE}"
            )
        if leaf == "trust_remote_code" and value not in (False, None):
            raise ConfigurationError(
                f"{what} asks for code from the hub ({harmless(name, 40)}), which is never run; {_ADVICE}"
            )
        if leaf == "discover_packages_path" and value not in (None, *OWN_PACKAGES):
            raise ConfigurationError(
                f"{what} asks to import {harmless(str(value), 40)!r}, and code from data is never run; {_ADVICE}"
            )
        if isinstance(value, str) and len(value) > TEXT:
            raise ConfigurationError(f"{what} has {len(value)} characters in {harmless(name, 40)!r}; {_ADVICE}")


def check_numbers(content: Mapping[str, Any], what: str) -> None:
    """Refuse numbers that no policy has, before anything of that size is made.

    Raises:
        ConfigurationError: There is one; the message names its field.
    """
    for name, value in _leaves(content):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        leaf = name.rpartition(".")[2]
        most = next((bound for pattern, bound in BOUNDS if pattern.search(leaf)), MOST)
        if abs(value) > most:
            raise ConfigurationError(
                f"{what} has {harmless(name, 40)}={harmless(str(value), 24)}, more than the {most} allowed; {_ADVICE}"
            )


def check_models(content: Mapping[str, Any], what: str) -> None:
    """Refuse names of other models that are a path, or of a publisher whom LeRobot's policies do not build on.

    A policy's weights come from its own folder: ``pretrained_path`` says where it once started and is not followed.

    Raises:
        ConfigurationError: There is one; the message names its field.
    """
    for name, value in _leaves(content):
        leaf = name.rpartition(".")[2]
        if not isinstance(value, str) or not value or leaf in _NOT_READ:
            continue
        in_list = _is_in_list(content, name)  # lists hold names of joints, which may have a slash
        direct = not in_list and ("/" in value or "\\" in value or value.startswith((".", "~")))
        if not direct and not _MODEL.search(leaf):
            continue
        found = _HUB_NAME.fullmatch(value)
        if found is None or found.group(1) not in PUBLISHERS:
            raise ConfigurationError(
                f"{what} names {harmless(value, 40)!r} as {harmless(leaf, 30)}; only models by hub name that LeRobot's "
                "own policies build on are followed"
            )


def _is_in_list(content: Mapping[str, Any], name: str) -> bool:
    """Whether a dotted name leads through a list: `_leaves` gives its entries the list's name."""
    at: Any = content
    for part in name.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return True
        at = at[part]
    return isinstance(at, list)


def _leaves(content: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Dotted name and value of everything that is no object or list; entries of a list have the list's name.

    Nesting is bounded where the file was read.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            own = f"{name}.{key}" if name else str(key)
            if isinstance(value, Mapping | list) and not value:
                yield own, None  # an empty one is still a field
            yield from _leaves(value, own)
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, name)
    else:
        yield name, content
