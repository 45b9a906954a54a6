"""A run's note of its datasets: damage to any part of it is noticed, not taken for other data."""

import json

import pytest

from vla_cl.data.run_data import DATA_FILE, moved_roots, remember_datasets
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
        with pytest.raises(ConfigurationError, match="is damaged: it does not fit its seal; remove the file if the"):
            use()


def test_a_note_of_an_earlier_version_has_no_seal(noted, point_datasets):
    content = json.loads(noted.read_text())
    del content["seal"]
    noted.write_text(json.dumps(content))
    remember_datasets(noted.parent, point_datasets[:2], began=True)
    assert "seal" in json.loads(noted.read_text())
