"""A run's memory goes on: exported after its datasets moved, taken along by a run that learns one task more."""

import shutil

import pytest
from odd_datasets import make_dataset

from vla_cl.cli.main import main
from vla_cl.cli.memory import RunMemory

SMALL = [
    "policy.image_size=16",
    "policy.chunk_size=4",
    "policy.n_action_steps=4",
    "training.steps=2",
    "training.batch_size=4",
    "device=cpu",
    "threads=1",
]
WHOLE = "{budget: 20 MB, unit: trajectory%s}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two datasets of a robot, and a run that learnt them with a memory of whole trajectories."""
    root = tmp_path_factory.mktemp("later")
    for number, name in enumerate(("cubes", "drawer", "lid")):
        make_dataset(root / name, [(f"do it with the {name}", 6), (f"do it with the {name}", 6)], seed=number)
    assert train(root, "first", ["cubes", "drawer"], WHOLE % "") == 0
    return root


def train(root, name, datasets, memory, *more):
    listed = ",".join(str(root / item) for item in datasets)
    method = ["method=sequential"] if memory is None else ["method=er", f"method.memory={memory}"]
    where = [f"cache_dir={root / 'cache'}", f"output_dir={root / name}"]
    return main(["train", "stream=datasets", f"stream.datasets=[{listed}]", *method, *SMALL, *where, *more])


def test_a_task_is_added_later_with_the_memory(place, capsys):
    assert main(["memory", str(place / "first"), "--export", str(place / "kept")]) == 0
    capsys.readouterr()
    more = [f"warm_start={place / 'first'}", "normalisation=checkpoint"]
    assert train(place, "later", ["lid"], WHOLE % f", reuse: {place / 'kept'}", *more) == 0
    assert "stays behind" not in capsys.readouterr().err
    tasks = RunMemory.read(place / "later").tasks
    assert [task.name == "memory.reused" for task in tasks] == [True, False]
    assert all(len(task.rows) for task in tasks)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("first", "take it along: vla-cl memory RUN --export FOLDER, and method.memory={..., reuse: FOLDER}"),
        ("frames", "it holds single frames, which no other run can take along"),
    ],
)
def test_a_memory_that_stays_behind_is_said(place, tmp_path, capsys, start, says):
    if start == "frames":
        assert train(place, "frames", ["cubes"], "null") == 0
    capsys.readouterr()
    more = [f"warm_start={place / start}", f"output_dir={tmp_path / 'run'}"]
    for continued in (False, True):
        assert train(place, "-", ["lid"], WHOLE % "", *more) == 0
        assert (f"the memory of {place / start} stays behind; {says}" in capsys.readouterr().err) is not continued
    more = [*more[:1], f"output_dir={tmp_path / 'other'}"]
    assert train(place, "-", ["lid"], None, *more) == 0  # a method without a memory has nothing to take along to
    assert "stays behind" not in capsys.readouterr().err


def test_a_finished_run_given_again_says_that_it_is_finished(place, capsys):
    for datasets in (["cubes"], ["cubes"]):
        capsys.readouterr()
        assert train(place, "one", datasets, None) == 0
    assert f"{place / 'one'} is finished, 1 experience learnt; nothing is learnt again" in capsys.readouterr().out


def test_a_dataset_more_is_refused_with_the_way(place, capsys):
    assert train(place, "first", ["cubes", "drawer", "lid"], WHOLE % "") == 2
    message = capsys.readouterr().err
    assert "learnt from 2 datasets, 3 are given" in message
    assert "a task is added by a new run with warm_start" in message
    assert len(message.splitlines()[-1]) <= 300 + len("vla-cl: ")


def test_a_memory_is_exported_after_its_datasets_have_moved(place, tmp_path, capsys):
    run = shutil.copytree(place / "first", tmp_path / "run", symlinks=True)
    moved = [shutil.copytree(place / name, tmp_path / f"{name}, moved") for name in ("cubes", "drawer")]
    (place / "cubes").rename(place / "gone")
    try:
        export = ["memory", str(run), "--export", str(tmp_path / "kept")]
        assert main(export) == 2
        assert "dataset 1 of the run" in (message := capsys.readouterr().err) and "--datasets A,B" in message
        for wrong, says in (
            (moved[:1], "learnt from 2 datasets, --datasets gives 1"),
            (moved[::-1], "is not dataset 1 of the run"),
            ([tmp_path, tmp_path], "is no dataset"),
        ):
            assert main([*export, "--datasets", ",".join(f'"{path}"' for path in wrong)]) == 2
            assert says in capsys.readouterr().err
        assert not (tmp_path / "kept").exists()
        assert main([*export, "--datasets", ",".join(f'"{path}"' for path in moved)]) == 0
        assert "frames in" in capsys.readouterr().out
        assert main(["memory", str(run), "--datasets", str(moved[0])]) == 2
        assert "--datasets is for --export" in capsys.readouterr().err
    finally:
        (place / "gone").rename(place / "cubes")
