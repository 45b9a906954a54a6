"""Steps after success: too many for the demonstrations are told, and a demonstration of one frame is refused."""

import pytest
from demonstrated_suite import DemonstratedSuite

from vla_cl.rollout import collect as collect_module
from vla_cl.rollout.collect import collect
from vla_cl.rollout.demonstrations import Recipe
from vla_cl.rollout.hold import note_of_hold
from vla_cl.types import ConfigurationError, Task, Transition

TASK = Task("reach/left", "go to the left", max_steps=30)


@pytest.mark.parametrize(
    ("hold", "lengths", "said"),
    [
        (15, [22, 23, 24], "15 of the 23 frames of a demonstration (median) lie after its success (demonstrations.hold="
         "15), so a policy learns mostly to stay; demonstrations.hold=2 suits episodes of 8 steps"),
        (8, [15, 16, 17], None),
        (9, [17], "9 of the 17 frames"),
        (15, [30, 30], None),
        (0, [1, 2], None),
        (3, [], None),
        (2, [3], "demonstrations.hold=1 suits episodes of 1 step"),
    ],
)  # fmt: skip
def test_more_frames_after_success_than_before_are_told(hold, lengths, said):
    note = note_of_hold(TASK, hold, lengths)
    assert note is None if said is None else said in note


def test_it_is_told_when_demonstrations_are_recorded(tmp_path, capsys):
    suite = DemonstratedSuite()
    red = suite.tasks()[0]
    collect(suite, [red], tmp_path, 2, hold=16, progress=False)
    assert f"{red.id}: 16 of the" in capsys.readouterr().err
    collect(suite, [red], tmp_path, 2, hold=1, progress=False)
    assert "after its success" not in capsys.readouterr().err


@pytest.mark.parametrize(("most", "remedy"), [(20, "demonstrations.hold=1 or more"), (1, "max_steps=2 or more")])
def test_a_demonstration_of_one_frame_is_refused(most, remedy, tmp_path, monkeypatch):
    suite = DemonstratedSuite()
    task = Task(suite.tasks()[0].id, "reach", most)
    worker = collect_module._Worker(suite)
    monkeypatch.setattr(collect_module, "_worker", worker, raising=False)
    environment, _ = worker.enter(task)
    monkeypatch.setattr(environment, "step", lambda action: Transition(1.0, True, True))
    with pytest.raises(ConfigurationError, match=f"initial state 3: the expert succeeds in its first step.*{remedy}"):
        collect_module._record(task, 3, Recipe(1, hold=0), tmp_path / "3.npz", "")
    assert not list(tmp_path.iterdir())
    if most > 1:
        assert collect_module._record(task, 3, Recipe(1, hold=1), tmp_path / "3.npz", "") == (True, 2)
