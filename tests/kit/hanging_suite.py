"""The toy suite whose episodes never end: Python code hangs, native code hangs, the process is stopped.

Importable by worker processes and by the command line.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

from toy_world import PointEnvironment, PointSuite


class HangingEnvironment(PointEnvironment):
    def __init__(self, task, folder):
        super().__init__(task)
        self.folder = Path(folder)

    def reset(self, initial_state):
        super().reset(initial_state)
        kind = ("python", "native", "stopped")[initial_state % 3]
        (self.folder / f"{kind}-{os.getpid()}").touch()
        if kind == "python":
            time.sleep(10_000)
        if kind == "native":
            ctypes.PyDLL(None).sleep(10_000)  # PyDLL, unlike CDLL, keeps the interpreter's lock
        os.kill(os.getpid(), signal.SIGSTOP)


class HangingSuite(PointSuite):
    name = "hanging"

    def __init__(self, folder: str | None = None, render_profile: str = "plain"):
        super().__init__(render_profile)
        self.folder = folder

    def make_environment(self, task):
        return HangingEnvironment(task, self.folder)

    def fingerprint(self):
        return {"suite": self.name}
