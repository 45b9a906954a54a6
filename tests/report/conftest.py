from pathlib import Path

import pytest
from generated_run import GeneratedRun, experience_replay, joint

from vla_cl.report import write_report


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of three runs over the same stream, one with a crashed episode."""
    folder = tmp_path_factory.mktemp("comparison")
    runs = [
        GeneratedRun(curve_points=4, baseline=(0.0, 0.0, 0.05), error="MujocoException: NaN in qacc").write(
            folder / "sequential"
        ),
        experience_replay(curve_points=4).write(folder / "er"),
        joint().write(folder / "joint"),
    ]
    return write_report(runs)
