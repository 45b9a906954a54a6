"""What joint training on six Meta-World tasks reaches."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_cl.config.compose import compose

LEARNING_GOAL = (0.88, 0.5)  # mean success, and success of the worst task


def learning(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Success of joint training on six Meta-World tasks, over the reporting states."""
    from vla_cl.metrics import ScoreMatrix
    from vla_cl.run.root import train

    folder = train(compose(["experiment=metaworld_joint", *overrides], folders=folders))
    matrix = ScoreMatrix.from_json(folder / "matrix.json")
    success = dict(zip(matrix.tasks, matrix.scores[-1].tolist(), strict=True))
    mean, worst = statistics.fmean(success.values()), min(success.values())
    seconds = json.loads((folder / "run.json").read_text())["seconds"]["train"]
    return {
        "mean_success": round(mean, 3),
        "worst_task": round(worst, 3),
        **success,
        "train_minutes": round(seconds / 60, 1),
        "goal": f"mean {LEARNING_GOAL[0]}, worst {LEARNING_GOAL[1]}, 20 minutes",
        "holds": mean >= LEARNING_GOAL[0] and worst >= LEARNING_GOAL[1] and seconds <= 1200,
    }
