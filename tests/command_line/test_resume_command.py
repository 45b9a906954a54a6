"""``vla-cl resume RUN``, several seeds in one command, and folders of runs that were refused."""

import json
import signal
from pathlib import Path

import pytest

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.run import continual
from vla_cl.run import root as run
from vla_cl.run.check import run_name
from vla_cl.run.folder import read_settings
from vla_cl.run.resume import settings_of_run
from vla_cl.training.stopping import Stopped
from vla_cl.types import ConfigurationError

CONF = str(Path(__file__).parents[1] / "conf")
BED = ["stream=bed_policy_regression", "training.steps=3", "training.batch_size=4", "evaluation.episodes=2",
       "device=cpu", "threads=1", "method=er"]  # fmt: skip
TOY = ["--conf", CONF, "plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "device=cpu", "threads=1",
       "cache_dir=cache", "training.steps=2", "training.batch_size=2", "demonstrations.episodes=1",
       "demonstrations.workers=1", "evaluation.episodes=1", "evaluation.workers=1", "evaluation.videos=0",
       "evaluation.replan_every=2"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped_after(number, monkeypatch, arguments):
    """Give a command that a signal stops behind the n-th note of its place."""
    original, calls = continual.underway.save_learnt, []

    def note(*given):
        original(*given)
        calls.append(given)
        if len(calls) == number:
            raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(continual.underway, "save_learnt", note)
        assert main(arguments) == 143


def weights(folder):
    return [path.read_bytes() for path in sorted((folder / "checkpoints").rglob("*.safetensors"))]


@pytest.mark.parametrize("again", [["resume", "outputs/a"], ["train", "resume=outputs/a"]])
def test_a_stopped_run_goes_on_from_its_folder_alone(again, here, monkeypatch):
    assert main(["train", *BED, "name=whole"]) == 0
    stopped_after(2, monkeypatch, ["train", *BED, "name=a"])
    assert main([*again, "threads=1"]) == 0
    assert json.loads(Path("outputs/a/run.json").read_text())["status"] == "finished"
    assert weights(here / "outputs" / "a") == weights(here / "outputs" / "whole")


def test_a_robot_run_goes_on_with_its_packages_listed(here, monkeypatch, capsys):
    stopped_after(1, monkeypatch, ["train", *TOY, "name=a"])
    assert main(["resume", "outputs/a"]) == 2
    assert "uses code of toy_world; if you trust it, add plugins=[toy_world]" in capsys.readouterr().err
    assert main(["resume", "outputs/a", "plugins=toy_world"]) == 0
    assert json.loads(Path("outputs/a/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.steps=4", "training.steps is 3 in the run outputs/a and cannot become 4; leave it out, or begin"),
        ("method=ewc", "method is 'er' in the run"),
        ("training.lr=1", "the run has no setting 'training.lr'; did you mean 'training.learning_rate'?"),
        ("output_dir=b", "continues in its own folder"),
        ("plugins=[toy_world]", "uses no plugins"),
        ("+a.b=1", "adds or removes"),
        ("train_seed=0,1", "names several values"),
    ],
)
def test_what_is_learnt_cannot_be_changed(override, words, monkeypatch):
    Path("outputs/a").mkdir(parents=True)
    settings = {**compose(BED), "name": "a"}
    with run.RunFolder(Path("outputs/a")).open(settings):
        pass
    with pytest.raises(ConfigurationError) as found:
        settings_of_run(Path("outputs/a"), [override])
    assert words in str(found.value)
    assert settings_of_run(Path("outputs/a"), ["threads=2", "training.steps=3", "method=er"])["threads"] == 2


def test_a_folder_that_is_no_run(capsys):
    assert main(["resume", "nowhere"]) == 2
    assert "nowhere is no run (it has no config.yaml)" in capsys.readouterr().err


def test_several_seeds_are_several_runs_in_folders_of_their_own(here, capsys):
    assert main(["train", *BED, "train_seed=0,1"]) == 0
    names = ["bed_policy_regression-er-seed0", "bed_policy_regression-er-seed1"]
    assert sorted(path.name for path in Path("outputs").iterdir()) == names
    assert [read_settings(Path("outputs") / name / "config.yaml")["train_seed"] for name in names] == [0, 1]
    assert f"vla-cl compare outputs/{names[0]} outputs/{names[1]}" in capsys.readouterr().out
    first = weights(here / "outputs" / names[0])
    assert main(["train", *BED, "train_seed=[2,0]", "name=mine"]) == 0
    assert {path.name for path in Path("outputs").iterdir()} == {*names, "mine-seed0", "mine-seed2"}
    assert weights(here / "outputs" / "mine-seed0") == first
    assert main(["train", *BED, "train_seed=4,5", "output_dir=there"]) == 0
    assert {path.name for path in Path("there").iterdir()} == {"seed4", "seed5"}


def test_a_seed_given_twice(capsys):
    assert main(["train", *BED, "train_seed=0,0"]) == 2
    assert "names a seed twice" in capsys.readouterr().err


def test_a_run_that_is_refused_leaves_no_folder(here, monkeypatch, capsys):
    monkeypatch.setattr("vla_cl.run.root.Tracker", refuse)
    assert main(["train", *BED]) == 2
    assert list(here.iterdir()) == []
    Path("outputs/full").mkdir(parents=True)
    (here / "outputs" / "full" / "notes.txt").touch()
    assert main(["train", *BED, "name=full"]) == 2
    assert [path.name for path in (here / "outputs" / "full").iterdir()] == ["notes.txt"]


def test_a_run_that_has_learnt_something_stays_when_it_is_refused(here, monkeypatch):
    stopped_after(1, monkeypatch, ["train", *BED, "name=a"])
    before = sorted(here.rglob("*"))
    assert main(["train", *BED, "name=a", "training.steps=7"]) == 2
    assert sorted(here.rglob("*")) == before


def refuse(*given):
    raise ConfigurationError("no account")


def test_wandb_without_an_account_is_refused_before_anything_begins(here, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def login():
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "login", login)
    assert main(["train", *BED, "tracking.trackers=[wandb]"]) == 2
    said = capsys.readouterr().err
    assert "needs an account (No API key configured.); type `wandb login`, or set WANDB_API_KEY" in said
    assert list(here.iterdir()) == []


def test_the_default_name_tells_another_policy_and_a_warm_start(here):
    plain = compose(["stream=cw10"])
    assert run_name(plain) == "cw10-sequential-seed0"
    assert run_name(compose(["stream=cw10", "policy=act"])) == "cw10-act-sequential-seed0"
    (here / "outputs" / "first").mkdir(parents=True)
    assert run_name(plain | {"warm_start": "outputs/first"}) == "cw10-from-first-sequential-seed0"
    assert run_name(plain | {"warm_start": "lerobot/smolvla_base"}) == "cw10-from-lerobot-smolvla_base-sequential-seed0"
    assert run_name(compose(BED)) == "bed_policy_regression-er-seed0"
