"""The settings of every method that ships, read once per process: Hydra would take seconds when tests are collected."""

import copy
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[2] / "conf" / "method"


@cache
def _read(name):
    return OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))


def method_preset(name):
    """What ``compose([f"method={name}"])["method"]`` gives; ``test_compose.py`` holds it to that."""
    return copy.deepcopy(_read(name))


def method_presets():
    """Name to settings."""
    return {path.stem: method_preset(path.stem) for path in sorted(FOLDER.glob("*.yaml"))}
