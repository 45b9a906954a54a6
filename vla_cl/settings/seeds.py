"""Several training seeds in one command, ``train_seed=0,1,2``: one run after another, each in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.settings.overrides import split
from vla_cl.types import ConfigurationError

_SEEDS = re.compile(r"\[?\s*\d+(?:\s*,\s*\d+)+\s*\]?")


def of_each_seed(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run; of a command with one seed, those that were given.

    Raises:
        ConfigurationError: A seed stands there twice.
    """
    values = [value.strip("\"' ") for _, key, value in map(split, overrides) if key == "train_seed"]
    if not values or not _SEEDS.fullmatch(values[-1]):
        return [list(overrides)]
    seeds = [int(item) for item in re.findall(r"\d+", values[-1])]
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"train_seed={values[-1]} names a seed twice; give each once")
    others = [item for item in overrides if split(item)[1] != "train_seed"]
    return [[*others, f"train_seed={seed}"] for seed in seeds]


def in_own_folder(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one of several seeds: a name or folder that was given for all gets the seed behind it."""
    own, word = dict(settings), f"seed{settings['train_seed']}"
    if own["name"] is not None:
        own["name"] = f"{own['name']}-{word}"
    if own["output_dir"] is not None:
        own["output_dir"] = str(Path(own["output_dir"]) / word)
    return own
