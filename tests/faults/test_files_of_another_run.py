"""A file that another run wrote is not believed, however whole it is."""

import json
import shutil

import pytest
from toy_commands import COLLECT, TRAIN, Place, run

from vla_cl.storage.manifest import run_key

OTHER = ["train_seed=5", "evaluation.episodes=3"]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two finished runs of the same stream, with other settings."""
    root = tmp_path_factory.mktemp("two")
    one, other = Place(root / "one"), Place(root / "other")
    for place, more in ((one, []), (other, OTHER)):
        place.root.mkdir()
        for kind in (COLLECT, TRAIN):
            status, said = run(place.command(kind) + (more if kind == TRAIN else []), root / "log")
            assert status == 0, said
    assert run_key(one.run) != run_key(other.run)
    assert one.results(TRAIN)["weights"] != other.results(TRAIN)["weights"]
    return one, other


@pytest.fixture
def mixed(two_runs, tmp_path):
    """A copy of the first run, into which a test puts a file of the second."""
    one, other = two_runs

    def put(name):
        place = one.copy_to(tmp_path / "copy")
        target = place.run / name
        if target.is_dir():
            shutil.rmtree(target)
            shutil.copytree(other.run / name, target)
        else:
            shutil.copy(other.run / name, target)
        return place

    return put


@pytest.mark.parametrize("name", ["checkpoints/002", "checkpoints/001"])
def test_a_checkpoint_of_another_run_is_passed_over(two_runs, mixed, tmp_path, name):
    place = mixed(name)
    if name.endswith("001"):  # else the newer one, which is the run's own, would do
        shutil.rmtree(place.run / "checkpoints" / "002")
    status, said = run(place.command(TRAIN), tmp_path / "log")
    if name.endswith("002"):
        assert status == 0, said
        assert "belongs to another run" in (place.run / "run.json").read_text()
        assert place.results(TRAIN) == two_runs[0].results(TRAIN)
    else:
        assert status == 2
        assert "no checkpoint" in said


def test_a_checkpoint_of_another_run_is_refused_by_name(mixed, tmp_path):
    place = mixed("checkpoints/002")
    command = [
        "evaluate",
        str(place.run / "checkpoints" / "002"),
        f"output_dir={tmp_path / 'e'}",
        "plugins=[toy_world]",
    ]
    status, said = run(command, tmp_path / "log")
    assert status == 2
    assert "belongs to another run" in said
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("name", "commands"),
    [("matrix.json", ("metrics", "report")), ("run.json", ("report",)), ("episodes.parquet", ("report",))],
)
def test_results_of_another_run_are_refused(mixed, tmp_path, name, commands):
    place = mixed(name)
    for command in commands:
        status, said = run(place.command(command), tmp_path / "log")
        assert status == 2, (command, said)
        assert "belongs to another run" in said
        (sentence,) = [line for line in said.splitlines() if line.startswith("vla-cl: ")]
        assert len(sentence) <= 300 + len("vla-cl: ")


def test_films_of_another_run_are_not_shown(mixed, tmp_path):
    place = mixed("videos")
    status, said = run(place.command("report"), tmp_path / "log")
    assert status == 0, said
    page = (place.run / "report.html").read_text()
    assert "is damaged: it differs from its manifest" in page
    assert "<video" not in page


def test_the_command_of_the_run_mends_its_results(two_runs, mixed, tmp_path):
    for name in ("matrix.json", "run.json", "episodes.parquet"):
        place = mixed(name)
        assert run(place.command(TRAIN), tmp_path / "log")[0] == 0
        assert place.results(TRAIN) == two_runs[0].results(TRAIN)
        shutil.rmtree(place.root)


def test_a_run_that_moved_and_settings_without_a_seal_still_open(two_runs, tmp_path):
    place = two_runs[0].copy_to(tmp_path / "moved")
    assert run(place.command("metrics"), tmp_path / "log")[0] == 0
    settings = place.run / "config.yaml"
    settings.write_text(settings.read_text().partition("\n")[2])  # as the message tells who edits it on purpose
    assert run_key(place.run) is None
    assert run(place.command("metrics"), tmp_path / "log")[0] == 0
    assert json.loads((place.run / "matrix.json").read_text())["run"]
