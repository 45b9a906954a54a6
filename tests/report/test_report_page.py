"""What the page says, for one run and for several."""

import json
import re
from pathlib import Path

import pytest
import yaml
from generated_run import TASKS, GeneratedRun, experience_replay, independent, joint, write_video
from parsed_page import ParsedPage

from vla_cl.report import write_report
from vla_cl.report.lead import LEARNT
from vla_cl.storage.manifest import write_manifest
from vla_cl.types import ConfigurationError


def page_of(run: GeneratedRun, folder: Path) -> ParsedPage:
    return ParsedPage(write_report([run.write(folder / "run")]))


def test_comparison_has_every_section_in_order(comparison: Path) -> None:
    page = ParsedPage(comparison)
    assert comparison.name == "report.html"
    assert page.badly_nested == []
    assert page.headings == [
        "er, sequential, joint on metaworld_demo",
        "Comparison",
        "Success matrix",
        "Success over the course of learning",
        "Metrics",
        "Training",
        "Videos",
        "Crashed episodes",
        "How to read this",
        "Settings, versions, machine",
    ]


def test_the_first_lines_are_derived_from_the_numbers(comparison: Path) -> None:
    text = ParsedPage(comparison).text("")
    assert "Fewer than 3 training seeds of er and sequential: which method is better cannot be told" in text
    assert re.search(
        r"er : 93 % success just after learning each task; 92 % average success on all tasks at the end "
        r"\( 95 % interval \d+ % to \d+ % \); an old task lost 2 points on average \( 95 % interval −\d+ to \d+ \)",
        text,
    )
    assert "sequential : 95 % success just after learning each task; 40 % average" in text
    told = "forgotten beyond chance (Fisher's exact test, Holm's correction for 2 tests): "
    assert told + "drawer-open (95 % → 5 %) and button-press-topdown (90 % → 15 %)" in text
    assert "no drop of a single task is beyond chance (Fisher's exact test, Holm's correction for 2 tests)" in text
    assert "on each old task a drop of 40 points or more would have shown (n = 20)" in text
    assert "joint , a reference (learning all tasks at once), reaches 97 %" in text
    assert "still does" not in text


def test_a_task_below_the_threshold_is_named_with_its_best_cell(tmp_path: Path) -> None:
    page = page_of(GeneratedRun(success=((0.1, None, None), (0.0, 0.9, None), (0.0, 0.9, 1.0)), videos=0), tmp_path)
    assert f"never reached {100 * LEARNT:.0f} % in its matrix on drawer-open (best 10 %)" in page.text("")


def test_an_interval_in_the_first_lines_is_not_torn(comparison: Path) -> None:
    assert re.search(r'\(<span class="whole">95 % interval \d+\s% to \d+\s%</span>\)', comparison.read_text())
    assert ".whole { white-space: nowrap; }" in comparison.read_text()


def test_small_losses_on_many_tasks_are_not_called_nothing(tmp_path: Path) -> None:
    tasks = tuple(f"metaworld/task-{number}" for number in range(8))
    success = tuple(
        tuple(1.0 - 0.05 * min(4, row - column) if column <= row else None for column in range(8)) for row in range(8)
    )
    text = page_of(GeneratedRun(tasks=tasks, success=success, videos=0), tmp_path).text("")
    assert re.search(r"an old task lost 16 points on average \( 95 % interval [1-9]\d* to \d+ \)", text)
    assert "no drop of a single task is beyond chance" in text


def test_comparison_table_and_matrix_show_the_figures(comparison: Path) -> None:
    page = ParsedPage(comparison)
    short = page.text("comparison")
    assert "9.16 MiB" in short and "4 min 28 s" in short and "0.825" in short
    matrix = page.text("matrix")
    assert "before learning 0 % 0 % 5 %" in matrix
    assert "after window-close 5 % n 20 15 % n 20 100 % n 20" in matrix
    assert "after all-tasks 100 % n 20 95 % n 20 95 % n 20" in matrix
    assert matrix.count("not evaluated") == 6 + 1  # above the diagonals of two runs, and the legend


def test_metrics_come_with_interval_and_convention(comparison: Path) -> None:
    text = ParsedPage(comparison).text("metrics")
    assert re.search(r"er final_average ↑: 0\.917 \[0\.\d+, 0\.\d+\]", text)
    assert "libero_nbt" in text and "arXiv 2306.03310" in text
    assert "gem_bwt ↑: −0.825" in text  # a minus sign, not a hyphen
    assert "Not defined for these runs" in text and "cw_forward_transfer" in text


def test_an_independent_run_is_the_reference_of_the_others(tmp_path: Path) -> None:
    runs = [GeneratedRun(curve_points=4), independent(curve_points=4)]
    report = write_report([run.write(tmp_path / run.name) for run in runs])
    page = ParsedPage(report)
    assert re.search(r"cw_forward_transfer ↑: −?\d", page.text("metrics"))
    assert "independent , a reference (one model per task), reaches 98 %" in page.text("")


def test_plots_name_their_points_and_curves(comparison: Path) -> None:
    page = ParsedPage(comparison)
    assert "sequential: 20 % after 1.2k (20 episodes, 95 % interval 8 % to 42 %)" in page.text("learning")
    labels = [svg.get("aria-label") for svg in page.all("svg")]
    assert "Success on drawer-open over the course of learning" in labels
    assert "Training loss of er" in labels


def test_page_is_self_contained(comparison: Path) -> None:
    page = ParsedPage(comparison)
    assert page.all("script") == []
    sources = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in {"src", "poster"}
    ]
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert sources and all(str(source).startswith("data:") for source in sources)
    assert set(links) == {"data:,", "#errors"}
    style = comparison.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_videos_show_a_success_and_a_failure_of_each_task(comparison: Path) -> None:
    page = ParsedPage(comparison)
    videos = page.all("video")
    assert len(videos) == 3 * 3 * 2
    assert all({"controls", "muted", "loop", "playsinline"} <= set(video) for video in videos)
    labels = [video["aria-label"] for video in videos]
    assert "drawer-open: success after window-close" in labels
    assert "drawer-open: failure after window-close" in labels


def test_crashed_episodes_are_counted_and_shown(comparison: Path) -> None:
    page = ParsedPage(comparison)
    assert "sequential: 1 of 121 episodes crashed" in page.text("")
    assert "Run: sequential Task: drawer-open Episodes: 1 Error: MujocoException: NaN in qacc" in page.text("errors")


def test_settings_name_versions_machine_and_differences(comparison: Path) -> None:
    text = ParsedPage(comparison).text("settings")
    for expected in (
        "lerobot 0.6.1",
        "train seed 7",
        "render profile fast",
        "Example CPU",
        "method.memory_bytes er: 9600000 sequential: 0 joint: 0",
    ):
        assert expected in text
    assert "train.batch_size" not in text.split("config.yaml")[0]  # the same in all runs


def test_single_run_goes_into_its_own_folder(tmp_path: Path) -> None:
    folder = experience_replay().write(tmp_path / "er")
    assert write_report([folder]) == folder / "report.html"
    page = ParsedPage(folder / "report.html")
    assert page.headings[:2] == ["er on metaworld_demo", "In short"]
    assert "Crashed episodes" not in page.headings


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    tasks = (f"metaworld/{script}", 'metaworld/"><img src=x onerror=alert(2)>', "metaworld/{{ 7*7 }}")
    run = GeneratedRun(
        tasks=tasks, error=f"{script} & more", extra={"stream": script, "policy": script, "name": script}
    )
    page = page_of(run, tmp_path)
    assert page.all("script") == []
    assert page.badly_nested == []
    assert all("onerror" not in attributes for attributes in page.all("img"))
    assert script in page.text("matrix") and "{{ 7*7 }}" in page.text("matrix")
    assert f"{script} & more" in page.text("errors")


def test_unfinished_run_is_reported_as_far_as_it_went(tmp_path: Path) -> None:
    page = page_of(GeneratedRun(success=((1.0, None, None),), status="running"), tmp_path)
    assert "sequential is not finished: 1 of 3 experiences evaluated so far (drawer-open at 100 %)" in page.text("")
    assert "unfinished" in page.text("comparison")
    assert "Metrics" in page.headings and "Not defined for this run" in page.text("metrics")


def test_run_that_has_just_begun_is_reported(tmp_path: Path) -> None:
    folder = GeneratedRun(status="running").write(tmp_path / "run")
    for name in ("matrix.json", "episodes.parquet", "metrics.jsonl", "config.yaml"):
        (folder / name).unlink()
    page = ParsedPage(write_report([folder]))
    text = page.text("")
    assert "0 of 3 experiences evaluated so far" in text
    for name in ("matrix.json", "episodes.parquet", "metrics.jsonl", "config.yaml"):
        assert f"no {name}" in text
    assert page.headings[1:] == ["In short", "How to read this", "Settings, versions, machine"]


def test_rows_of_nulls_are_not_taken_for_results(tmp_path: Path) -> None:
    folder = GeneratedRun(success=((1.0, None, None), (None,) * 3, (None,) * 3), status="running").write(
        tmp_path / "run"
    )
    (folder / "metrics.jsonl").unlink()  # then the episodes alone tell the steps
    page = ParsedPage(write_report([folder]))
    assert "1 of 3 experiences evaluated so far" in page.text("")


def test_success_without_known_steps_is_drawn_over_experiences(tmp_path: Path) -> None:
    folder = GeneratedRun().write(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    (folder / "episodes.parquet").unlink()
    text = ParsedPage(write_report([folder])).text("learning")
    assert "horizontal: experiences learnt" in text
    assert "sequential: 20 % after 2 (20 episodes" in text


@pytest.mark.parametrize("run", [joint(), independent()], ids=["joint", "independent"])
def test_reference_alone(run: GeneratedRun, tmp_path: Path) -> None:
    page = page_of(run, tmp_path)
    assert f"On metaworld_demo: 3 tasks. {run.name} , a reference" in page.text("")
    assert "Success over the course of learning" in page.headings


def test_a_run_without_rollouts_shows_borders_and_explains_only_what_is_there(tmp_path: Path) -> None:
    folder = GeneratedRun(name="cubes", method="er", videos=0, extra={"rollouts": {"skipped": "no suite"}}).write(
        tmp_path / "run"
    )
    (folder / "matrix.json").unlink()
    (folder / "episodes.parquet").unlink()
    page = ParsedPage(write_report([folder]))
    assert "cubes: er on metaworld_demo" in page.headings
    source = (folder / "report.html").read_text()
    assert source.count('class="border"') == 2
    assert "Thin vertical lines are the borders" in source
    for word in ("Success", "Learnt, forgot", "References"):
        assert f"<dt>{word}</dt>" not in source


def test_borders_are_explained_only_where_there_are_some(tmp_path: Path) -> None:
    folder = GeneratedRun(name="joint", arrangement="joint", success=((0.9, 0.9, 1.0),)).write(tmp_path / "run")
    assert "Thin vertical lines" not in write_report([folder]).read_text()


def test_two_seeds_are_one_method_and_no_ranking(tmp_path: Path) -> None:
    first = experience_replay(name="first").write(tmp_path / "a")
    second = experience_replay(
        name="second", success=((1.0, None, None), (0.9, 0.8, None), (0.7, 0.8, 0.9)),
        extra={"seeds": {"train_seed": 8, "eval_seed": 12}},
    ).write(tmp_path / "b")  # fmt: skip
    page = ParsedPage(write_report([second, first]))
    text = page.text("")
    assert page.headings[0] == "er on metaworld_demo, 2 seeds"
    assert "Fewer than 3 training seeds of er: how another seed would end cannot be told from so few." in text
    assert "er (2 seeds): 92 % success just after learning" in text
    assert "86 % average success on all tasks at the end ( single seeds 80 % to 92 % )" in text
    assert "different evaluation seeds" in text
    rows = page.text("comparison")
    assert rows.index("er, 2 seeds") < rows.index("seed 7") < rows.index("seed 8")
    assert "no interval: two seeds" in page.text("metrics")


def test_runs_of_the_same_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    runs = [GeneratedRun(videos=0).write(tmp_path / group / "run") for group in ("a", "b")]
    assert ParsedPage(write_report(runs)).headings[0] == "sequential (a/run), sequential (b/run) on metaworld_demo"


def test_partly_different_tasks_are_shown_with_a_warning(tmp_path: Path) -> None:
    first = GeneratedRun(videos=0).write(tmp_path / "a")
    second = experience_replay(tasks=(*TASKS[:2], "metaworld/push"), videos=0).write(tmp_path / "b")
    page = ParsedPage(write_report([first, second]))
    assert "The runs do not have the same tasks" in page.text("")
    assert "Success on push over the course of learning" in [svg.get("aria-label") for svg in page.all("svg")]


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    first = GeneratedRun(videos=0).write(tmp_path / "a")
    second = GeneratedRun(tasks=("libero/1", "libero/2", "libero/3"), videos=0).write(tmp_path / "b")
    with pytest.raises(ConfigurationError, match="share none; write one report for each"):
        write_report([first, second])
    assert not (tmp_path / "report.html").exists()


def test_unreadable_video_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = GeneratedRun().write(tmp_path / "run")
    videos = sorted((folder / "videos").glob("2-*.mp4"))
    videos[0].write_bytes(b"not a video")
    videos[1].unlink()
    text = ParsedPage(write_report([folder])).text("videos")
    assert text.count("is missing or cannot be decoded") == 2


def test_a_video_in_the_place_of_another_is_not_shown(tmp_path: Path) -> None:
    folder = GeneratedRun().write(tmp_path / "run")
    write_manifest(folder / "videos")
    first, second = sorted((folder / "videos").glob("2-*.mp4"))[:2]
    content = first.read_bytes(), second.read_bytes()
    assert content[0] != content[1]
    for path, theirs in zip((first, second), reversed(content), strict=True):
        path.write_bytes(theirs)
    page = ParsedPage(write_report([folder]))
    assert page.text("videos").count("is damaged: it differs from its manifest") == 2
    (folder / "videos" / "MANIFEST.json").write_text("{")  # then nothing can be said of them
    assert len(ParsedPage(write_report([folder])).all("video")) == len(page.all("video")) + 2


def test_too_many_videos_are_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = GeneratedRun().write(tmp_path / "run")
    monkeypatch.setattr("vla_cl.report.videos.MAX_TOTAL_BYTES", 3000)
    page = ParsedPage(write_report([folder]))
    assert 0 < len(page.all("video")) < 6
    assert "the page would have become too large" in page.text("videos")


def test_video_outside_the_run_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    folder = GeneratedRun().write(tmp_path / "run")
    write_video(tmp_path / "secret.mp4", success=True)
    table = pd.read_parquet(folder / "episodes.parquet")
    table["video"] = "../secret.mp4"
    table.to_parquet(folder / "episodes.parquet")
    with pytest.raises(ConfigurationError, match="leaves the folder"):
        write_report([folder])


def test_loss_that_is_not_finite_does_not_spoil_the_plot(tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"experience": 2, "step": 1799, "loss": float("nan")}) + "\n")
        file.write('{"experience": 2, "step": 18')  # cut off while being written
    report = write_report([folder])
    assert "Training loss of sequential" in report.read_text()
    assert "nan" not in re.sub(r"data:[^\"]*", "", report.read_text()).lower().replace("nano_vla", "")


def test_report_replaces_the_old_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    target = tmp_path / "new" / "page.html"
    for _ in range(2):
        assert write_report([folder], target) == target
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    assert write_report([folder], target.parent) == target.parent / "report.html"


HIDDEN = ["\x1b[31m", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\x00", "\x08"]


@pytest.mark.parametrize("where", ["task", "name", "error", "setting", "instruction"])
def test_text_of_others_is_shown_without_control_characters(tmp_path: Path, where: str) -> None:
    nasty = "<script>x</script>" + "".join(HIDDEN)
    shown = nasty.replace("/", "")
    tasks = (f"point/{shown}", "point/b") if where == "task" else ("point/a", "point/b")
    extra = {"tasks": [{"id": task, "instruction": shown} for task in tasks]} if where == "instruction" else {}
    run = GeneratedRun(
        name=shown if where == "name" else "run",
        tasks=tasks,
        success=((1.0, None), (0.0, 1.0)),
        error=shown if where == "error" else None,
        videos=0,
        extra=extra,
    )
    folder = run.write(tmp_path / "run")
    if where == "setting":
        (folder / "config.yaml").write_text(yaml.safe_dump({"stream": shown}))
    elif where == "name":
        (folder / "config.yaml").write_text("name: run\n")
    text = write_report([folder]).read_text(encoding="utf-8")
    assert not [character for character in HIDDEN if character in text]
    assert "<script>x" not in text
