"""A run's note of its datasets: damage to any part of it is noticed, not taken for other data."""

import json

import pytest
from sentences import length

from vla_cl.data.run_data import DATA_FILE, moved_roots, remember_datasets
from vla_cl.files import write_text
from vla_cl.storage.manifest import seal_text
from vla_cl.types import ConfigurationError


@pytest.fixture
def noted(point_datasets, tmp_path):
    remember_datasets(tmp_path, point_datasets[:2], began=False)
    return tmp_path / DATA_FILE


def test_what_was_noted_is_read_again(noted, point_datasets):
    assert moved_roots(noted.parent) == [root.absolute() for root in point_datasets[:2]]
    remember_datasets(noted.parent, point_datasets[:2], began=True)


@pytest.mark.parametrize("key", ["name", "path", "identity"])
def test_a_changed_note_is_said_to_be_damaged(noted, point_datasets, key):
    content = json.loads(noted.read_text())
    content["datasets"][1][key] += "x"
    noted.write_text(json.dumps(content))
    for use in (lambda: moved_roots(noted.parent), lambda: remember_datasets(noted.parent, point_datasets[:2], True)):
        with pytest.raises(ConfigurationError, match="is damaged: it does not fit its seal; restore the file"):
            use()


def test_a_note_of_an_earlier_version_has_no_seal(noted, point_datasets):
    content = json.loads(noted.read_text())
    del content["seal"]
    noted.write_text(json.dumps(content))
    remember_datasets(noted.parent, point_datasets[:2], began=True)
    assert "seal" in json.loads(noted.read_text())


def lose(note, settings):
    note.unlink()
    write_text(note.parent / "config.yaml", settings)


@pytest.mark.parametrize("left", ["nothing", "folder", "link"])
def test_a_run_that_lost_its_note_is_not_guessed_at(noted, point_datasets, left, tmp_path):
    lose(noted, seal_text("a: 1\n"))
    if left == "folder":
        noted.mkdir()
    elif left == "link":
        noted.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"data\.json .*missing.*restore it, or give output_dir=") as caught:
        remember_datasets(noted.parent, point_datasets[:2], began=True)
    assert length(str(caught.value)) <= 300
    assert not noted.is_file()


def test_a_run_killed_before_its_first_checkpoint_notes_them_anew(noted, point_datasets):
    lose(noted, seal_text("a: 1\n"))
    remember_datasets(noted.parent, point_datasets[:2], began=False)
    assert len(moved_roots(noted.parent)) == 2


def test_a_run_of_a_version_without_seals_notes_them_when_it_goes_on(noted, point_datasets):
    lose(noted, "a: 1\n")
    remember_datasets(noted.parent, point_datasets[:2], began=True)
    assert len(moved_roots(noted.parent)) == 2


def test_a_run_without_recorded_datasets_has_no_note(tmp_path):
    write_text(tmp_path / "config.yaml", seal_text("a: 1\n"))
    remember_datasets(tmp_path, [], began=True)
    assert not (tmp_path / DATA_FILE).exists()
