"""The bar that shows how an evaluation goes."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

from tqdm import tqdm

from vla_cl.types import Episode, Outcome


class ProgressBar:
    """Episodes done, successes among them, and crashes if there were any."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar = tqdm(total=total, desc="rollouts", unit="episode", disable=not shown)
        self._outcomes: Counter[Outcome] = Counter()

    def __enter__(self) -> Self:
        """The bar is on the screen."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def advance(self, episode: Episode) -> None:
        """Count an episode."""
        self._outcomes[episode.outcome] += 1
        done, successes, errors = self._outcomes.total(), self._outcomes[Outcome.SUCCESS], self._outcomes[Outcome.ERROR]
        text = f"success {successes}/{done}" + (f", errors {errors}" if errors else "")
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()
