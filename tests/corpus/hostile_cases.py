"""What every hostile case is made of: how it is registered, what a user does with it, how files are broken."""

import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True)
class Case:
    """Something of others.

    Attributes:
        name: Of the case.
        make: From the folder of sound artefacts and an own folder to the path that ``use`` gets.
        use: The user's command: path and own folder to exit status.
        says: What the one sentence contains; None: it works.
        writes: Whether the command may write beside the artefact.
    """

    name: str
    make: Callable
    use: Callable
    says: str | None
    writes: bool = False


CASES: list[Case] = []


def command(*words):
    """A command line; ``{}`` is the artefact's path."""

    def use(path, place):
        from vla_cl.cli.main import main

        return main([word.replace("{}", str(path)).replace("{place}", str(place)) for word in words])

    return use


def function(call):
    """A function of the package; prints its sentence as the command line would."""

    def use(path, place):
        import sys

        from vla_cl.types import ConfigurationError

        try:
            call(path)
        except ConfigurationError as error:
            print(f"vla-cl: {error}", file=sys.stderr)
            return 2
        return 0

    return use


_SMALL = ("device=cpu", "threads=1", "evaluation.episodes=1", "evaluation.workers=1", "evaluation.replan_every=2")
_EVALUATE = ("evaluate", "--conf", str(CONF), "{}", "output_dir={place}/evaluation", "plugins=[toy_world]")
EVALUATE = command(*_EVALUATE, *_SMALL, "suite=point")
EVALUATE_AS_IN_RUN = command(*_EVALUATE, *_SMALL[:-1])
REPORT = command("report", "{}", "--output", "{place}/report.html")
METRICS = command("metrics", "{}")
MEMORY = command("memory", "{}")
EXPORT = command("memory", "{}", "--export", "{place}/exported")
COMPARE = command("compare", "{}")


def load_policy(path):
    from vla_cl.models.vla import VlaModel

    VlaModel.load(path, "cpu")


LOAD = function(load_policy)


def read_episodes(path):
    from vla_cl.evaluation.table import TrialTable
    from vla_cl.rollout.table import EPISODES

    TrialTable.read(path, EPISODES)


def open_journal(path):
    from vla_cl.rollout.journal import Journal

    with Journal(path, {"format": 1}) as journal:
        len(journal)


def open_memory(path):
    from vla_cl.memory.copied import CopiedData
    from vla_cl.memory.store import TrajectoryStore

    store = TrajectoryStore(path)
    store.verify(list(store.files))
    data = CopiedData(store, list(store.files), [0] * len(store), 10)
    data.batch(np.arange(len(data)))


def open_unit(path):
    from vla_cl.memory.record import Record

    record = Record.open(path)
    record.read(np.arange(2))


def read_archive(path):
    from vla_cl.trust.arrays import read_arrays

    read_arrays(path, "the recorded episode", "record it again")


def map_frames(path):
    from vla_cl.trust.arrays import map_array

    map_array(path, "the decoded frames", "decode them again").sum()


def load_weights(path):
    from vla_cl.trust.tensors import load_tensors

    load_tensors(path, "the weights", "download them again")


def read_any_table(path):
    from vla_cl.trust.tables import read_rows

    read_rows(path, "the task table", "download the dataset again")


def decode_video(path):
    from vla_cl.trust.media import open_video

    with open_video(path, "the video", "download it again") as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def decode_picture(path):
    from vla_cl.trust.media import open_picture

    with open_picture(path, "the picture", "download it again") as picture:
        picture.convert("RGB")


def read_settings(path):
    from vla_cl.trust.yaml_files import read_yaml

    read_yaml(path, "the settings of the run", "restore the file")


def read_template(path):
    from vla_cl.trust.formats import check_format

    check_format(path.read_text(), "video_path of the dataset", "download it again")


def read_states(path):
    from vla_cl.envs.libero_initial_states import read_initial_states

    read_initial_states(path)


def case(name, use, says, *, of="policy", writes=False):
    """Register a case whose function changes a copy of a sound artefact; it may return another path."""

    def register(change):
        def make(base, place):
            if of is None:
                target = place / "input"
                target.mkdir()
            else:
                target = place / "input" / of
                shutil.copytree(base / of, target)
            return change(target) or target

        CASES.append(Case(name, make, use, says, writes))
        return change

    return register


def edit(path, change):
    """Change a JSON file: ``change`` gets its content and returns the new one, or None if it edited in place."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def refit(run, number="002"):
    """Give a checkpoint a manifest that agrees with what was changed, as somebody with bad intent would."""
    from vla_cl.storage.manifest import write_manifest

    write_manifest(run / "checkpoints" / number)


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 0x40
    path.write_bytes(content)


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npy(header, data=b""):
    text = header.encode() + b" " * 20 + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(dtype, shape, data=b""):
    """The content of an npy file with this header."""
    return npy(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}", data)


def zipped(entries, method=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return content.getvalue()


def png(width, height):
    """A picture that says it has this size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
