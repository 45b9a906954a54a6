"""What a command answers, for people and for machines: with ``--json`` one document on stdout, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a command has found.

    Attributes:
        content: Plain data, the document of ``--json``.
        text: The same for people; empty where it has been printed already.
        status: Exit status.
    """

    content: object
    text: str = ""
    status: int = 0


def write_json(content: object) -> None:
    """Print the one document of ``--json``."""
    print(json.dumps(content, indent=1, allow_nan=False))


@contextlib.contextmanager
def messages_only() -> Iterator[None]:
    """Whatever is printed in the body goes to stderr, also by libraries and by processes that the body starts."""
    if sys.stdout is None or sys.stderr is None:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
