import pytest
from toy_world import PointSuite

from vla_cl.data.location import dataset_roots
from vla_cl.data.recorded import matched, recorded_tasks
from vla_cl.data.streams import ARRANGEMENTS, recorded_stream, suite_stream
from vla_cl.memory.replay_memory import REUSED
from vla_cl.storage.names import NOTES, RESERVED, task_name
from vla_cl.types import ConfigurationError, Task

TASKS = PointSuite().tasks()


def test_sequence_keeps_the_order_and_numbers_what_comes_again():
    stream = suite_stream("s", TASKS, ["blue", "point/red", "blue"])
    assert [item.name for item in stream] == ["blue", "red", "blue-2"]
    assert [task.name for task in stream.tasks] == ["blue", "red"]


def test_joint_is_one_experience_with_every_task_once():
    stream = suite_stream("s", TASKS, ["blue", "red", "blue"], arrangement="joint")
    assert [item.name for item in stream] == ["joint"]
    assert [task.name for task in stream.experiences[0].tasks] == ["blue", "red"]


def test_independent_learns_each_task_once_from_the_warm_start():
    stream = suite_stream("s", TASKS, ["blue", "red", "blue"], arrangement="independent")
    assert stream.independent
    assert [item.name for item in stream] == ["blue", "red"]


def test_independent_keeps_the_name_that_a_task_has_the_first_time():
    named = [{"name": name, "tasks": [name[:-2] if name.endswith("-2") else name]} for name in ("red", "blue", "red-2")]
    stream = suite_stream("s", TASKS, experiences=named, arrangement="independent")
    assert [item.name for item in stream] == ["red", "blue"]


def test_experiences_of_several_tasks():
    stream = suite_stream("s", TASKS, experiences=[{"name": "both", "tasks": ["red", "green"]}])
    assert [task.name for task in stream.experiences[0].tasks] == ["red", "green"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["x/a", "a", "a"], ["a", "a-2", "a-3"]),
    ],
)
def test_a_number_behind_a_name_makes_no_name_that_is_there(given, names):
    stream = suite_stream("s", TASKS, experiences=[{"name": name, "tasks": ["red"]} for name in given])
    assert [item.name for item in stream] == names


def test_reserved_are_the_names_that_a_memory_uses_itself():
    assert {NOTES, REUSED.name} == RESERVED


@pytest.mark.parametrize("name", sorted(RESERVED))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_an_experience_must_not_have_a_name_that_a_memory_uses_itself(name, arrangement):
    message = f"calls an experience '{name}', .*; allowed is every name but {', '.join(sorted(RESERVED))}; give another"
    named = [{"name": "red", "tasks": ["red"]}, {"name": f"x/{name}", "tasks": ["blue"]}]
    suite = [*TASKS, Task(f"point/{name}", "go", 9)]
    if arrangement == "joint":  # all is one experience, called joint
        assert len(suite_stream("s", TASKS, experiences=named, arrangement=arrangement)) == 1
        return
    with pytest.raises(ConfigurationError, match=message):
        suite_stream("s", TASKS, experiences=named, arrangement=arrangement)
    with pytest.raises(ConfigurationError, match=message):
        suite_stream("s", suite, [f"point/{name}"], arrangement=arrangement)
    renamed = [{"name": "other", "tasks": [f"point/{name}"]}]
    assert [item.name for item in suite_stream("s", suite, experiences=renamed)] == ["other"]


def test_datasets_become_experiences_matched_by_instruction(point_datasets):
    recorded = matched(recorded_tasks(point_datasets[:2]), TASKS[:1], "point")
    found = recorded_stream("d", recorded)
    assert found.stream.experiences[0].tasks[0].id == "point/red"
    other = found.stream.tasks[1]
    assert other.instruction == "go to the green side"
    assert other.max_steps == 0  # no suite knows it: it cannot be rolled out
    assert found.sources["point/red"][0].root == point_datasets[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: suite_stream("s", TASKS, ["blu"]), "nearest: blue"),
        (lambda: suite_stream("s", TASKS), "either `tasks` or `experiences`"),
        (lambda: suite_stream("s", TASKS, ["blue"], arrangement="jont"), "did you mean 'joint'"),
        (lambda: suite_stream("s", TASKS, experiences=[{"name": "x", "tasks": []}]), "list `tasks`"),
        (lambda: dataset_roots([("stream.datasets", ["nowhere"])]), "neither a LeRobotDataset folder"),
        (lambda: recorded_stream("d", recorded_tasks([])), "has no dataset"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("metaworld/drawer-open", "drawer-open"),
        ("datasets/open-a-drawer-872ed982e3a8", "open-a-drawer-872e"),
        ("point/abc-0123456789ab", "abc-0123456789ab"),
        ("datasets/0123456789ab", "0123456789ab"),
        ("red", "red"),
    ],
)
def test_tables_call_a_task_by_a_short_name(task, shown):
    assert task_name(task) == shown
