"""A run of a format that this version does not know is refused in one sentence by whatever reads runs."""

import json
import shutil
from pathlib import Path

import pytest

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.run import root as run
from vla_cl.storage.manifest import READABLE_RUNS, seal, write_manifest

CONF = Path(__file__).parent / "conf"
SETTINGS = ["plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "method=er", "device=cpu",
            "threads=1", "demonstrations.episodes=2", "demonstrations.workers=1", "training.steps=1",
            "training.batch_size=2", "evaluation.episodes=1", "evaluation.replan_every=2", "evaluation.workers=1",
            "evaluation.videos=0"]  # fmt: skip
PLUGINS = ["--conf", str(CONF)]
TOY = ["plugins=[toy_world]", "suite=point", "tasks=[red]"]
NEWER = max(READABLE_RUNS) + 1
READERS = {
    "metrics": ["metrics", "RUN"],
    "metrics of the file": ["metrics", "RUN/matrix.json"],
    "metrics against it": ["metrics", "KNOWN", "--reference", "RUN"],
    "report": ["report", "RUN", "--output", "OUT/report.html"],
    "report with another": ["report", "KNOWN", "RUN", "--output", "OUT/report.html"],
    "compare": ["compare", "RUN"],
    "compare with another": ["compare", "KNOWN", "RUN"],
    "memory": ["memory", "RUN"],
    "memory as data": ["memory", "RUN", "--export", "OUT/data", "--plugins", "toy_world"],
    "evaluate": ["evaluate", *PLUGINS, "RUN", "plugins=[toy_world]", "output_dir=OUT/e"],
    "evaluate a checkpoint": ["evaluate", *PLUGINS, "RUN/checkpoints/001/pretrained_model", *TOY, "output_dir=OUT/e"],
    "check of a start from it": ["check", *PLUGINS, *SETTINGS, "warm_start=RUN", "output_dir=OUT"],
}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "known"
    cache = f"cache_dir={tmp_path_factory.mktemp('cache')}"
    return run.train(compose([*SETTINGS, cache, f"output_dir={folder}"], folders=[CONF]))


def told(folder, written, sealed=True):
    """The run, with another format in its ``run.json``."""
    content = json.loads((folder / "run.json").read_text())
    content.pop("seal")
    content["format"] = written
    (folder / "run.json").write_text(json.dumps(seal(content) if sealed else content))


def given(arguments, known, folder, out):
    stands = {"KNOWN": known, "RUN": folder, "OUT": out}
    for word, path in stands.items():
        arguments = [argument.replace(word, str(path)) for argument in arguments]
    return arguments


@pytest.mark.parametrize(
    ("written", "sealed"), [(NEWER, True), (NEWER, False), (0, True), (str(READABLE_RUNS[-1]), True), (True, False)]
)
@pytest.mark.parametrize("reader", READERS)
def test_a_run_of_an_unknown_format_is_refused(known, tmp_path, capsys, reader, written, sealed):
    folder, out = shutil.copytree(known, tmp_path / "copy", symlinks=True), tmp_path / "out"
    told(folder, written, sealed)
    assert main(given(READERS[reader], known, folder, out)) == 2
    captured = capsys.readouterr()
    (said,) = [line for line in captured.err.splitlines() if line.startswith("vla-cl: ")]
    assert f"copy/run.json has format {written!r}, but this version reads the formats 1 and 2; use the version" in said
    assert (captured.out, out.exists()) == ("", False)


@pytest.mark.parametrize("written", READABLE_RUNS)
@pytest.mark.parametrize("reader", [reader for reader in READERS if "evaluate" not in reader and "check" not in reader])
def test_a_run_of_a_known_format_is_read(known, tmp_path, reader, written):
    folder = shutil.copytree(known, tmp_path / "copy", symlinks=True)
    told(folder, written)
    arguments = given(READERS[reader], known, folder, tmp_path / "out")
    if reader == "compare with another":
        content = json.loads((folder / "run.json").read_text())
        content["seeds"]["train_seed"] = 5
        content.pop("seal")
        (folder / "run.json").write_text(json.dumps(content))
    expected = 2 if reader == "metrics against it" else 0  # it is no independent run
    assert main(arguments) == expected


def test_a_file_of_the_same_name_by_other_software_does_not_matter(known, tmp_path):
    for content in ('{"format": "csv"}', "[3]", "{", '{"tasks": [], "note": 1}'):
        shutil.copy(known / "matrix.json", tmp_path / "matrix.json")
        (tmp_path / "run.json").write_text(content)
        assert main(["metrics", str(tmp_path)]) == 0


def test_a_run_of_an_unknown_format_that_is_continued_is_not_said_to_be_readable(known, tmp_path, capsys):
    folder = shutil.copytree(known, tmp_path / "copy", symlinks=True)
    for written, open_still in ((NEWER, False), (READABLE_RUNS[0], True)):
        for path in folder.glob("checkpoints/[0-9]*/training_state/progress.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"format": written}))
            write_manifest(path.parents[1])
        assert main(["train", *PLUGINS, *SETTINGS, f"output_dir={folder}", f"cache_dir={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert "was begun by a version of vla-cl in which the same command gives other weights" in said
        assert ("still open it" in said) is open_still
