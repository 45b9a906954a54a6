import json

import pytest
from tiny_model import TinyModel

from vla_cl import checkpoint
from vla_cl.checkpoint import Progress
from vla_cl.files import replacing, replacing_folder
from vla_cl.interfaces import Method
from vla_cl.methods.er import ExperienceReplay
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
    assert (saved / "last").read_text() == "002\n"
    assert not list(saved.glob(".*"))


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
