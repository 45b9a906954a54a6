"""What hf-libero ships as data: tasks, instructions, task orders, problem and state files. Imports no simulator.

``import libero.libero`` asks a question on the terminal when it runs for the first time, and its benchmark module
brings torch. All that is needed here are literals and files, so they are read as such from the installed package.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from vla_cl.types import ConfigurationError

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


@cache
def package_folder() -> Path:
    """The folder of the module ``libero.libero``, found without importing it.

    Raises:
        ConfigurationError: hf-libero is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "libero"
        if (folder / "benchmark" / "libero_suite_task_map.py").is_file():
            return folder
    raise ConfigurationError("LIBERO is not installed (no package hf-libero); run `pip install 'vla-cl[libero]'`")


@cache
def task_names(suite: str) -> tuple[str, ...]:
    """The tasks of a suite in LIBERO's default order, each called like its problem file without the ending."""
    tables = _literal(package_folder() / "benchmark" / "libero_suite_task_map.py", "libero_task_map")
    if not isinstance(tables, Mapping) or suite not in tables:
        raise ConfigurationError(f"the installed hf-libero has no tasks of suite {suite!r}; reinstall it")
    return tuple(tables[suite])


@cache
def task_orders() -> tuple[tuple[int, ...], ...]:
    """LIBERO's official orders of the suites with ten tasks: positions in `task_names`; the first is 0 to 9."""
    orders = _literal(package_folder() / "benchmark" / "__init__.py", "task_orders")
    if not isinstance(orders, Sequence):
        raise ConfigurationError("the installed hf-libero has no list of task orders; reinstall it")
    return tuple(tuple(order) for order in orders)


def instruction(task_name: str) -> str:
    """A task's instruction as LIBERO and LeRobot give it to policies: the file's name in words, without the scene."""
    words = task_name.split("_")
    scenes = [position for position, word in enumerate(words) if word.startswith("SCENE")]
    return " ".join(words[scenes[0] + 1 :] if task_name[0].isupper() and scenes else words)


def problem_file(suite: str, task_name: str) -> Path:
    """The task's problem in BDDL."""
    return package_folder() / "bddl_files" / suite / f"{task_name}.bddl"


def initial_states_file(suite: str, task_name: str) -> Path:
    """The stored states that LIBERO evaluates from."""
    return package_folder() / "init_files" / suite / f"{task_name}.pruned_init"


def _literal(path: Path, name: str) -> object:
    """The literal that a module assigns to a name, read from its source."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise ConfigurationError(f"{path} of hf-libero cannot be read ({error}); reinstall hf-libero") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            value: object = ast.literal_eval(node.value)
            return value
    raise ConfigurationError(f"{path} of hf-libero defines no {name}; install hf-libero 0.1.4")
