"""``--json`` of every command: one document on stdout, messages on stderr, errors as a document too."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vla_cl.cli.answers import messages_only
from vla_cl.cli.main import _parser, main

CONF = str(Path(__file__).parents[1] / "conf")
BED = ["stream=bed_policy_regression", "training.steps=2", "training.batch_size=4", "evaluation.episodes=2",
       "device=cpu", "threads=1"]  # fmt: skip
TOY = ["--conf", CONF, "plugins=[toy_world]", "suite=point", "evaluation.workers=1", "evaluation.episodes=1",
       "evaluation.videos=0", "device=cpu", "threads=1"]  # fmt: skip
COLLECT = ["collect", "--conf", CONF, "plugins=[toy_world]", "suite=point", "stream=points", "cache_dir=cache",
           "demonstrations.episodes=1", "demonstrations.workers=1"]  # fmt: skip

ANSWERS = {
    "train": (["train", *BED, "name=run", "method=er"], {"runs"}),
    "resume": (["resume", "outputs/run"], {"runs"}),
    "check": (["check", *BED], {"experiences", "family", "method", "notes"}),
    "collect": (COLLECT, {"datasets"}),
    "evaluate": (["evaluate", "random", *TOY, "output_dir=random"], {"folder", "summary"}),
    "report": (["report", "outputs/run"], {"report", "figures"}),
    "compare": (["compare", "outputs/run"], None),
    "metrics": (["metrics", "outputs/run"], {"metrics", "matrix"}),
    "memory": (["memory", "outputs/run"], {"tasks", "bytes", "budget_bytes", "settings", "passed_over"}),
    "bench": (["bench", "startup", "output=bench.json"], {"stored", "holds"}),
    "list": (["list", "suites"], None),
    "methods": (["methods", "er"], None),
    "doctor": (["doctor"], None),
}
"""A command, and the keys of its document; None: a list."""

NOT_RUN = {
    "new": "writes a package; in test_new_plugin.py",
    "trial": "asks a person; in test_trial.py",
    "gallery": "draws pictures of a simulator",
    "demo": "takes minutes",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands are given; those further down read the run of the first."""
    place = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(ANSWERS["train"][0]) == 0
    return place


def test_every_command_is_here_and_takes_json_and_shows_an_example():
    commands = _parser()[1]
    assert sorted([*ANSWERS, *NOT_RUN]) == sorted(commands)
    for name, parser in commands.items():
        assert isinstance(parser, argparse.ArgumentParser)
        assert "--json" in parser.format_help()
        assert f"example: vla-cl {name}" in parser.format_help()


@pytest.mark.parametrize("name", ANSWERS)
def test_one_document_and_nothing_else(name, folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vla_cl.bench.startup.startup", lambda *_: {"holds": True})
    monkeypatch.setattr("vla_cl.tools.doctor.CHECKS", {})
    arguments, keys = ANSWERS[name]
    assert main([*arguments, "--json"]) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, list) if keys is None else set(found) == keys


def test_train_says_what_the_run_came_to(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["--json", "train", *ANSWERS["train"][0][1:]]) == 2  # a command comes first
    capfd.readouterr()
    assert main([*ANSWERS["train"][0], "--json"]) == 0
    shown = capfd.readouterr()
    (run,) = json.loads(shown.out)["runs"]
    assert run["run"] == "outputs/run" and run["status"] == "finished" and run["method"] == "er"
    assert Path(run["report"]).is_file()
    assert "value" in run["metrics"]["final_average"]
    assert "outputs/run is finished" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "method=nope"], "unknown method 'nope'"),
        (["nope"], "there is no command 'nope'"),
        (["metrics", "/no/such/file"], "does not exist"),
        (["report"], "RUN"),
    ],
)
def test_an_error_is_a_document_too(arguments, words, capfd):
    assert main([*arguments, "--json"]) == 2
    shown = capfd.readouterr()
    found = json.loads(shown.out)
    assert set(found) == {"error", "status"}
    assert words in found["error"] and found["status"] == 2
    assert shown.err == f"vla-cl: {found['error']}\n"


def test_what_other_processes_print_is_no_part_of_the_document(capfd):
    with messages_only():
        print("ours")
        subprocess.run([sys.executable, "-c", "print('of a process')"], check=True)
    print("the document")
    shown = capfd.readouterr()
    assert shown.out == "the document\n"
    assert set(shown.err.splitlines()) == {"ours", "of a process"}
