"""``vla-cl compare``: what is one line, what is refused, what is written."""

import json

import pytest
import yaml
from generated_run import TASKS, GeneratedRun
from parsed_markdown import Cells

from vla_cl.cli import main as cli
from vla_cl.report import write_report
from vla_cl.report.load import load_runs
from vla_cl.report.run_settings import is_compared
from vla_cl.report.seed_groups import compare
from vla_cl.run.folder import MAY_DIFFER
from vla_cl.settings.speed import WHERE_AND_HOW_FAST, is_among
from vla_cl.types import ConfigurationError

KEPT = ((1.0, None, None), (0.9, 1.0, None), (0.9, 0.9, 1.0))
LOST = ((1.0, None, None), (0.1, 1.0, None), (0.0, 0.1, 1.0))


def write(folder, method="sequential", seed=0, success=LOST, **more):
    extra = {"seeds": {"train_seed": seed, "eval_seed": 0}, **more.pop("extra", {})}
    run = GeneratedRun(name=folder.name, method=method, success=success, videos=0, extra=extra, **more)
    run.write(folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + f"\ntrain_seed: {seed}\n")
    return folder


@pytest.fixture
def four_runs(tmp_path):
    return [
        write(tmp_path / "s0", seed=0),
        write(tmp_path / "s1", seed=1),
        write(tmp_path / "e0", "er", 0, KEPT, memory_bytes=2048),
        write(tmp_path / "e1", "er", 1, KEPT, memory_bytes=2048),
    ]


def test_seeds_of_one_method_are_one_line_and_the_best_comes_first(four_runs):
    groups = json.loads(compare(four_runs, style="json"))
    assert [(group["label"], group["seeds"]) for group in groups] == [("er", [0, 1]), ("sequential", [0, 1])]
    assert groups[0]["metrics"]["final_average"]["value"] == pytest.approx((0.9 + 0.9 + 1.0) / 3)
    assert groups[0]["memory_bytes"] == 2048


def test_a_metric_where_less_is_better_sorts_the_other_way(four_runs):
    groups = json.loads(compare(four_runs, ["gem_bwt"], style="json"))
    assert groups[0]["label"] == "er"
    groups = json.loads(compare(four_runs, ["chaudhry_forgetting"], style="json"))
    assert groups[0]["label"] == "er"


def test_an_undefined_metric_comes_last_and_is_null(four_runs, tmp_path):
    joint = write(tmp_path / "joint", success=((0.9, 0.9, 0.9),), arrangement="joint")
    groups = json.loads(compare([joint, *four_runs], ["chaudhry_forgetting"], style="json"))
    assert groups[-1]["label"] == "joint"
    assert groups[-1]["metrics"]["chaudhry_forgetting"]["value"] is None


def test_runs_with_other_settings_are_lines_of_their_own_that_say_which(tmp_path):
    folders = [write(tmp_path / name, "er", 0, KEPT) for name in ("a", "b")]
    for folder, rate in zip(folders, (0.1, 0.2), strict=True):
        (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + f"\nextra: {{rate: {rate}}}\n")
    groups = json.loads(compare(folders, style="json"))
    assert sorted(group["label"] for group in groups) == ["er extra.rate=0.1", "er extra.rate=0.2"]


@pytest.mark.parametrize("setting", WHERE_AND_HOW_FAST)
def test_seeds_that_differ_in_speed_or_place_are_one_line(tmp_path, setting):
    folders = [write(tmp_path / str(seed), "er", seed, KEPT) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        settings = {**yaml.safe_load((folder / "config.yaml").read_text())}
        group, _, key = setting.rpartition(".")
        (settings.setdefault(group, {}) if group else settings)[key] = seed
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (group,) = json.loads(compare(folders, style="json"))
    assert (group["label"], group["seeds"]) == ("er", [0, 1])
    assert not is_compared(setting)
    assert is_among(setting, MAY_DIFFER)  # a resumed run may change it too


def test_a_method_that_is_told_the_task_is_marked(tmp_path):
    told = [write(tmp_path / f"p{seed}", "packnet", seed, KEPT, extra={"told_the_task": True}) for seed in (0, 1)]
    other = write(tmp_path / "er", "er", 0, LOST, extra={"told_the_task": False})
    groups = json.loads(compare([*told, other], style="json"))
    assert [group["label"] for group in groups] == ["packnet (told the task)", "er"]
    page = write_report([told[0], other], tmp_path / "report.html").read_text()
    assert "<strong>packnet (told the task)</strong>" in page
    assert "er (told" not in page


def test_the_same_seed_twice_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="train_seed=3"):
        compare([write(tmp_path / name, seed=3) for name in ("a", "b")])


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="is not finished"):
        compare([write(tmp_path / "a", status="running")])


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a|b", "a|b"), ("a\n| b |\n", "a | b | "), ("`", "`"), ("a``|`b", "a``|`b"), ("<b>", "<b>"), ("a\\", "a\\")],
)
def test_a_name_stays_in_its_cell(tmp_path, name, shown):
    """One that a run.json gives, and one that tells two lines apart by a setting."""
    folders = [write(tmp_path / str(number), name, 0, KEPT) for number in range(3)]
    for folder, value in zip(folders, ("x", name, "`|\n"), strict=True):
        (folder / "config.yaml").write_text(yaml.safe_dump({"extra": {f"k|{name}": value}}))
    found = Cells(compare(folders, style="markdown").split("\nnote: ")[0])
    assert [len(cells) for cells in found.rows] == [6] * 4
    assert all(cells[0].startswith(f"{shown} extra.k|") for cells in found.rows[1:])
    assert len({cells[0] for cells in found.rows}) == 4
    assert len(compare(folders).split("\nnote: ")[0].splitlines()) == 4


def test_what_differs_between_runs_is_said_in_one_line(tmp_path):
    suites = [write(tmp_path / name, name, 0, KEPT, extra={"suite": f"{name}\n| x |"}) for name in ("a", "b")]
    note, *_ = [line for line in compare(suites).splitlines() if line.startswith("note: ")]
    assert note == "note: The runs have different suites: a | x |, b | x |."


def test_runs_of_one_name_in_folders_of_one_name_are_told_apart(tmp_path):
    """Else the figures of one would be shown for both."""
    folders = [write(tmp_path / above / "s" / "run", "er", seed, success) for above, seed, success in
               (("x", 0, KEPT), ("y", 1, LOST))]  # fmt: skip
    labels = [run.label for run in load_runs(folders)]
    assert labels == [f"er ({folder})" for folder in folders]
    (group,) = json.loads(compare(folders, style="json"))
    assert group["metrics"]["final_average"]["value"] == pytest.approx((2.8 / 3 + 1.1 / 3) / 2)


@pytest.mark.parametrize("names", [("a\nb", "a b"), ("x" * 300, "x" * 301)])
def test_names_that_are_shown_alike_are_told_apart(tmp_path, names):
    folders = [write(tmp_path / str(number), name, 0, KEPT) for number, name in enumerate(names)]
    first, second = (run.label for run in load_runs(folders))
    assert first != second
    assert "\n" not in first + second


@pytest.mark.parametrize("text", [None, "# nothing", "null", "[]", "- er"])
@pytest.mark.parametrize("style", ["text", "markdown", "json"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_run_that_has_lost_its_settings_is_refused(tmp_path, text, style, place):
    """Nobody could say whether it is a seed of the method beside it."""
    runs = [write(tmp_path / name, "er", seed, KEPT) for seed, name in enumerate(("a", "b"))]
    (runs[place] / "config.yaml").unlink()
    if text is not None:
        (runs[place] / "config.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        compare(runs, style=style)
    message = str(caught.value)
    assert f"{runs[place]} has no settings in its config.yaml, which say whose seed it is; restore the file" in message
    assert "\n" not in message


def test_other_tasks_are_refused(tmp_path):
    other = write(tmp_path / "b", tasks=(*TASKS[:2], "metaworld/reach"))
    with pytest.raises(ConfigurationError, match="same tasks"):
        compare([write(tmp_path / "a"), other])


def test_an_unknown_metric_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigurationError, match="gem_bwt"):
        compare([write(tmp_path / "a")], ["forgetting"])


def test_the_command_writes_markdown(four_runs, capsys):
    assert cli.main(["compare", *map(str, four_runs), "--style", "markdown", "--metrics", "gem_bwt"]) == 0
    head, rule, first, second = capsys.readouterr().out.splitlines()[:4]
    assert head == "| method | seeds | gem_bwt ↑ | kept |"
    assert rule == "| --- | --- | --- | --- |"
    assert first.startswith("| `er` | 2 | −0.100 no interval: two seeds |")
    assert first.endswith("| 2 KiB |")
    assert second.startswith("| `sequential` | 2 |")


def test_the_command_writes_aligned_text(four_runs, capsys):
    assert cli.main(["compare", *map(str, four_runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["method", "seeds"]
    assert {line.index("2 ") for line in lines[1:3]} == {lines[0].index("seeds")}


def test_many_differing_settings_become_a_number_that_a_note_explains(tmp_path):
    folders = [write(tmp_path / name, "er", 0, KEPT) for name in ("a", "b")]
    for number, folder in enumerate(folders):
        more = {f"group{place}": {"a_long_name_of_a_setting": f"value-{number}"} for place in range(5)}
        (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + f"\n{yaml.safe_dump(more)}")
    lines = compare(folders).splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["er #1", "er #2"]
    assert max(map(len, lines[:3])) < 120
    assert lines[3].startswith("note: er #1: group0.a_long_name_of_a_setting=value-0 group1.a_long")
    first = json.loads(compare(folders, style="json"))[0]
    assert first["settings"].count("=value-0") == 5


def test_another_budget_is_said(tmp_path):
    short, long = write(tmp_path / "e", "er", 0, KEPT), write(tmp_path / "w", "ewc", 0, steps_per_experience=500)
    sentence = "The runs differ in more than the method. train.steps: 600 (er), 500 (ewc)."
    assert f"note: {sentence}" in compare([short, long]).splitlines()
    page = write_report([short, long], tmp_path / "report.html").read_text()
    assert page.index(sentence) < page.index('class="headline"')  # before anything else is said


def test_other_versions_of_a_library_are_said(tmp_path):
    runs = [write(tmp_path / v, v, 0, extra={"versions": {"torch": f"2.{v}", "av": "15"}}) for v in ("8", "9")]
    assert "note: The runs were made with different versions: torch 2.8 and 2.9." in compare(runs).splitlines()


def test_one_and_two_seeds_are_said_to_be_few(four_runs, tmp_path):
    notes = [line for line in compare(four_runs).splitlines() if "Fewer than 3 training seeds" in line]
    assert notes and "of er, sequential: how another seed would end is not known" in notes[0]
    more = [
        write(tmp_path / "er2", "er", 2, KEPT, memory_bytes=2048),
        write(tmp_path / "sequential2", "sequential", 2),
    ]
    assert "Fewer than" not in compare([*four_runs, *more])
