"""Reports and comparisons of streams that repeat tasks, and what they say of metrics that have no interval."""

import json
import math
from pathlib import Path

from generated_run import TASKS, GeneratedRun, experience_replay, independent
from parsed_page import ParsedPage

from vla_cl.metrics import HEADLINE_FORGETTING
from vla_cl.report import write_report
from vla_cl.report.seed_groups import compare

TWICE = (
    (0.9, None, None),
    (0.5, 0.8, None),
    (0.2, 0.4, 0.6),
    (1.0, 0.3, 0.5),
    (0.8, 0.9, 0.5),
    (0.1, 0.8, 0.7),
)


def twice(**more: object) -> GeneratedRun:
    settings = {"success": TWICE, "passes": 2, "curve_points": 2, "videos": 0, "extra": {"stream": "twice"}}
    return GeneratedRun(**(settings | more))  # type: ignore[arg-type]


def test_each_pass_is_shaded_outlined_and_counted(tmp_path: Path) -> None:
    page = ParsedPage(write_report([twice().write(tmp_path / "run")]))
    text = page.text("")
    assert "3 tasks learnt one after another in 6 experiences, some more than once" in text
    assert (
        "forgotten beyond chance (Fisher's exact test, Holm's correction for 2 tests): drawer-open (100 % → 10 %)"
        in text
    )  # since it was learnt the last time
    bands = [attributes for attributes in page.all("rect") if attributes.get("class") == "learning"]
    assert len(bands) == 2 * len(TASKS)
    taught = [attributes for attributes in page.all("td") if "taught" in (attributes.get("class") or "")]
    assert len(taught) == 6
    metrics = page.text("metrics")
    # By position: (.9 + .8 + .6 + 1 + .9) learnt, (.1 + .8 + .7 + .1 + .8) left, the last one has just been learnt.
    assert f"cw_forgetting ↓: {(4.2 - 2.5) / 6:.3f} [" in metrics
    assert f"{HEADLINE_FORGETTING} ↓: {(4.2 - 2.5) / 5:.3f} [" in metrics


def test_an_unfinished_run_shades_what_it_has_learnt(tmp_path: Path) -> None:
    part = twice(success=TWICE[:4], status="running")
    page = ParsedPage(write_report([twice().write(tmp_path / "a"), part.write(tmp_path / "b")]))
    bands = [attributes for attributes in page.all("rect") if attributes.get("class") == "learning"]
    assert len(bands) == 2 * len(TASKS)


def test_a_comparison_has_forward_transfer_if_an_independent_run_is_there(tmp_path: Path) -> None:
    runs = [twice().write(tmp_path / "run"), independent(curve_points=2, videos=0).write(tmp_path / "alone")]
    names = ["cw_performance", "cw_forgetting", "cw_forward_transfer"]
    found = {group["label"]: group["metrics"] for group in json.loads(compare(runs, names, "json"))}
    assert all(math.isfinite(found["sequential"][name]["value"]) for name in names)
    assert found["independent"]["cw_forward_transfer"]["value"] is None


def test_the_forgetting_that_is_shown_first_is_the_one_without_bias(tmp_path: Path) -> None:
    runs = [GeneratedRun(videos=0).write(tmp_path / "s"), experience_replay(videos=0).write(tmp_path / "er")]
    page = ParsedPage(write_report(runs))
    assert "just after learning − end, old tasks (simple_recipe_nbt)" in page.text("comparison")
    head, first, _ = compare(runs).splitlines()[:3]
    assert head.split()[:6] == ["method", "seeds", "final_average", "↑", "simple_recipe_nbt", "↓"]
    assert first.split()[0] == "er" and " 0.025 [" in first  # (1 - .9 + .85 - .9) / 2


def test_a_metric_without_interval_says_so_in_reports_and_comparisons(tmp_path: Path) -> None:
    run = GeneratedRun(videos=0).write(tmp_path / "s")
    metrics = ParsedPage(write_report([run])).text("metrics")
    assert "chaudhry_forgetting ↓: 0.825 no interval: too high" in metrics
    assert "Bias: too high: a maximum of noisy values; without any forgetting it is above 0." in metrics
    assert "0.825 no interval: too high" in compare([run], ["chaudhry_forgetting"])
    (group,) = json.loads(compare([run], ["chaudhry_forgetting"], "json"))
    assert group["metrics"]["chaudhry_forgetting"]["low"] is None
    assert group["metrics"]["chaudhry_forgetting"]["why_no_interval"].startswith("too high: ")


def test_the_best_of_many_noisy_values_is_no_forgetting(tmp_path: Path) -> None:
    """Learnt to 60 %, once 95 % by chance, 55 % at the end: lost are the 5 points since it was learnt."""
    success = ((0.6, None, None), (0.95, 0.9, None), (0.55, 0.9, 0.9))
    page = ParsedPage(write_report([GeneratedRun(success=success, videos=0).write(tmp_path / "s")]))
    assert "no drop of a single task is beyond chance" in page.text("")
