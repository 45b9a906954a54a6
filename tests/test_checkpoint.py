import errno
import json
import os

import pytest
from tiny_model import TinyModel

from vla_cl.files import remove_leftovers, replacing, replacing_folder
from vla_cl.interfaces import Method
from vla_cl.methods.er import ExperienceReplay
from vla_cl.run import checkpoint
from vla_cl.run.checkpoint import Progress
from vla_cl.storage.manifest import write_manifest
from vla_cl.types import ConfigurationError


@pytest.fixture
def saved(tmp_path):
    for done in (1, 2):
        checkpoint.save(tmp_path, TinyModel(), Method(), Progress(done, done * 10, 1.0, 2.0))
    return tmp_path


def test_the_newest_whole_checkpoint_is_found(saved):
    found = checkpoint.find_newest(saved).folder
    assert found.name == "002"
    assert checkpoint.load_progress(found) == Progress(2, 20, 1.0, 2.0)
    assert not list(saved.glob(".*"))


def copy_of_a_checkpoint(path):
    path.mkdir()
    (path / "file").write_text("x")


@pytest.mark.parametrize(
    "before",
    [
        lambda path: None,
        lambda path: path.write_text("001\n"),
        lambda path: path.symlink_to("001"),
        lambda path: path.symlink_to("nowhere"),
        copy_of_a_checkpoint,
    ],
    ids=["nothing", "the text of an older version", "a link", "a link to nowhere", "a folder"],
)
def test_last_is_a_link_to_the_newest_checkpoint(saved, before):
    (saved / "last").unlink()
    before(saved / "last")
    checkpoint.save(saved, TinyModel(), Method(), Progress(3, 30, 1.0, 2.0))
    assert str((saved / "last").readlink()) == "003"
    assert (saved / "last" / "pretrained_model").is_dir()
    checkpoint.verify(saved / "last")
    assert not list(saved.glob(".*"))


def test_last_is_a_text_where_links_cannot_be_made(saved, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    checkpoint.save(saved, TinyModel(), Method(), Progress(3, 30, 1.0, 2.0))
    assert not (saved / "last").is_symlink()
    assert (saved / "last").read_text() == "003\n"
    folder = saved.rename(saved.parent / "checkpoints")
    assert checkpoint.behind_last(folder / "last") == folder / "003"
    assert checkpoint.behind_last(folder / "last" / "pretrained_model") == folder / "003" / "pretrained_model"
    (folder / "last").write_text("../../elsewhere")
    assert checkpoint.behind_last(folder / "last") == folder / "last"


def test_a_kill_between_a_checkpoint_and_its_link_leaves_nothing(saved):
    (saved / f".{'0' * 32}.link").symlink_to("002")
    remove_leftovers(saved)
    assert list(saved.glob(".*"))  # nobody knows whether it is being written
    remove_leftovers(saved, alone=True)
    assert not list(saved.glob(".*"))
    assert (saved / "002").is_dir()


@pytest.mark.parametrize("file", ["pretrained_model/weights.txt", "training_state/progress.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_noticed_and_passed_over(saved, capsys, file, damage):
    path = saved / "002" / file
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "delete":
        path.unlink()
    else:
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        checkpoint.verify(saved / "002")
    assert checkpoint.find_newest(saved).folder.name == "001"
    assert "passing over" in capsys.readouterr().out


def test_nothing_to_continue_from(tmp_path):
    assert checkpoint.find_newest(tmp_path / "none") is None


def test_another_methods_checkpoint_is_refused(saved):
    with pytest.raises(ConfigurationError, match="written by method 'method', the run asks for 'er'"):
        checkpoint.load_method(saved / "002", ExperienceReplay(), iter([]))


def test_an_interrupted_save_leaves_the_old_one(saved):
    class Full(TinyModel):
        def save(self, folder):
            super().save(folder)
            raise OSError(28, "No space left on device")

    before = (saved / "002" / "MANIFEST.json").read_text()
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved, Full(), Method(), Progress(2, 99, 0.0, 0.0))
    assert (saved / "002" / "MANIFEST.json").read_text() == before
    assert not list(saved.glob(".*"))


def test_replacing_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing_folder(tmp_path / "f") as folder:
        (folder / "x").write_text(json.dumps(1))
    assert (tmp_path / "f" / "x").read_text() == "1"


def damage(folder):
    path = folder / "training_state" / "progress.json"
    path.write_bytes(path.read_bytes()[:-3])


def test_what_is_passed_over_is_named(saved):
    assert checkpoint.find_newest(saved).passed_over == ()
    damage(saved / "002")
    found = checkpoint.find_newest(saved)
    assert found.folder.name == "001"
    (sentence,) = found.passed_over
    assert sentence.startswith("passing over a checkpoint: ")
    assert "002/training_state/progress.json is damaged" in sentence
    assert len(sentence) <= 300


def test_a_run_of_damaged_checkpoints_does_not_begin_anew_in_silence(saved):
    for number in ("001", "002"):
        damage(saved / number)
    with pytest.raises(ConfigurationError, match=r"no checkpoint in .* is whole"):
        checkpoint.find_newest(saved)


def test_the_thousandth_checkpoint_is_newer_than_the_last_of_three_digits(saved):
    for done in (999, 1000):
        checkpoint.save(saved, TinyModel(), Method(), Progress(done, done, 0.0, 0.0))
    assert checkpoint.find_newest(saved).folder.name == "1000"


@pytest.mark.parametrize(
    "name", ["pretrained_model/policy_preprocessor.json", "cl_state/more.json", "training_state/x"]
)
def test_a_file_that_the_manifest_lacks_is_not_loaded(saved, name):
    (saved / "002" / name).write_text("{}")
    with pytest.raises(ConfigurationError, match="its manifest does not list"):
        checkpoint.verify(saved / "002")


def test_what_a_file_manager_leaves_is_no_damage(saved):
    (saved / "002" / ".DS_Store").write_text("x")
    (saved / "002" / "pretrained_model" / "._weights.txt").write_text("x")
    checkpoint.verify(saved / "002")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("training_state/progress.json", '{"experiences_done": "2"}', "'experiences_done' as int"),
        ("training_state/progress.json", "[]", "expected an object"),
        ("training_state/progress.json",
         '{"experiences_done": -2, "step": 1, "train_seconds": 0, "evaluate_seconds": 0}', "is damaged"),
        ("cl_state/method.json", '{"method": "method"}', "'state' as dict"),
        ("cl_state/method.json", '{"method": "method", "state": {"a": 1e999}}', "beyond the range"),
        ("cl_state/method.safetensors", "no tensors here", "safetensors"),
    ],
)  # fmt: skip
def test_a_state_that_somebody_changed_with_its_manifest_is_refused(saved, file, content, says):
    (saved / "002" / file).write_text(content)
    write_manifest(saved / "002")
    checkpoint.verify(saved / "002")
    with pytest.raises(ConfigurationError, match=says):
        if file.startswith("training"):
            checkpoint.load_progress(saved / "002")
        else:
            checkpoint.load_method(saved / "002", Method(), iter([]))
