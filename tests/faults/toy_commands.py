"""The three commands that write, on the toy suite, and what of their results must never depend on a fault.

Commands run in processes forked from one that has everything imported, so that many take seconds.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
from processes import MARKER, TESTS

CONF = ["--conf", str(TESTS / "conf")]
POINT = ["plugins=[toy_world]", "suite=point", "device=cpu", "threads=1"]
ROLLOUTS = ["evaluation.episodes=2", "evaluation.replan_every=2", "evaluation.workers=1"]
DEMONSTRATIONS = ["stream=points", "demonstrations.episodes=3", "demonstrations.workers=2"]
TRAINING = ["policy=tiny", "training.steps=4", "training.batch_size=4", "method=er",
            "method.memory={samples_per_task: 40, keep: copy, unit: trajectory}", "evaluation.curve_points=1",
            "evaluation.curve_episodes=2", "evaluation.untrained=true"]  # fmt: skip

COLLECT, TRAIN, EVALUATE = "collect", "train", "evaluate"


class Place:
    """A folder with a cache, a run and an evaluation."""

    def __init__(self, root):
        self.root = Path(root)
        self.cache, self.run, self.evaluation = (self.root / name for name in ("cache", "run", "evaluation"))

    def command(self, kind):
        """The arguments of ``vla-cl``."""
        if kind == COLLECT:
            return ["collect", *CONF, *POINT, *DEMONSTRATIONS, f"cache_dir={self.cache}"]
        if kind == TRAIN:
            more = [*DEMONSTRATIONS, *TRAINING, f"cache_dir={self.cache}", f"output_dir={self.run}"]
            return ["train", *CONF, *POINT, *ROLLOUTS, *more]
        if kind == EVALUATE:
            more = ["record=true", f"output_dir={self.evaluation}", "evaluation.episodes=3"]
            return ["evaluate", *CONF, str(self.run), *POINT, *ROLLOUTS[1:], *more]
        return [kind, str(self.run)]

    def results(self, kind):
        """What a command has come to, comparable."""
        if kind == COLLECT:
            roots = sorted((self.cache / "demonstrations" / "point").glob("[!.]*"))
            return {root.name: hashes(root) for root in roots}
        if kind == TRAIN:
            matrix = json.loads((self.run / "matrix.json").read_text())
            weights = {path.parent.parent.name: digest(path) for path in self.run.rglob("model.safetensors")}
            return {
                "weights": weights,
                "table": rows(self.run),
                "matrix": {key: value for key, value in matrix.items() if key not in ("run", "seal")},
                "status": json.loads((self.run / "run.json").read_text())["status"],
            }
        summary = json.loads((self.evaluation / "summary.json").read_text())
        found = {name: hashes(self.evaluation / folder) for name, folder in (("data", "dataset"), ("films", "videos"))}
        return {"table": rows(self.evaluation), "tasks": summary["tasks"], **found}

    def copy_to(self, root):
        shutil.copytree(self.root, root, symlinks=True)
        return Place(root)

    def hidden(self):
        """What begins with a dot: locks, temporary files, pieces, things set aside; a memory's own lock may stay."""
        found = {str(path.relative_to(self.root)) for path in self.root.rglob(".*")}
        return sorted(found - {"run/memory/.lock"})


def rows(folder):
    return pd.read_parquet(folder / "episodes.parquet").drop(columns="seconds").to_dict("records")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes(folder):
    """Of every visible file but the manifest, which lists them, and the note, which says where the policy lay."""
    notes = ("MANIFEST.json", "vla_cl.json")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in notes]
    return {str(path.relative_to(folder)): digest(path) for path in files}


def _server():
    context = multiprocessing.get_context("forkserver")
    if (here := str(Path(__file__).parent)) not in os.environ.get("PYTHONPATH", ""):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    context.set_forkserver_preload(["toy_commands_preloaded"])
    return context


def start(arguments, log, marker="", die_at_call=None):
    """Run ``vla-cl`` with these arguments in a process of its own; its output goes to ``log``."""
    process = _server().Process(target=_run, args=(arguments, str(log), marker, die_at_call))
    process.start()
    return process


def run(arguments, log):
    """Run to the end; the exit status and what was printed."""
    process = start(arguments, log)
    process.join()
    status = process.exitcode
    process.close()
    return status, Path(log).read_text(errors="replace")


def _run(arguments, log, marker, die_at_call):
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ[MARKER] = marker
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if die_at_call is not None:
        _die_at(die_at_call)
    from vla_cl.cli.main import main

    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _die_at(call):
    """The process is killed when it makes so many calls that change the file system."""
    left = [call]

    def counted(function):
        def calling(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return calling

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
