import contextlib
import subprocess
import sys

import pytest

from vla_cl.cli.main import main

HEAVY = ("torch", "lerobot", "transformers", "metaworld", "mujoco", "pandas", "matplotlib")


def run(*arguments):
    code = f"""
import sys
from vla_cl.cli.main import main
try:
    status = main({list(arguments)!r})
except SystemExit as end:
    status = end.code
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
sys.exit(status)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["report", "--help"], ["bench", "--help"], ["evaluate", "--help"]],
)
def test_help_shows_an_example_and_imports_nothing_heavy(arguments):
    done = run(*arguments)
    assert done.returncode == 0
    assert "example: vla-cl " in done.stdout
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize(("command", "root"), [("train", "config"), ("evaluate", "evaluate"), ("bench", "bench")])
def test_help_names_the_file_of_the_settings(command, root, capsys):
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"settings that differ from conf/{root}.yaml" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "method=err"], "unknown method 'err'; did you mean 'er'"),
        (["train", "suite=metaword"], "unknown suite 'metaword'; did you mean 'metaworld'"),
        (["train", "stream.tasks=[drawer-opn]"], "unknown task 'drawer-opn' of metaworld; nearest: drawer-open"),
        (["train", "trainig.steps=5"], "unknown key 'trainig.steps'; did you mean 'training.steps'"),
        (["collect", "stream=metaworld_7"], "unknown stream 'metaworld_7'"),
        (["train", "suite.image_sze=5"], "did you mean 'suite.image_size'"),
        (["train", "arrangement=jont"], "did you mean 'joint'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2_before_anything_heavy(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "heavy: []" in done.stdout


def test_metrics_of_a_missing_file(capsys, tmp_path):
    assert main(["metrics", str(tmp_path / "none.json")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_evaluate_of_nothing(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path / "none")]) == 2
    assert "neither a folder here nor a hub name" in capsys.readouterr().err
