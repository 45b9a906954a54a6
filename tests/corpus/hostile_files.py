"""Tables, archives, videos, pictures and templates."""

import base64
import json
import os
import struct
import zipfile

import numpy as np
from hostile_cases import (
    case,
    decode_picture,
    decode_video,
    described,
    flip,
    function,
    map_frames,
    npy,
    png,
    read_any_table,
    read_archive,
    read_episodes,
    read_settings,
    read_states,
    read_template,
    zipped,
)  # fmt: skip


def _parquet(name, write, says, use=read_any_table):
    @case(f"table_{name}", function(use), says, of=None)
    def _(folder):
        path = folder / "t.parquet"
        write(path)
        return path


def _plain_table(path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1, 2], "b": ["x", None]}), path)


def _cut_table(path):
    _plain_table(path)
    path.write_bytes(path.read_bytes()[:-20])


def _flipped_table(path):
    _plain_table(path)
    flip(path, 12)


def _footer_table(path):
    path.write_bytes(b"PAR1" + b"\0" * 20 + struct.pack("<I", 2**31 - 1) + b"PAR1")


def _repeated_table(path):
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(20_000, np.int32)), ["x" * 1_000_000])
    parquet.write_table(pyarrow.table({"error": text}), path)


def _long_table(path):
    import pyarrow
    from pyarrow import parquet

    zeros = pyarrow.chunked_array([pyarrow.array(np.zeros(2_000_000, np.int8))] * 60)
    parquet.write_table(pyarrow.table({"a": zeros}), path, compression="zstd")


def _extension_table(path):
    import pyarrow
    from pyarrow import parquet

    about = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": b"\x80\x04cos\nsystem"}
    field = pyarrow.field("a", pyarrow.int64(), metadata=about)
    parquet.write_table(pyarrow.table([pyarrow.array([1])], schema=pyarrow.schema([field])), path)


def _uuid_table(path):
    import pyarrow
    from pyarrow import parquet

    ids = pyarrow.ExtensionArray.from_storage(pyarrow.uuid(), pyarrow.array([b"0" * 16], pyarrow.binary(16)))
    parquet.write_table(pyarrow.table({"a": ids}), path)


def _pandas_table(path):
    import pyarrow
    from pyarrow import parquet

    index = {"kind": "range", "name": None, "start": 0, "stop": 10**12, "step": 1}
    notes = {"index_columns": [index], "columns": [], "pandas_version": "2.0"}
    table = pyarrow.table({"a": [1]}).replace_schema_metadata({b"pandas": json.dumps(notes).encode()})
    parquet.write_table(table, path)


_parquet("sound", _plain_table, None)
_parquet("cut", _cut_table, "no whole parquet file")
_parquet("flipped", _flipped_table, "cannot be read")
_parquet("footer_too_large", _footer_table, "does not fit")
_parquet("text_that_repeats", _repeated_table, "texts of more than")
_parquet("rows_without_end", _long_table, "at most|the most is")
_parquet("extension_type_of_python", _extension_table, "extension type")
_parquet("extension_type", _uuid_table, "extension type")
_parquet("pandas_index_without_end", _pandas_table, None)
_parquet("pointer", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull")
_parquet("empty", lambda path: path.write_bytes(b""), "is empty")
_parquet("folder", lambda path: path.mkdir(), "is no file")
_parquet("pipe", lambda path: os.mkfifo(path), "is no file")
_parquet("episodes_of_other_columns", _plain_table, "lacks the column", read_episodes)


def _episodes_of_other_types(path):
    import pyarrow
    from pyarrow import parquet

    from vla_cl.rollout.table import EPISODES

    columns = {name: pyarrow.array(["x"]) for name in EPISODES.columns}
    parquet.write_table(pyarrow.table(columns), path)


_parquet("episodes_of_other_types", _episodes_of_other_types, "'x' as", read_episodes)


def _archive(name, content, says):
    @case(f"arrays_{name}", function(read_archive), says, of=None)
    def _(folder):
        (folder / "x.npz").write_bytes(content() if callable(content) else content)
        return folder / "x.npz"


_TWO = described("<f4", "(2,)", b"\0" * 8)


def _bomb():
    size = 2**28 + 2**20
    return zipped([("a.npy", described("|u1", f"({size},)", bytes(size)))], zipfile.ZIP_DEFLATED)


_archive("sound", zipped([("image/a.npy", _TWO)]), None)
_archive("bomb", _bomb, "would unpack to")
_archive("pickle", zipped([("a.npy", described("|O", "(1,)", b"cos\nsystem\n"))]), "expected plain numbers")
_archive("header_of_code", zipped([("a.npy", npy("__import__('canary_module')"))]), "damaged|no whole")
_archive("header_that_computes", zipped([("a.npy", described("<f4", "(10**12,)"))]), "no whole npz")
_archive("larger_than_its_file", zipped([("a.npy", described("<f4", "(999999999999,)"))]), "wrong header")
_archive("names_that_climb_out", zipped([("../../outside/a.npy", _TWO)]), "expected arrays only")
_archive("other_files", zipped([("a.py", b"import canary_module")]), "expected arrays only")
_archive("no_zip", b"PK\x03\x04 nothing else", "no whole npz")
_archive(
    "checksum", lambda: zipped([("a.npy", _TWO)]).replace(b"\0" * 8, b"\0" * 7 + b"\1", 1), "no whole npz|wrong header"
)


@case("array_cut", function(map_frames), "was cut off", of=None)
def _(folder):
    np.save(folder / "x.npy", np.zeros((100, 100)))
    content = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(content[: len(content) // 2])
    return folder / "x.npy"


@case("initial_states_that_run_code", function(read_states), "the pickle has", of=None)
def _(folder):
    (folder / "x.init").write_bytes(zipped([("archive/data.pkl", b"ccanary_module\nStep\n(tR.")]))
    return folder / "x.init"


def _file(name, use, content, says):
    @case(name, function(use), says, of=None)
    def _(folder):
        path = folder / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


_file("video_playlist", decode_video, "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is no mp4")
_file("video_concat", decode_video, "ffconcat version 1.0\nfile /etc/passwd\n", "is no mp4")
_file("video_dash", decode_video, "<?xml version='1.0'?><MPD><BaseURL>http://localhost/</BaseURL></MPD>", "is no mp4")
_file("video_subtitles", decode_video, "1\n00:00:00,000 --> 00:00:01,000\nhello\n", "is no mp4")
_file("video_noise", decode_video, b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40, "cannot be decoded")
_file("video_empty", decode_video, b"", "is empty")


@case("video_cut", function(decode_video), "cannot be decoded", of="run")
def _(run):
    path = next((run / "videos").rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return path


@case("video_sound", function(decode_video), None, of="run")
def _(run):
    return next((run / "videos").rglob("*.mp4"))


_file("picture_bomb", decode_picture, png(60_000, 60_000), "pixels")
_file("picture_hollow", decode_picture, png(600, 600), "no whole picture")
_file(
    "picture_postscript",
    decode_picture,
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "no whole picture",
)
_file("picture_svg", decode_picture, "<svg><image href='file:///etc/passwd'/></svg>", "no whole picture")
_file(
    "picture_sound",
    decode_picture,
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    ),
    None,
)


_file("template_sound", read_template, "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", None)
_file("template_width", read_template, "data/{chunk_index:999999999d}.parquet", "at most 19 digits")
_file("template_attribute", read_template, "data/{chunk_index.__class__}", "allowed are")
_file("template_index", read_template, "data/{video_key[0]}", "allowed are")
_file("template_conversion", read_template, "data/{video_key!r}", "allowed are")
_file("template_nested", read_template, "data/{chunk_index:{file_index}d}", "allowed are")
_file("template_broken", read_template, "data/{chunk_index", "no format")
_file("settings_sound", read_settings, "a: 1e-3\nb: [1, two, null, true]\nc: 2020-01-01\nd: '${x}'\n", None)
