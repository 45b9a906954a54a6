"""Signals that ask a run to stop: it goes on to the end of the step, notes where it is, and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Ctrl-C, and what schedulers send before they take the machine away."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has come.

    Attributes:
        number: Which one; None while none has.
    """

    number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether one has come."""
        return self.number is not None

    def raise_if_asked(self) -> None:
        """End now, if it was asked for.

        Raises:
            Stopped: It was.
        """
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def between_steps(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Inside, the first signal is noted and the second one ends the program at once; elsewhere they are as before.

    In another thread than the main one, and for signals that somebody ignores (``nohup``), nothing is changed.

    Args:
        request: Where it is noted: the same one at every step, so that a signal that comes at the very end of one is
            seen in the next.
    """
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.getsignal(number) for number in ASKING}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in taken:
            signal.signal(number, before[number])
