"""No process outlives its parent, whatever kills the parent and whatever the process is doing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MARKER, TESTS, alive, start, wait_until

SECONDS_TO_END = 30.0  # a moment, on a machine that is not under load

CONF = ["--conf", TESTS / "conf"]
HANGING = ["plugins=[hanging_suite]", "suite=hanging", "evaluation.replan_every=2"]


def begin(kind, tmp_path):
    """A command with three workers: one hangs in Python, one in native code, one is stopped.

    Of ``check`` it is the process that looks at the suite which hangs, before there are workers.
    """
    marks = tmp_path / "marks"
    marks.mkdir()
    if kind in ("collect", "check"):
        more = ["stream=points", "stream.suite=hanging", "stream.tasks=[red]", "demonstrations.episodes=3",
                "demonstrations.workers=3", f"cache_dir={tmp_path / 'cache'}"]  # fmt: skip
        later = "true" if kind == "collect" else "false"
        arguments = ["collect", *CONF, *HANGING, *more, f"suite.folder={marks}", f"+suite.after_check={later}"]
    else:
        more = ["tasks=[red]", "evaluation.episodes=3", "evaluation.workers=3", "evaluation.slots_per_worker=1",
                f"output_dir={tmp_path / 'e'}", "device=cpu"]  # fmt: skip
        arguments = ["evaluate", *CONF, "random", *HANGING, *more, f"suite.folder={marks}"]
    process, marker = start(*arguments)
    kinds = {"python"} if kind == "check" else {"python", "native", "stopped"}
    wait_until(lambda: process.poll() is not None or {path.name.split("-")[0] for path in marks.iterdir()} == kinds)
    assert process.poll() is None
    return process, marker


@pytest.mark.parametrize("kind", ["collect", "evaluate", "check"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda how: how.name)
def test_nothing_is_left_when_a_command_is_killed(tmp_path, kind, how):
    process, marker = begin(kind, tmp_path)
    assert len(alive(marker)) >= (2 if kind == "check" else 4)
    process.send_signal(how)
    process.wait()
    wait_until(lambda: alive(marker) == [], SECONDS_TO_END)


@pytest.mark.parametrize("kind", ["collect", "check"])
def test_ctrl_c_ends_collect_at_once_although_its_workers_hang(tmp_path, kind):
    process, marker = begin(kind, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS_TO_END) == 130
    wait_until(lambda: alive(marker) == [], SECONDS_TO_END)


ORIENTATION = """
import sys
from pathlib import Path
from hanging_suite import HangingSuite
from vla_cl.data.source import Source
from vla_cl.rollout.orientation import check_orientation
if __name__ == "__main__":
    suite = HangingSuite(sys.argv[1])
    task = suite.tasks()[0]
    check_orientation(suite, [task], {task.id: [Source(Path(sys.argv[1]))]})
"""

THREAD = """
import os, sys, threading, time
from pathlib import Path
from hanging_suite import HangingSuite
from vla_cl.rollout.collect import collect

def first():
    try:
        collect(HangingSuite(sys.argv[1]), HangingSuite().tasks()[:1], Path(sys.argv[1]) / "c", 1, progress=False)
    finally:
        os._exit(9)

if __name__ == "__main__":
    threading.Thread(target=first).start()
    time.sleep(10_000)
"""


@pytest.mark.parametrize("script", [ORIENTATION, THREAD], ids=["orientation", "not started in the main thread"])
def test_other_pools_end_as_well(tmp_path, script):
    environment = os.environ | {MARKER: str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: list(tmp_path.glob("python-*")))
    process.kill()
    process.wait()
    wait_until(lambda: alive(str(tmp_path)) == [], SECONDS_TO_END)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_worker_that_is_still_starting_ends_as_well(tmp_path, after):
    """The parent is gone before the worker has asked to be told of it."""
    process, marker = start("collect", *CONF, "plugins=[toy_world]", "suite=point", "stream=points",
                            "demonstrations.episodes=3", "demonstrations.workers=2",
                            f"cache_dir={tmp_path}")  # fmt: skip
    wait_until(lambda: len(alive(marker)) > after or process.poll() is not None)
    process.kill()
    process.wait()
    wait_until(lambda: alive(marker) == [], SECONDS_TO_END)
    assert not [path for path in Path("/dev/shm").iterdir() if str(process.pid) in path.name]
