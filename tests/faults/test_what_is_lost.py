"""Files of a run or an evaluation that are lost, or are what a kill leaves: rebuilt, or refused in a sentence."""

import json
import shutil

import pytest
from toy_commands import EVALUATE, TRAIN, Place, rows, run

from vla_cl.storage.manifest import seal, write_manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("lost") / "whole")
    place.root.mkdir()
    for kind in (TRAIN, EVALUATE):
        status, said = run(place.command(kind), place.root / "log")
        assert status == 0, said
    (place.root / "log").unlink()
    return place


@pytest.fixture
def place(whole, tmp_path):
    return whole.copy_to(tmp_path / "copy")


def again(place, kind, status=0):
    found, said = run(place.command(kind), place.root.parent / "log")
    assert found == status, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("lost", [("episodes.parquet",), ("matrix.json", "run.json"), ("checkpoints/last",)])
def test_what_a_checkpoint_implies_is_rebuilt(whole, place, lost):
    for name in lost:
        (place.run / name).unlink()
    again(place, TRAIN)
    assert place.results(TRAIN) == whole.results(TRAIN)


def test_rows_that_a_checkpoint_does_not_hold_are_not_guessed(place):
    """As a version wrote them that kept no rows in checkpoints: the run's own table is all there is."""
    for number in ("001", "002"):
        folder = place.run / "checkpoints" / number
        (folder / "training_state" / "episodes.parquet").unlink()
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        del manifest["files"]["training_state/episodes.parquet"], manifest["seal"]
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    again(place, TRAIN)
    (place.run / "episodes.parquet").unlink()
    said = again(place, TRAIN, status=2)
    assert "lacks 2 trials of experience 0, which its checkpoint implies" in said


def test_an_older_checkpoint_is_named_in_the_results(whole, place):
    weights = place.run / "checkpoints" / "002" / "pretrained_model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again(place, TRAIN)
    assert place.results(TRAIN) == whole.results(TRAIN)
    for _ in range(2):  # now and ever after
        (sentence,) = json.loads((place.run / "run.json").read_text())["passed_over"]
        assert "model.safetensors is damaged" in sentence
        (place.run / "run.json").unlink()
        again(place, TRAIN)


DAMAGE = {
    "not JSON": lambda path: path.write_text("{"),
    "no file": lambda path: path.unlink(),
    "no object": lambda path: path.write_text("[1]"),
    "another format": lambda path: edit(path, format=1),
    "a format that is no whole number": lambda path: edit(path, format=2.0),
    "no format": lambda path: edit(path, format=None),
    "other steps": lambda path: edit(path, step=10**6),
}


def edit(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("number", ["001", "002"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_note_of_progress_stops_no_run(whole, place, number, damage):
    """The one before is taken; an old one that nobody needs is not looked at."""
    DAMAGE[damage](place.run / "checkpoints" / number / "training_state" / "progress.json")
    said = again(place, TRAIN)
    assert ("passing over a checkpoint" in said) is (number == "002")
    assert "begun by a version" not in said
    assert place.results(TRAIN) == whole.results(TRAIN)


@pytest.mark.parametrize("written", [1, 3, 2.0, None])
def test_a_run_of_another_version_is_not_continued(place, written):
    for folder in (place.run / "checkpoints").glob("0*"):
        edit(folder / "training_state" / "progress.json", format=written)
        write_manifest(folder)
    assert "begun by a version of vla-cl in which the same command gives other weights" in again(place, TRAIN, 2)


def test_a_kill_at_the_very_beginning_leaves_no_obstacle(whole, place):
    shutil.rmtree(place.run)
    place.run.mkdir()
    (place.run / f".{'0' * 32}.yaml").write_text("half")
    (place.run / ".lock").write_text("")
    (place.run / ".lock.owner").write_text("{")
    again(place, TRAIN)
    assert place.results(TRAIN) == whole.results(TRAIN)
    assert place.hidden() == []


def test_what_is_no_run_is_not_touched(place):
    shutil.rmtree(place.run)
    place.run.mkdir()
    (place.run / "thesis.txt").write_text("precious")
    (place.run / f".{'0' * 32}.yaml").write_text("half")
    assert "exists and is no run" in again(place, TRAIN, status=2)
    assert {path.name for path in place.run.iterdir()} == {"thesis.txt", f".{'0' * 32}.yaml"}


def test_leftovers_and_superseded_lines_go_at_the_next_start(whole, place):
    leftovers = [place.run / "checkpoints" / f".002.{'0' * 32}", place.run / "checkpoints" / f".001.{'1' * 32}.old"]
    for folder in leftovers:
        folder.mkdir()
    film = place.run / "videos" / f".{'2' * 32}.mp4"
    film.write_bytes(b"half")
    log = place.run / "metrics.jsonl"
    before = log.read_bytes()
    log.write_bytes(before + json.dumps(seal({"step": 10**6, "loss": 1.0})).encode() + b'\n{"step": 9')
    again(place, TRAIN)
    assert log.read_bytes() == before
    assert place.hidden() == []
    assert place.results(TRAIN) == whole.results(TRAIN)


def test_steps_that_are_learnt_again_are_logged_once(whole, place):
    shutil.rmtree(place.run / "checkpoints" / "002")
    again(place, TRAIN)
    steps = [json.loads(line)["step"] for line in (place.run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_nothing_of_another_beginning_is_left_in_a_new_run(whole, place):
    """Killed before the first checkpoint, then given again with fewer episodes."""
    shutil.rmtree(place.run / "checkpoints")
    place.command = lambda kind: [*Place(place.root).command(kind), "evaluation.episodes=1", "stream.tasks=[red]"]
    again(place, TRAIN)
    reported = [row for row in rows(place.run) if row["split"] == "report"]
    assert {row["task"] for row in reported} == {"point/red"}
    assert {row["initial_state"] for row in reported} == {20_000}


@pytest.mark.parametrize("lost", ["episodes.parquet", "summary.json", "MANIFEST.json", "dataset", "videos"])
def test_a_finished_evaluation_makes_anew_what_it_lacks(whole, place, lost):
    path = place.evaluation / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again(place, EVALUATE)
    assert place.results(EVALUATE) == whole.results(EVALUATE)
    assert "nothing is rolled out again" in again(place, EVALUATE)


def test_a_line_of_another_evaluations_journal_is_not_taken_over(place):
    journal = place.evaluation / "episodes.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(seal(line, "another evaluation")) + "\n" for line in lines))
    said = again(place, EVALUATE, status=2)
    assert "line 1 of" in said
    assert "does not fit its seal" in said
