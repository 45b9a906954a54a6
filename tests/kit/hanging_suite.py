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
    def __init__(self, task, folder, after_check):
        super().__init__(task)
        self.folder, self.after_check = Path(folder), after_check

    def reset(self, initial_state):
        super().reset(initial_state)
        if self.after_check and self.is_the_check():
            return
        kind = ("python", "native", "stopped")[initial_state % 3]
        (self.folder / f"{kind}-{os.getpid()}").touch()
        if kind == "python":
            time.sleep(10_000)
        if kind == "native":
            ctypes.PyDLL(None).sleep(10_000)  # PyDLL, unlike CDLL, keeps the interpreter's lock
        os.kill(os.getpid(), signal.SIGSTOP)

    def is_the_check(self):
        """Whether this is the first process that resets an episode: the one that looks at a suite of a plug-in."""
        mark = self.folder.with_name(f"{self.folder.name}.checked")
        try:
            with mark.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            pass
        return mark.read_text() == str(os.getpid())


class HangingSuite(PointSuite):
    name = "hanging"

    def __init__(self, folder: str | None = None, render_profile: str = "plain", after_check: bool = False):
        super().__init__(render_profile)
        self.folder = folder
        self.after_check = after_check

    def make_environment(self, task):
        return HangingEnvironment(task, self.folder, self.after_check)

    def fingerprint(self):
        return {"suite": self.name}
