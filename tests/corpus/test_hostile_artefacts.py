"""What others made: it works, or it is refused in one sentence; nothing is imported, left or touched."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_artefacts import CASES as ALL

import vla_cl

CASES = {case.name: case for case in ALL}
LONGEST = 300
MEMORY_MIB = 1024
SECONDS = 20  # of a processor; the bound is there to catch minutes


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("hostile")
    script = Path(__file__).with_name("hostile_world.py")
    done = subprocess.run(
        [sys.executable, str(script), str(workspace)],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(vla_cl.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((workspace / "results.json").read_text())


def test_there_are_enough():
    refused = [case for case in CASES.values() if case.says is not None]
    assert len(CASES) == len(ALL)
    assert len(refused) >= 60


@pytest.mark.parametrize("name", CASES)
def test_it_works_or_is_refused_in_one_sentence(results, name):
    found, case = results[name], CASES[name]
    said = [line for line in found["stderr"].splitlines() if line.startswith("vla-cl: ")]
    assert "Traceback" not in found["stderr"] + found["stdout"], found["stderr"][-2000:]
    assert not found["imported"], "something was imported because data said so"
    assert not found["touched"], "a file outside, or the artefact itself, was changed"
    assert not found["left_in_tmp"]
    assert found["memory_mib"] < MEMORY_MIB
    assert found["seconds"] < SECONDS
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", found["stdout"] + "".join(said))
    if case.says is None:
        assert found["status"] == 0, found["stderr"][-2000:]
        return
    assert found["status"] == 2, found["stderr"][-2000:]
    assert len(said) == 1
    sentence = said[0].removeprefix("vla-cl: ")
    assert len(sentence) <= LONGEST, sentence
    assert case.says in sentence or re.search(case.says, sentence), sentence
