"""The episode table: the table of trials whose trials are rollouts, kept as ``episodes.parquet``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_cl.interfaces.layout import TableLayout
from vla_cl.scores import SUCCESS, Measure, Trial
from vla_cl.types import Outcome

EVALUATOR_COLUMNS = {
    "outcome": "string",
    "env_steps": "int64",
    "decisions": "int64",
    "total_reward": "float64",
    "video": "string",
    "render_profile": "string",
}
"""What rollouts note of an episode beside what every trial has."""

_COLUMNS = {
    "experience": "int64",
    "step": "int64",
    "split": "string",
    "task": "string",
    "initial_state": "int64",
    "outcome": "string",
    "env_steps": "int64",
    "decisions": "int64",
    "total_reward": "float64",
    "seconds": "float64",
    "error": "string",
    "video": "string",
    "render_profile": "string",
}


class EpisodeLayout(TableLayout):
    """A unit is an initial state; success and a crash are both in the outcome."""

    file = "episodes.parquet"
    title = "the episode table"
    unit = "initial_state"
    measures = (SUCCESS,)
    columns = _COLUMNS
    may_be_empty = ("error", "video", "render_profile")

    def of_trial(self, trial: Trial) -> dict[str, Any]:
        """The columns of an episode."""
        own = {self.unit: int(trial.unit), "seconds": float(trial.seconds), "error": trial.error}
        return own | dict(trial.columns)

    def value(self, row: Mapping[str, Any], measure: Measure) -> float:
        """1 of a success."""
        return float(row["outcome"] == Outcome.SUCCESS)

    def failed(self, row: Mapping[str, Any]) -> bool:
        """Whether the episode crashed."""
        return bool(row["outcome"] == Outcome.ERROR)

    def strange(self, row: Mapping[str, Any]) -> str:
        """An outcome that there is not."""
        known = {outcome.value for outcome in Outcome}
        return "" if row["outcome"] in known else f"the outcome {row['outcome']}"


EPISODES = EpisodeLayout()
"""The layout of every episode table."""
