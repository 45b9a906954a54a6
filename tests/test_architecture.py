"""Rules that hold for every module: what importing costs, what the code must not contain, how large its parts may grow.

The layers themselves are contracts in ``.importlinter``, checked by ``make check``.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIMULATORS = {"metaworld", "mujoco", "robosuite", "libero", "gymnasium"}
LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60

SOURCES = sorted(path for folder in ("vla_cl", "envs", "policies") for path in (ROOT / folder).rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def modules() -> list[str]:
    names = []
    for path in SOURCES:
        relative = path.relative_to(ROOT).with_suffix("")
        parts = relative.parts if relative.parts[0] == "vla_cl" else ("vla_cl", *relative.parts)
        names.append(".".join(parts).removesuffix(".__init__"))
    return names


def imported_by(*names: str) -> set[str]:
    """Top-level packages in memory after importing these modules in a new process."""
    code = f"""
import importlib, json, sys
for name in {list(names)!r}:
    importlib.import_module(name)
print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_sources_are_found_once() -> None:
    assert {"vla_cl.types", "vla_cl.envs", "vla_cl.policies"} <= set(modules())
    assert len(modules()) == len(set(modules()))


def test_importing_the_package_imports_nothing_that_takes_time() -> None:
    """How long it takes is measured by ``vla-cl bench startup``."""
    assert not imported_by("vla_cl") & {"torch", "numpy", "lerobot", "hydra"}


def test_the_nouns_and_interfaces_need_no_torch() -> None:
    packages = imported_by("vla_cl.types", "vla_cl.interfaces")
    assert not packages & {"torch", "lerobot", "transformers", "pandas", "matplotlib", *SIMULATORS}


def test_environments_are_imported_without_torch_or_simulator() -> None:
    packages = imported_by(*(name for name in modules() if name.startswith("vla_cl.envs")))
    assert not packages & {"torch", "lerobot", "transformers", *SIMULATORS}


def test_no_module_imports_a_simulator_when_it_is_imported() -> None:
    """LeRobot itself imports gymnasium, which is no simulator by itself."""
    packages = imported_by(*modules())
    assert not packages & (SIMULATORS - {"gymnasium"})


@pytest.mark.parametrize("folder", ["envs", "policies", "conf"])
def test_a_folder_at_the_top_has_one_name_only(folder: str) -> None:
    code = f"import importlib; importlib.import_module({folder!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"ImportError: import this folder as vla_cl.{folder}, not as {folder}")


def forbidden_calls(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    dangerous = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in dangerous:
            yield node, name
        if any(keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False" for keyword in node.keywords):
            yield node, "allow_pickle"


def forbidden_imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    serialisers = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                yield node, f"from {node.module} import *"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in serialisers:
                yield node, f"import {name}"


def swallowed_exceptions(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """A bare ``except``, and a broad one whose body raises nothing and keeps nothing of the error."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield node, "bare except"
        elif ast.unparse(node.type) in {"Exception", "BaseException"}:
            inside = [part for statement in node.body for part in ast.walk(statement)]
            raises = any(isinstance(part, ast.Raise) for part in inside)
            keeps = any(isinstance(part, ast.Name) and part.id in {node.name, "traceback"} for part in inside)
            if not (raises or keeps):
                yield node, "broad except that swallows"


PROBES = {
    "vla_cl/bench/resets.py": 1,  # what a simulator's parts hold
    "vla_cl/bench/stock_lerobot.py": 1,  # which of LeRobot's environments are lazy
    "vla_cl/config/compose.py": 2,  # a class by its import string; how a type is called
    "vla_cl/data/location.py": 1,  # what an error of the system says
    "vla_cl/files.py": 1,  # what the system's C library has
    "vla_cl/library.py": 1,  # the attribute of a constructor's argument; it is refused if missing
    "vla_cl/rollout/shared_pictures.py": 1,  # what the system has
    "vla_cl/training/stopping.py": 1,  # which signals the system has
    "vla_cl/trust/yaml_files.py": 2,  # events of PyYAML
    "envs/lerobot_gym.py": 1,  # a field of other people's configurations
    "envs/robosuite_core.py": 1,  # a hook of other people's environments
}
"""Where something is asked for that may not be there, and how often. Models, methods and data declare what they can."""


def probes(tree: ast.AST) -> list[ast.Call]:
    """``hasattr``, and ``getattr`` with a default."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [c for c in calls if c.func.id == "hasattr" or (c.func.id == "getattr" and len(c.args) == 3)]


def test_abilities_are_declared_not_probed() -> None:
    found = {str(path.relative_to(ROOT)): len(probes(tree)) for path, tree in TREES.items()}
    assert {path: count for path, count in found.items() if count} == PROBES


def test_only_the_mixing_of_batches_looks_at_tokens_beside_models() -> None:
    """How tokens lie in a batch is the model's to know; how a mixed batch is padded is `memory.mixing`'s."""
    files = [path for folder in ("methods", "interfaces") for path in (ROOT / "vla_cl" / folder).rglob("*.py")]
    files += [path for path in (ROOT / "vla_cl" / "memory").rglob("*.py") if path.name != "mixing.py"]
    words = ('"input_ids"', '"labels"', '"attention_mask"')
    assert [str(path.relative_to(ROOT)) for path in files if any(word in path.read_text() for word in words)] == []


@pytest.mark.parametrize(
    "rule", [forbidden_calls, forbidden_imports, swallowed_exceptions], ids=lambda rule: rule.__name__
)
def test_nothing_forbidden_in_the_code(rule) -> None:
    assert [f"{where(path, node)}: {what}" for path, tree in TREES.items() for node, what in rule(tree)] == []


@pytest.mark.parametrize(
    ("rule", "code", "found"),
    [
        (forbidden_calls, "eval('1')", 1),
        (forbidden_calls, "torch.load(path)", 1),
        (forbidden_calls, "np.lib.format.read_array(f, allow_pickle=True)", 1),
        (forbidden_calls, "yaml.safe_load(text); model.eval()", 0),
        (forbidden_imports, "import pickle", 1),
        (forbidden_imports, "from a import *", 1),
        (forbidden_imports, "from . import pickled", 0),
        (swallowed_exceptions, "try: f()\nexcept: pass", 1),
        (swallowed_exceptions, "try: f()\nexcept Exception: pass", 1),
        (swallowed_exceptions, "try: f()\nexcept Exception as error: log(error)", 0),
        (swallowed_exceptions, "try: f()\nexcept Exception: log(traceback.format_exc())", 0),
        (swallowed_exceptions, "try: f()\nexcept Exception: raise", 0),
    ],
)
def test_the_rules_find_what_they_look_for(rule, code: str, found: int) -> None:
    assert len(list(rule(ast.parse(code)))) == found


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > LINES_PER_FILE} == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_stay_small() -> None:
    long = {
        f"{where(path, node)} {node.name}": lines
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := body_lines(node)) > LINES_PER_FUNCTION
    }
    assert long == {}


def test_no_unfinished_marks() -> None:
    marks = ("TODO", "FIXME", "XXX")
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(mark in line for mark in marks)
    ]
    assert lines == []


def test_every_restricted_room_is_under_its_contract() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    covered = set(contracts["importlinter:contract:torch-only"]["source_modules"].split())
    rooms = {path.stem for path in (ROOT / "vla_cl").iterdir()}
    restricted = {"methods", "memory", "adapters", "skills", "training", "metrics", "interfaces", "types"}
    assert covered == {f"vla_cl.{name}" for name in restricted & rooms}
