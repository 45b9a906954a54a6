"""Commands are killed at random moments and given again: nothing is lost, nothing is left, results are the same.

``VLA_CL_KILLS`` says how often (6, or 200 for the whole test: ``VLA_CL_KILLS=200 pytest -m slow tests/faults``).
"""

import os
import random
import re
import shutil
import time
from uuid import uuid4

import pytest
from processes import alive, wait_until
from toy_commands import COLLECT, EVALUATE, TRAIN, Place, run, start

KINDS = (COLLECT, TRAIN, EVALUATE)
MOST_CALLS = {COLLECT: 170, TRAIN: 225, EVALUATE: 160}  # that change the file system, in an undisturbed command


NEWBORN = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)*?  .*multiprocessing/spawn\.py.*\n(?:  .*\n)*?"
    r".*pickle\.load\(from_parent\)\n(?:  .*\n)*EOFError: Ran out of input\n"
)
"""What Python itself says in a worker whose parent is killed before it could tell what to do: no code of ours runs."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Where every command has run in peace, and how long each took."""
    place, seconds = Place(tmp_path_factory.mktemp("kills") / "undisturbed"), {}
    place.root.mkdir()
    for kind in KINDS:
        began = time.monotonic()
        status, said = run(place.command(kind), place.root / "log")
        assert status == 0, said
        seconds[kind] = time.monotonic() - began
    (place.root / "log").unlink()
    return place, seconds


def kill_once(place, kind, seconds, generator, log):
    """Start a command and kill it at a random moment; whether it was still running."""
    marker = uuid4().hex
    call = generator.randrange(MOST_CALLS[kind]) if generator.random() < 0.5 else None
    process = start(place.command(kind), log, marker, call)
    if call is None:
        process.join(generator.uniform(0, seconds[kind]))
        process.kill()
    process.join()
    status = process.exitcode
    process.close()
    wait_until(lambda: alive(marker) == [], 60)
    assert status in (0, -9), log.read_text()
    said = NEWBORN.sub("", log.read_text(errors="replace"))
    assert "Traceback" not in said, said
    return status == -9


def check_kills(undisturbed, tmp_path, kills, seed):
    expected, seconds = undisturbed
    generator = random.Random(seed)
    done = dict.fromkeys(KINDS, 0)
    while sum(done.values()) < kills:
        place = Place(tmp_path / "place")
        place.root.mkdir()
        log = tmp_path / "log"
        for kind in KINDS:
            for _ in range(generator.choice((2, 2, 3, 4))):
                done[kind] += kill_once(place, kind, seconds, generator, log)
            status, said = run(place.command(kind), log)
            assert status == 0, said
            assert "Traceback" not in said
            assert place.results(kind) == expected.results(kind)
            assert place.hidden() == []
        print(f"{sum(done.values())} kills: {done}", flush=True)
        shutil.rmtree(place.root)
    return done


def test_a_few_kills_at_random_moments_change_nothing(undisturbed, tmp_path):
    assert sum(check_kills(undisturbed, tmp_path, int(os.environ.get("VLA_CL_KILLS", "6")), seed=1).values()) >= 6


@pytest.mark.slow
def test_many_kills_at_random_moments_change_nothing(undisturbed, tmp_path):
    check_kills(undisturbed, tmp_path, int(os.environ.get("VLA_CL_KILLS", "200")), seed=2)
