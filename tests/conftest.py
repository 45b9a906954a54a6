"""Shared set-up: offline, one thread per process, and one small set of recorded demonstrations."""

import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
# The kit, also in worker processes and in commands that tests start.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "kit"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path[:2], os.environ.get("PYTHONPATH")]))

import pytest

# nobody cuts the power while tests run, so no file has to be on the disk; processes that tests start do write it there
os.fsync = lambda handle: None
# nohup and a shell's & ignore these, and programs that are started inherit it: tests that send them would wait in vain
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def point_datasets(tmp_path_factory):
    """Four demonstrations of each toy task: LeRobotDataset folders, in the order red, green, blue."""
    from toy_world import PointSuite

    from vla_cl.rollout.collect import collect

    suite = PointSuite()
    return collect(suite, suite.tasks(), tmp_path_factory.mktemp("demonstrations"), episodes=4, progress=False)
