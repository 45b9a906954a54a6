"""No worker process outlives its parent, whatever kills the parent.

Two ways, because each misses something. The system's own (Linux: ``prctl(PR_SET_PDEATHSIG)``) also ends a process that
is stopped or hangs in native code, but it is bound to the thread that started the process, so it is only asked for
where that is the main thread, which lives as long as its process. A thread that waits for the parent's end works for
any parent, and on any system, as long as the worker's interpreter runs.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_ORPHANED = 1


def in_main_thread() -> bool:
    """Whether this is the main thread; asked where workers are started, and told them."""
    return threading.current_thread() is threading.main_thread()


def end_with_parent(started_in_main_thread: bool) -> None:
    """In a process that `multiprocessing` started: end when the parent does. Called before anything else.

    Ctrl-C is left to the parent: it reaches the whole terminal, and the parent ends its workers itself.

    Args:
        started_in_main_thread: What `in_main_thread` said in the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if started_in_main_thread and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent.pid:  # it ended before the system was told
            os._exit(_ORPHANED)
    threading.Thread(target=_follow, args=(parent,), name="lifeline", daemon=True).start()


def kill_children(since: set[int]) -> None:
    """End what `multiprocessing` has started since a call of `children`, also what is stopped or hangs."""
    for process in multiprocessing.active_children():
        if process.pid not in since:
            process.kill()
            process.join()


def children() -> set[int]:
    """Process ids of the living processes that `multiprocessing` has started."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def _follow(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(_ORPHANED)
