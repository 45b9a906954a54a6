"""The dialogue of ``vla-cl trial``: one trial after another, success or failure, and a note."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vla_cl.cli.answers import Answer
from vla_cl.metrics import ScoreMatrix
from vla_cl.run.hand_trials import HandTrials, Planned
from vla_cl.trust.text import counted

_CHOICES = {"s": "success", "f": "failure", "k": "skip", "b": "back", "q": "quit"}
_ASK = "[s]uccess, [f]ailure, s[k]ip for now, [b]ack to the one before, [q]uit: "


def walk(trials: HandTrials, ask: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Ask for every open trial, until none is open, all that are left were skipped, or the person quits.

    Args:
        trials: Open.
        ask: Shows a question and gives the line that was typed; raises `EOFError` at the end of the input.
        say: Shows a line.
    """
    queue = deque(planned for planned in trials.planned if trials.answer(planned) is None)
    total = len(trials.planned)
    done: list[Planned] = []
    skipped = 0
    while queue and skipped < len(queue):
        planned = queue[0]
        folder = trials.lay_out(planned)
        say(f"\ntrial {total - len(queue) + 1} of {total}: {trials.words(planned)}")
        say(f"  set the scene up as for start {planned.unit}, and run the policy {folder}")
        began = time.monotonic()
        choice = _choice(ask)
        if choice == "quit":
            return
        if choice == "skip":
            queue.rotate(-1)
            skipped += 1
        elif choice == "back":
            if done:
                queue.appendleft(done.pop())
            else:
                say("  there is none before it in this session")
        else:
            note = _line(ask, "note (empty for none): ")
            trials.write_down(planned, choice == "success", note or "", time.monotonic() - began)
            done.append(queue.popleft())
            skipped = 0


def finished(trials: HandTrials, finish: bool) -> Answer:
    """What has come of it: how many are open, or, at the end, the matrix that the answers give."""
    answered = sum(trials.answer(planned) is not None for planned in trials.planned)
    total = len(trials.planned)
    content: dict[str, object] = {"trials": total, "answered": answered, "matrix": None}
    if answered < total and not finish:
        again = "give the same command again to go on, or add --finish to score what is answered"
        return Answer(content, f"\n{answered} of {counted(total, 'trial')} answered; {again}")
    path = trials.write_results()
    matrix = ScoreMatrix.from_json(path)
    lines = [f"\n{answered} of {counted(total, 'trial')} answered. Which checkpoint did what:"]
    for row, experience in enumerate(matrix.experiences):
        for column, task in enumerate(matrix.tasks):
            assert matrix.counts is not None
            count = int(matrix.counts[row, column])
            if count:
                successes = round(float(matrix.scores[row, column]) * count)
                lines.append(f"  after {experience}: {task} {successes} of {count}")
    lines.append(f"written: {path}; vla-cl report {trials.root} shows it")
    return Answer({**content, "matrix": str(path)}, "\n".join(lines))


def trial(run: Path, options: dict[str, object], finish: bool, ask: Callable[[str], str] | None = None) -> Answer:
    """``vla-cl trial``.

    Args:
        run: Folder of the run.
        options: As of `HandTrials.open`.
        finish: Write the matrix of what is answered.
        ask: As of `walk`; None: the terminal.

    Raises:
        ConfigurationError: As of `HandTrials`.
    """
    trials = HandTrials(run)
    with trials.open(**options):  # type: ignore[arg-type]
        if not finish:
            walk(trials, ask or input, lambda line: print(line, flush=True))
        return finished(trials, finish)


def _choice(ask: Callable[[str], str]) -> str:
    while True:
        typed = _line(ask, _ASK)
        if typed is None:
            return "quit"
        word = typed.strip().lower()
        found = _CHOICES.get(word) or next((name for name in _CHOICES.values() if name == word), None)
        if found:
            return found


def _line(ask: Callable[[str], str], question: str) -> str | None:
    try:
        return ask(question)
    except EOFError:
        return None
