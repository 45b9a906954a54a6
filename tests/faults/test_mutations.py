"""Damage to everything that is stored: a command gives the undamaged result, makes it anew, or refuses in a sentence.

``VLA_CL_MUTATIONS`` says how often (60, or 2,000 for the whole test, which is marked slow).
"""

import os
import random
import re
import shutil
from collections import Counter

import pytest
from toy_commands import COLLECT, EVALUATE, TRAIN, Place, run

PAGE = 512
EXPORT = "export"


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    """Where every command has run: the whole place, and one with demonstrations that are only staged."""
    root = tmp_path_factory.mktemp("mutations")
    place = Place(root / "place")
    place.root.mkdir()
    for kind in (COLLECT, TRAIN, EVALUATE):
        status, said = run(place.command(kind), root / "log")
        assert status == 0, said
    for kind in ("metrics", "report"):
        assert run(place.command(kind), root / "log")[0] == 0
    return place, staged(place, root)


def staged(place, root):
    """The same demonstrations as files of episodes, as a kill right before the dataset is written leaves them."""
    half = Place(root / "half")
    script_place = Place(root / "place")
    half.root.mkdir()
    from toy_world import PointSuite

    from vla_cl.rollout import collect as module
    from vla_cl.rollout.demonstrations import Recipe, record_episode, stage

    suite = PointSuite()
    for task in suite.tasks()[:2]:
        job = module._Job.plan(suite, task, half.cache / "demonstrations", Recipe(3, hold=15))
        assert (script_place.cache / "demonstrations" / "point" / job.target.name).is_dir()
        environment, expert = suite.make_environment(task), suite.make_expert(task)
        for state in range(3):
            trajectory = record_episode(environment, expert, task, state, suite.spec, Recipe(3, hold=15))
            stage(job.path(state), trajectory, job.description_key)
    return half


# What is damaged, and the commands that somebody would give then.
KINDS = {
    "checkpoint": ("run/checkpoints/*/**/*", (TRAIN, EVALUATE, EXPORT)),
    "run.json": ("run/run.json", (TRAIN, "report", EVALUATE)),
    "matrix.json": ("run/matrix.json", ("metrics", "report", TRAIN)),
    "episodes.parquet": ("run/episodes.parquet", ("report", TRAIN)),
    "metrics.jsonl": ("run/metrics.jsonl", ("report", TRAIN)),
    "config.yaml": ("run/config.yaml", (TRAIN, EVALUATE, "report")),
    "evaluation": ("evaluation/*.*", (EVALUATE,)),
    "recorded rollouts": ("evaluation/dataset/**/*", (EVALUATE,)),
    "films": ("evaluation/videos/*", (EVALUATE,)),
    "demonstrations": ("cache/demonstrations/**/*", (COLLECT, TRAIN)),
    "staged": ("cache/demonstrations/*/.*.staged/*", (COLLECT,)),
    "decoded pictures": ("cache/frames/**/*", (TRAIN,)),
    "films of the run": ("run/videos/*", ("report", TRAIN)),
    "memory": ("run/memory/*", (TRAIN, EXPORT)),
}


def mutate(path, others, generator):
    """Damage one file; what was done to it."""
    content = bytearray(path.read_bytes())
    how = generator.choice(("flip", "flip", "flip", "cut", "zero", "remove", "swap"))
    if how == "remove":
        path.unlink()
    elif how == "swap" and others:
        other = generator.choice(others)
        theirs = other.read_bytes()
        other.write_bytes(content)
        path.write_bytes(theirs)
        return f"swapped with {other.name}"
    elif how == "cut":
        path.write_bytes(content[: generator.choice((0, generator.randrange(len(content) + 1)))])
    elif content:
        if how == "zero":
            start = generator.randrange(0, len(content), PAGE)
            content[start : start + PAGE] = bytes(len(content[start : start + PAGE]))
        else:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
    return how


def prepared(place, command, kind):
    """Where a command uses what is damaged: a new evaluation of a damaged run, a new run on damaged pictures."""
    if command == EVALUATE and kind not in ("evaluation", "recorded rollouts", "films"):
        place.evaluation = place.root / "another evaluation"
    if kind == "decoded pictures":
        shutil.rmtree(place.run)
    (place.run / "report.html").unlink(missing_ok=True)
    return place


def verdict(expected, place, command, status, said):
    """``equal``, ``refused`` or ``fallback``; an assertion fails otherwise."""
    assert "Traceback" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("vla-cl: ")]
    if status:
        assert status in (1, 2), (status, said)
        assert len(errors) == 1, said
        assert len(errors[0]) <= 300 + len("vla-cl: "), errors[0]
        return "refused"
    if command in (COLLECT, TRAIN):
        assert newest(place.results(command)) == newest(expected.results(command)), said
        if command == TRAIN and "passing over" in said:
            assert "passing over" in (place.run / "run.json").read_text()
    elif command == EVALUATE:
        if "passing over" in said:
            assert "passing over" in (place.evaluation / "summary.json").read_text()
            return "fallback"
        assert place.results(EVALUATE) == expected.results(EVALUATE), said
    elif command == "report":
        page, before = ((each.run / "report.html").read_text() for each in (place, expected))
        if told(page):
            return "told"
        assert without_places(page) == without_places(before)
    elif command == "metrics":
        assert without_places(said) == without_places(expected.metrics), said
    return "equal"


TOLD = (
    r": no (episodes\.parquet|metrics\.jsonl|config\.yaml|matrix\.json), so ",
    r": \d+ damaged lines of metrics\.jsonl are passed over\.",
    r": metrics\.jsonl ends at step \d+ of \d+: its curves are not whole\.",
    r": passing over a checkpoint: ",
    r"\.mp4 is damaged: it differs from its manifest\.",
    r"\.mp4 is missing or cannot be decoded\.",
)
"""What a report says of what is damaged or lost (`vla_cl.report.load`, `vla_cl.report.videos`)."""


def told(page):
    return any(re.search(sentence, page) for sentence in TOLD)


def newest(results):
    """Without the weights of checkpoints that no command needs any more."""
    weights = results.get("weights", {})
    return results | {"weights": {name: weights[name] for name in sorted(weights)[-1:]}}


def without_places(text):
    return re.sub(r"/\S*/(place|copy)\S*", "", text)


def check_mutations(undamaged, tmp_path, count, seed):
    whole, half = undamaged
    whole.metrics = run(whole.command("metrics"), tmp_path / "log")[1]
    run(whole.command("report"), tmp_path / "log")
    assert not told((whole.run / "report.html").read_text())
    generator, verdicts, failures = random.Random(seed), Counter(), []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        pattern, commands = KINDS[kind]
        place = (half if kind == "staged" else whole).copy_to(tmp_path / "copy")
        files = sorted(path for path in place.root.glob(pattern) if path.is_file() and path.name != ".lock")
        path = generator.choice(files)
        done = mutate(path, [each for each in files if each != path and each.suffix == path.suffix], generator)
        command = generator.choice(commands)
        about = f"{number}: {path.relative_to(place.root)}: {done}, then {command}"
        place = prepared(place, command, kind)
        arguments = ["memory", str(place.run), "--export", str(place.root / "x"), "--plugins", "toy_world"]
        status, said = run(arguments if command == EXPORT else place.command(command), tmp_path / "log")
        try:
            found = verdict(whole, place, command, status, said)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            found = "WRONG"
            failures.append(f"{about}\n{said}\n{error!r}")
            print(failures[-1])
        print(f"{about}: {found}", flush=True)
        verdicts[kind, found] += 1
        shutil.rmtree(place.root)
    for (kind, found), times in sorted(verdicts.items()):
        print(f"{kind:20} {found:10} {times}")
    assert failures == [], f"{len(failures)} of {count}"


def test_some_damage_is_noticed_or_harmless(undamaged, tmp_path):
    check_mutations(undamaged, tmp_path, int(os.environ.get("VLA_CL_MUTATIONS", "60")), seed=3)


@pytest.mark.slow
def test_much_damage_is_noticed_or_harmless(undamaged, tmp_path):
    check_mutations(undamaged, tmp_path, int(os.environ.get("VLA_CL_MUTATIONS", "2000")), seed=4)
