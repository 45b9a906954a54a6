"""What the gate lets through, what it refuses, and that a refusal is one short line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vla_cl.trust.formats import check_format
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import parse_json, read_lines, require_entries
from vla_cl.trust.tensors import load_tensors, read_header, require_finite
from vla_cl.trust.text import harmless, reason, short, told_as
from vla_cl.trust.yaml_files import parse_yaml
from vla_cl.types import ConfigurationError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\nb\tc\rd", "a b c d"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb\u2066c\u200fd", "a\\x202eb\\x2066c\\x200fd"),
        ("\ufeffbom\u2028line", "\\xfeffbom\\x2028line"),
        ("拿起杯子 é ü ß", "拿起杯子 é ü ß"),
        ("x" * 500, "x" * 197 + "..."),
    ],
)
def test_text_of_others_is_one_harmless_line(text, shown):
    assert harmless(text) == shown


def test_a_long_path_keeps_both_ends():
    path = "/start/" + "middle/" * 100 + "end.json"
    assert len(short(path)) == 120
    assert short(path).startswith("/start/")
    assert short(path).endswith("end.json")
    assert short("/a/b") == "/a/b"


def test_an_error_of_a_library_becomes_a_sentence_once():
    told = told_as("it is broken", "mend it", KeyError, ValueError)
    with pytest.raises(ConfigurationError, match=r"^it is broken \(first second\); mend it$"), told:
        raise ValueError("first\n second")
    with pytest.raises(ConfigurationError, match=r"^said already$"), told_as("it is broken", "mend it", ValueError):
        raise ConfigurationError("said already")
    with pytest.raises(ZeroDivisionError), told_as("it is broken", "mend it", ValueError):
        raise ZeroDivisionError
    assert reason(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", {"a": 0.001}),
        ("a: 1_000", {"a": 1000}),
        ("a: .5", {"a": 0.5}),
        ("a: 2020-01-01", {"a": "2020-01-01"}),
        ("a: ${oc.env:HOME}", {"a": "${oc.env:HOME}"}),
        ("a: '???'", {"a": "???"}),
        ("a: [1, {b: null}, no]", {"a": [1, {"b": None}, False]}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("a: 'it''s & * !'", {"a": "it's & * !"}),
        ("", None),
    ],
)
def test_yaml_is_what_it_says(text, value):
    assert parse_yaml(text, "it", "mend it") == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "an anchor or an alias"),
        ("a: &x 1", "an anchor or an alias"),
        ("a: !!python/name:os.system ''", "has the tag"),
        ("a: !!binary aGk=", "has the tag"),
        ("--- !x\na: 1", "has the tag"),
        ("a: 1\na: 2", "a key is there twice"),
        ("? [a]\n: 1", "not valid YAML"),
        ("a: {b: {c", "not valid YAML"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: " + "[" * 100, "nested too deeply"),
        ("\t- a", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_yaml_that_does_more_is_refused(text, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_yaml(text, "it", "mend it")
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "NaN", "-Infinity", "1e999", "[" * 5000 + "]" * 5000, "9" * 5000, "\ufeff1", "'a'"]
)
def test_json_that_is_none_is_refused(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_json(text, "it", "mend it")
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("value", [True, "1", None, [1], 1.5])
def test_an_entry_of_another_type_is_named(value):
    with pytest.raises(ConfigurationError, match="'a' as int"):
        require_entries({"a": value}, {"a": int}, "it", "mend it")
    with pytest.raises(ConfigurationError, match="expected an object"):
        require_entries([value], {"a": int}, "it", "mend it")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [(1, b"a", True), (2, b"b", True)]),
        (b"a\n\nb", [(1, b"a", True), (2, b"", True), (3, b"b", False)]),
    ],
)
def test_lines_say_whether_they_are_whole(tmp_path, content, lines):
    (tmp_path / "log").write_bytes(content)
    assert list(read_lines(tmp_path / "log", "the log", "move it")) == lines


@pytest.mark.parametrize(
    "template",
    ["data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "videos/{video_key}/{episode_chunk:3}.mp4",
     "a/episode_{episode_index:06d}.parquet", "plain.parquet", "{{braces}}"],
)  # fmt: skip
def test_a_plain_template_passes(template):
    assert check_format(template, "data_path", "mend it") == template


@pytest.mark.parametrize(
    "template",
    ["{chunk_index:99999999d}", "{chunk_index:20d}", "{chunk_index.real}", "{video_key[0]}", "{video_key!r}", "{}",
     "{0}", "{other}", "{chunk_index:{file_index}}", "{chunk_index:*>9}", "{chunk_index:f}", "{chunk_index", "}", "", 3,
     None, ["a"], "x" * 2000, "{chunk_index}" * 20],
)  # fmt: skip
def test_a_template_that_does_more_is_refused(template):
    with pytest.raises(ConfigurationError) as caught:
        check_format(template, "data_path of the dataset", "mend it")
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "a/../../b", "", "a\0b", "..", "a\\..\\b", "link/secret", "circle"]
)
def test_a_path_stays_inside(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root / "circle")
    with pytest.raises(ConfigurationError) as caught:
        inside(root, name, "the file")
    assert len(str(caught.value)) <= 300


def test_links_into_the_blobs_of_a_hub_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert inside(snapshot, "config.json", "the policy").read_text() == "{}"


def test_what_safetensors_writes_passes(tmp_path):
    tensors = {
        "a": torch.zeros((2, 3)), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.arange(3),
        "empty": torch.zeros(0), "scalar": torch.tensor(1.0), "flags": torch.tensor([True, False]),
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors", "it", "mend it")
    assert {name: entry.shape for name, entry in header.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    loaded = load_tensors(tmp_path / "x.safetensors", "it", "mend it")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    require_finite(loaded, "it", "mend it")
    with pytest.raises(ConfigurationError, match="NaN or Infinity in 'a'"):
        require_finite({"a": torch.tensor([1, np.inf])}, "it", "mend it")


def test_every_cut_and_flip_of_a_header_is_refused_or_harmless(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}, path)
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ConfigurationError):
            load_tensors(path, "it", "mend it")
    for place in range(length):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            loaded = load_tensors(path, "it", "mend it")
        except ConfigurationError as error:
            assert len(str(error)) <= 300
        else:  # a name, or a space that became one
            assert sorted(tensor.numel() for tensor in loaded.values()) == [3, 6]
    assert json.loads(whole[8:length])
