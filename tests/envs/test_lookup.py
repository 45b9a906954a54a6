"""What suites look up: splits never share a state, and what does not exist is refused by name."""

from itertools import combinations

import pytest

from vla_cl.envs.lookup import SEEDS, first_states, unknown_task
from vla_cl.types import ConfigurationError


def test_no_two_splits_share_a_seed():
    assert set(SEEDS) == {"train", "select", "report"}
    for one, other in combinations(SEEDS.values(), 2):
        assert max(one.start, other.start) >= min(one.stop, other.stop)


def test_the_first_states_of_a_split():
    assert list(first_states(SEEDS, "report", 3, "point")) == [1000, 1001, 1002]
    assert list(first_states(SEEDS, "train", 0, "point")) == []
    assert first_states(SEEDS, "report", 99_000, "point")[-1] == 99_999


@pytest.mark.parametrize(
    ("split", "count", "message"),
    [
        ("reprot", 1, "split is one of train, select, report, got 'reprot'"),
        ("report", 99_001, "point has 0 to 99000 initial states in split 'report' of here, asked for 99001"),
        ("report", -1, "point has 0 to 99000 initial states in split 'report' of here, asked for -1"),
    ],
)
def test_other_states_are_refused(split, count, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        first_states(SEEDS, split, count, "point", " of here")


def test_an_unknown_task_names_the_nearest_or_what_there_is():
    names = ("red", "green", "blue")
    near = unknown_task("point", "Gren", "gren", names)
    assert str(near) == "suite 'point' has no task 'Gren'; did you mean 'green'?"
    assert str(unknown_task("point", "x", "x", names)) == "suite 'point' has no task 'x'; there are red, green, blue"
    assert str(unknown_task("point", "x", "x", names, shown=2)).endswith("there are red, green")
