"""Runs one command per case in a child of its own, from one process that has imported everything once.

Usage: ``python hostile_world.py WORKSPACE``. The parent writes ``results.json``: what each command said, how long
it took, how much memory, whether anything was imported or touched that should not be.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("kit", "report"))]

SECONDS = 600
"""A hang is stopped after this long; nothing here should take one of them."""


def snapshot(folder):
    """Names and contents of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() and not path.is_symlink() else b"-")
    return digest.hexdigest()


def in_child(case, artefact, place):
    """What the user's command says, written to files; the exit status is the command's."""
    os.chdir(place)
    sys.stdout = (place / "stdout").open("w", encoding="utf-8")
    sys.stderr = (place / "stderr").open("w", encoding="utf-8")
    signal.alarm(SECONDS)
    status = 99
    try:
        status = case.use(artefact, place) or 0
    except BaseException:  # noqa: BLE001 - whatever it is, the test wants to see it
        traceback.print_exc(file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run_case(case, base, workspace):
    place = workspace / "cases" / ("folder_of_somebody_" * 4) / case.name
    place.mkdir(parents=True)
    artefact = case.make(base, place)
    outside, inputs = workspace / "outside", place / "input"
    before = snapshot(outside), "" if case.writes else snapshot(inputs)
    there = {path.name for path in (workspace / "tmp").iterdir()}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads wait; the child needs none of them
        child = os.fork()
    if child == 0:
        in_child(case, artefact, place)
    _, status, used = os.wait4(child, 0)
    after = snapshot(outside), "" if case.writes else snapshot(inputs)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "stdout": (place / "stdout").read_text(encoding="utf-8", errors="replace"),
        "stderr": (place / "stderr").read_text(encoding="utf-8", errors="replace"),
        "seconds": round(used.ru_utime + used.ru_stime, 2),
        "memory_mib": max(0, used.ru_maxrss - own) // 1024,
        "touched": before != after,
        "left_in_tmp": sorted({path.name for path in (workspace / "tmp").iterdir()} - there),
        "imported": (workspace / "imported").exists(),
    }


def main(workspace):
    (workspace / "tmp").mkdir(parents=True)
    os.environ["TMPDIR"] = str(workspace / "tmp")
    os.environ["HOSTILE_MARK"] = str(workspace / "imported")
    os.environ["VLA_CL_CACHE"] = str(workspace / "cache")
    import hostile_artefacts
    import hostile_base

    (workspace / "outside").mkdir()
    (workspace / "outside" / "precious.txt").write_text("untouched")
    base = hostile_base.make_base(workspace / "base")
    (workspace / "modules").mkdir()
    canary = "import os, pathlib\npathlib.Path(os.environ['HOSTILE_MARK']).write_text('imported')\nclass Step: pass\n"
    for name in ("canary_module", "canary_plugin"):
        (workspace / "modules" / f"{name}.py").write_text(canary)
    sys.path.insert(0, str(workspace / "modules"))
    results = {}
    for case in hostile_artefacts.CASES:
        results[case.name] = run_case(case, base, workspace)
        if results[case.name]["imported"]:
            (workspace / "imported").unlink()
    (workspace / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
