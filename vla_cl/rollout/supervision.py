"""The parent's side of worker processes: starting, talking, noticing that one died or hangs, ending."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from vla_cl.rollout.lifeline import in_main_thread
from vla_cl.rollout.shared_pictures import SharedPictures
from vla_cl.rollout.worker import (
    Begin,
    DecisionDue,
    Execute,
    Finished,
    Ready,
    Refused,
    Stop,
    WorkerSettings,
    worker_main,
)

# One thread each: parallelism comes from the workers. llvmpipe (Mesa's software renderer) has its own variable.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
_SECONDS_TO_STOP = 5.0

Answer = DecisionDue | Finished | Refused
Inbox = queue.SimpleQueue[tuple["WorkerHandle", Answer | None]]
"""What workers say, in the order of its arrival; None is a worker's end."""


class WorkerHandle:
    """A worker process and what the parent knows of it.

    A thread of the parent listens to each worker, so that one that is stopped in the middle of a message blocks nobody.

    Attributes:
        process: The process.
        pictures: What its environments last drew.
        ready: The worker has started and has the suite.
        outstanding: Slots of the commands that are not answered yet, oldest first: the worker is busy with the first.
        idle_tasks: Task ids of the environments that the worker holds unused.
    """

    def __init__(self, settings: WorkerSettings, inbox: Inbox) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self.pictures = SharedPictures(settings.suite.spec, settings.slots)
        self.process = context.Process(
            target=worker_main,
            args=(settings, self.pictures, child_end, in_main_thread()),
            name="rollout-worker",
            daemon=True,
        )
        with _inherited_by_worker():
            self.process.start()
        child_end.close()  # so that the end of the process is the end of the pipe
        self.ready = False
        self.outstanding: deque[int] = deque()
        self.idle_tasks: list[str] = []
        self._last_sign = time.monotonic()
        self._inbox = inbox
        self._listener = threading.Thread(target=self._listen, name="rollout-listener", daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    def send(self, command: Begin | Execute) -> None:
        """Give a command. A worker that just died takes it silently: its end comes through the inbox."""
        if not self.outstanding:
            self._last_sign = time.monotonic()
        self.outstanding.append(command.slot)
        try:
            self._connection.send(command)
        except (BrokenPipeError, ConnectionResetError):
            return

    def overdue(self, deadline: float, start_deadline: float) -> bool:
        """Whether a command has been unanswered for ``deadline`` seconds, or the start for ``start_deadline``."""
        silent = time.monotonic() - self._last_sign
        if not self.ready:
            return silent > start_deadline
        return bool(self.outstanding) and silent > deadline

    def exit_code(self) -> int | None:
        """How a process that closed its pipe ended; None if it still has not."""
        self.process.join(_SECONDS_TO_STOP)
        return self.process.exitcode

    def ask_to_stop(self) -> None:
        """Let the worker close its environments and end; `kill` afterwards, which frees the rest."""
        try:
            self._connection.send(Stop())
        except (BrokenPipeError, ConnectionResetError):
            return

    def kill(self, patience: float = 0.0) -> None:
        """End the process, at the latest after ``patience`` seconds, and free pipe, thread and memory."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self._listener.join()  # its pipe has ended
        self.process.close()
        self._connection.close()
        self.pictures.close()

    def _listen(self) -> None:
        try:
            while True:
                message: Ready | Answer = self._connection.recv()
                self._last_sign = time.monotonic()
                if isinstance(message, Ready):
                    self.ready = True
                    continue
                if isinstance(message, Finished):
                    self.idle_tasks = list(message.idle_tasks)
                self.outstanding.popleft()
                self._inbox.put((self, message))
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            self._inbox.put((self, None))


class WorkerProcesses:
    """The workers of an engine, and what they say."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._handles: list[WorkerHandle] = []
        self._inbox: Inbox = queue.SimpleQueue()

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [handle.process.pid for handle in self._handles if handle.process.pid is not None]

    def running(self, count: int) -> list[WorkerHandle]:
        """All workers that live; dead ones are cleared away and new ones started until there are ``count``."""
        for handle in [handle for handle in self._handles if not handle.alive]:
            self._remove(handle)
        while len(self._handles) < count:
            self._start()
        return list(self._handles)

    def answers(self, patience: float) -> Iterator[tuple[WorkerHandle, Answer | None]]:
        """All that has been said and not heard yet; waits at most ``patience`` seconds for the first.

        None is a worker's end, after everything it said. What a worker said that is no longer one of these is dropped.
        """
        try:
            entry = self._inbox.get(timeout=patience)
            while True:
                if entry[0] in self._handles:
                    yield entry
                entry = self._inbox.get_nowait()
        except queue.Empty:
            return

    def replace(self, handle: WorkerHandle) -> WorkerHandle:
        """End a worker now and start another."""
        self._remove(handle)
        return self._start()

    def stop(self) -> None:
        """Let every worker close its environments and end; after a few seconds end those that have not."""
        for handle in self._handles:
            handle.ask_to_stop()
        self.kill(_SECONDS_TO_STOP)

    def kill(self, patience: float = 0.0) -> None:
        """End every worker, at the latest after ``patience`` seconds."""
        while self._handles:
            self._handles.pop().kill(patience)

    def _start(self) -> WorkerHandle:
        handle = WorkerHandle(self._settings, self._inbox)
        self._handles.append(handle)
        return handle

    def _remove(self, handle: WorkerHandle) -> None:
        self._handles.remove(handle)
        handle.kill()


@contextmanager
def _inherited_by_worker() -> Iterator[None]:
    """What a process must have from its first moment: thread settings before numpy comes, deafness to Ctrl-C."""
    before = {name: os.environ.get(name) for name in _WORKER_ENVIRONMENT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(_WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
