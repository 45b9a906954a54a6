"""What a small file may unpack to, and what nobody can say how to read."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_datasets import data_file, edit_rows, make_dataset

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.task_table import require_text
from vla_cl.trust.reading import parse_json
from vla_cl.trust.yaml_files import YAML_BYTES, read_yaml
from vla_cl.types import ConfigurationError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound") / "d"
    return make_dataset(root, [("lift", 6)], {"observation.image": (16, 16)}, 2, 2)


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "d")


def refused(look, says):
    with pytest.raises(ConfigurationError, match=says) as found:
        look()
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize("text", ['{"fps": 20, "fps": 10}', '[{"a": {"b": 1, "c": 2, "b": 1}}]'])
def test_a_key_that_comes_twice_is_refused(text):
    refused(lambda: parse_json(text, "the file", "copy it again"), "the key '.*' comes twice")


def test_one_key_in_several_objects_is_fine():
    assert parse_json('[{"a": 1}, {"a": {"a": 2}}]', "the file", "") == [{"a": 1}, {"a": {"a": 2}}]


@pytest.mark.parametrize("name", ["action", "index", "timestamp"])
def test_a_column_that_comes_twice_is_refused(root, name):
    edit_rows(data_file(root), lambda table: table.append_column(name, table[name]))
    refused(lambda: DatasetFolder(root).rows, f"has the column '{name}' more than once")


def test_a_small_table_of_tasks_does_not_unpack_to_gigabytes(root):
    texts = [chr(97 + number) * (40 * 2**20) for number in range(3)]
    path = root / "meta" / "tasks.parquet"
    table = pa.table({"task": ["lift", *texts], "task_index": list(range(4))})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    refused(lambda: DatasetFolder(root).tasks, "would unpack to more than the 64 MiB")


def test_a_huge_file_among_the_metadata_is_not_read_through(root):
    with (root / "meta" / "notes.json").open("wb") as file:
        file.truncate(2**31)
    refused(lambda: DatasetFolder(root).identity, "a file of metadata at most")


def test_settings_that_take_long_to_read_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a:\n" + "- 1\n" * (YAML_BYTES // 4))
    refused(lambda: read_yaml(path, "the settings", "restore them"), "bytes")
    path.write_text(json.dumps({"stream": {"datasets": ["/data/a/dataset/of/a/robot"] * 2_000}}))
    assert len(read_yaml(path, "the settings", "")["stream"]["datasets"]) == 2_000


@pytest.mark.parametrize("text", ["", "   ", "\ufeff\u200b", "\u2060\u00ad", "\n\t"])
def test_an_instruction_that_nobody_can_see_is_none(text, tmp_path):
    with pytest.raises(ConfigurationError, match="no text"):
        require_text(tmp_path, 0, text)


@pytest.mark.parametrize("text", ["拿起", "a\u200bb", "🤖", "?", "\u0915\u094d"])
def test_an_instruction_of_any_script_is_one(text, tmp_path):
    assert require_text(tmp_path, 0, text) == text


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", "meta"])
def test_metadata_outside_of_the_dataset_are_not_read(root, tmp_path, name):
    (root / name).rename(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    refused(lambda: DatasetFolder(root).tasks, "leaves|leads out")
