"""LIBERO without a simulation: tasks, orders, splits, stored states, and what is said when something is missing."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vla_cl.config.compose import build, compose
from vla_cl.envs import libero_catalog
from vla_cl.envs.libero import PROTOCOLS, Libero
from vla_cl.envs.libero_catalog import SUITES, initial_states_file, package_folder, problem_file, task_orders
from vla_cl.envs.libero_initial_states import read_initial_states
from vla_cl.envs.libero_package import PARTS, assets_folder
from vla_cl.interfaces import Suite
from vla_cl.run.root import sources
from vla_cl.types import ConfigurationError


def test_describing_a_suite_loads_no_simulator_no_torch_and_not_libero():
    code = (
        "import pickle, sys; from vla_cl.envs.libero import Libero; s = Libero('libero_10', order=3);"
        "s = pickle.loads(pickle.dumps(s)); s.tasks(); s.spec; s.fingerprint(); s.initial_states('train', 3);"
        "print(sorted({'libero', 'robosuite', 'mujoco', 'torch', 'gymnasium', 'lerobot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tasks_orders_and_instructions_are_those_of_the_package(tmp_path):
    code = """
import contextlib, io, json
from vla_cl.envs.libero_package import import_libero
from vla_cl.envs import libero_package
libero_package.assets_folder = lambda assets: assets
import_libero(None)
from libero.libero import benchmark
found = {}
with contextlib.redirect_stdout(io.StringIO()):
    for name in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        for order in range(1 if name == "libero_90" else len(benchmark.task_orders)):
            suite = benchmark.get_benchmark(name)(order)
            found[f"{name} {order}"] = [[f"{name}/{task.name}", task.language] for task in suite.tasks]
print(json.dumps(found))
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    for variable in ("LIBERO_CONFIG_PATH", "VLA_CL_CACHE", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    theirs = json.loads(done.stdout)
    assert len(theirs) == 4 * 21 + 1
    for key, tasks in theirs.items():
        suite, order = key.split()
        assert [[task.id, task.instruction] for task in Libero(suite, order=int(order)).tasks()] == tasks
    assert [path.name for path in tmp_path.rglob("config.yaml")] == ["config.yaml"]  # in our cache, not in ~/.libero
    assert not (tmp_path / ".libero").exists()


@pytest.mark.parametrize("name", SUITES)
def test_every_task_has_its_files_and_fifty_states(name):
    tasks = Libero(name).tasks()
    assert len(tasks) == (90 if name == "libero_90" else 10)
    for task in tasks:
        assert problem_file(name, task.name).is_file()
        assert len(read_initial_states(initial_states_file(name, task.name))) == 50


def test_stored_states_are_read_as_torch_reads_them():
    import torch

    files = sorted((package_folder() / "init_files").glob("*/*init"))
    assert len(files) == 250
    for file in files:
        theirs = torch.load(file, weights_only=False)
        ours = read_initial_states(file)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Malicious(), protocol=2), "where a float64 table has"),
        (pickle.dumps(np.zeros((2, 3), np.float32), protocol=2), "where a float64 table has"),
        (pickle.dumps(np.zeros(3), protocol=2), "where a float64 table has"),
        (b"\x80\x02", "broken pickle"),
        (b"", "broken pickle"),
        (b"\x80\x02.", "where a float64 table has"),
    ],
)
def test_any_other_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "task.pruned_init"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(ConfigurationError, match=words):
        read_initial_states(file)
    assert not (tmp_path / "pwned").exists()


def test_a_truncated_or_missing_file_of_states_is_named(tmp_path):
    whole = initial_states_file("libero_goal", "turn_on_the_stove").read_bytes()
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    for name in ("short", "absent"):
        with pytest.raises(ConfigurationError, match=f"{name} (cannot be read|does not exist).* reinstall hf-libero"):
            read_initial_states(tmp_path / name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other", b"")
    (tmp_path / "empty").write_bytes(buffer.getvalue())
    with pytest.raises(ConfigurationError, match=r"holds 0 entries data\.pkl"):
        read_initial_states(tmp_path / "empty")


def test_splits_are_disjoint_and_the_official_protocol_shares_its_states():
    suite = Libero("libero_object")
    splits = [
        set(suite.initial_states(split, count)) for split, count in (("report", 40), ("select", 10), ("train", 500))
    ]
    assert len(set.union(*splits)) == 550
    assert list(suite.initial_states("report", 3)) == [0, 1, 2]
    with pytest.raises(ConfigurationError, match="0 to 40 initial states in split 'report' of protocol 'lerobot'"):
        suite.initial_states("report", 41)
    official = Libero("libero_object", protocol="official")
    assert list(official.initial_states("report", 20)) == list(official.initial_states("select", 20)) == list(range(20))
    assert official.tasks()[0].max_steps == 600
    assert PROTOCOLS["official"].settling_steps == 5


def test_time_limits_are_those_of_lerobot():
    import ast
    import importlib.util

    source = Path(importlib.util.find_spec("lerobot").origin).parent / "envs" / "libero.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.AnnAssign) and node.target.id == "TASK_SUITE_MAX_STEPS":
            theirs = ast.literal_eval(node.value)
    assert theirs == {name: Libero(name).tasks()[0].max_steps for name in SUITES}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"suite": "libero_objects"}, "did you mean 'libero_object'"),
        ({"protocol": "oficial"}, "did you mean 'official'"),
        ({"control_mode": "delta"}, "control_mode is one of relative, absolute"),
        ({"order": 21}, "from 0 to 20, got 21"),
        ({"suite": "libero_90", "order": 1}, "from 0 to 0, got 1"),
        ({"render_profile": "fats"}, "did you mean 'fast'"),
        ({"image_size": 8}, "from 16 to 2048"),
        ({"max_steps": 0}, "from 1 to 10000"),
    ],
)
def test_wrong_settings_are_explained(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        Libero(**{"suite": "libero_object", **arguments})


@pytest.mark.parametrize("asked", ["turn_on_stove", "turn on the stove", "libero_goal/turn_on_the_stov"])
def test_an_unknown_task_is_answered_with_the_nearest(asked):
    with pytest.raises(ConfigurationError, match=r"did you mean .*'turn_on_the_stove'"):
        Libero("libero_goal").task(asked)


@pytest.mark.parametrize("name", SUITES)
def test_the_yaml_files_build_the_suite_and_its_stream(name, monkeypatch):
    monkeypatch.delenv("LIBERO_ASSETS", raising=False)
    settings = compose([f"suite={name}", f"stream={name}"])
    suite = build(settings["suite"], Suite)
    assert isinstance(suite, Libero)
    assert suite.name == name
    assert suite.assets is None
    assert sources(settings).stream.tasks == tuple(suite.tasks())


def test_the_order_of_the_suite_is_the_order_of_the_stream():
    settings = compose(["suite=libero_goal", "stream=libero_goal", "suite.order=3"])
    stream = sources(settings).stream
    usual = Libero("libero_goal").tasks()
    assert [task.id for task in stream.tasks] == [usual[position].id for position in task_orders()[3]]
    assert stream.name == "libero_goal-order3"


def test_a_stream_brings_its_suite_unless_another_is_named():
    assert sources(compose(["stream=libero_goal"])).suite.name == "libero_goal"
    with pytest.raises(ConfigurationError, match="add suite=libero_goal"):
        sources(compose(["stream=libero_goal", "suite=libero_10"]))


def test_a_folder_that_holds_no_assets_is_named(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"is not LIBERO's assets \(no folder articulated_objects.*LIBERO_ASSETS"
    ):
        assets_folder(tmp_path)


def test_assets_that_are_nowhere_are_announced_and_offline_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))  # the hub is offline in tests
    with pytest.raises(
        ConfigurationError, match=r"could not be downloaded.*set suite.assets or LIBERO_ASSETS"
    ) as caught:
        assets_folder(None)
    assert "\n" not in str(caught.value)
    assert f"to {tmp_path}" in capsys.readouterr().err


def test_assets_that_hf_libero_has_downloaded_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "libero" / "assets"
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    assert assets_folder(None) == folder
    assert capsys.readouterr().err == ""


def test_without_libero_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(libero_catalog.importlib.util, "find_spec", lambda name: None)
    libero_catalog.package_folder.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"pip install 'vla-cl\[libero\]'"):
            libero_catalog.package_folder()
    finally:
        libero_catalog.package_folder.cache_clear()
