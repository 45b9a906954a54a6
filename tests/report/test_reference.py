"""Which independent run is the reference of forward transfer, and that pages and tables name it."""

import itertools
import json
import math

import pytest
from generated_run import TASKS, GeneratedRun, independent, joint
from parsed_page import ParsedPage

from vla_cl.metrics.reasons import NO_REFERENCE
from vla_cl.report import write_report
from vla_cl.report.seed_groups import compare
from vla_cl.types import ConfigurationError

NAME = "cw_forward_transfer"
RUN = ((0.8, None, None), (0.2, 0.6, None), (0.0, 0.2, 1.0))
PLAIN, OTHER = (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)


def alone(reached):
    """Success of an independent run: the diagonal."""
    return tuple(tuple(rate if row == column else None for column in range(3)) for row, rate in enumerate(reached))


def transfer(reached):
    """Continual World's forward transfer of `RUN`; each curve rises evenly from 0, so its mean is half its end."""
    pairs = zip((0.8, 0.6, 1.0), reached, strict=True)
    return sum((own / 2 - ref / 2) / (1 - ref / 2) for own, ref in pairs) / 3


def write(folder, make=GeneratedRun, seed=7, **more):
    extra = {"seeds": {"train_seed": seed, "eval_seed": 11}, **more.pop("extra", {})}
    run = make(**({"name": folder.name, "curve_points": 2, "videos": 0, "extra": extra} | more)).write(folder)
    points = more.get("curve_points", 2)
    told = f"train_seed: {seed}\nevaluation:\n  curve_points: {points}\n"
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + told)
    return run


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", success=RUN)


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "plain", independent, success=alone(PLAIN))


def found(runs, label="sequential"):
    return next(group for group in json.loads(compare(runs, [NAME], "json")) if group["label"].startswith(label))


def value(runs):
    return found(runs)["metrics"][NAME]["value"]


@pytest.mark.parametrize(
    "other",
    [
        {"method": "packnet"},
        {"steps_per_experience": 6},
        {"seed": 8},
        {"extra": {"format": 2}},
        {"status": "running"},
        {"curve_points": 0},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_the_order_the_plain_run_that_fits_is_the_reference(tmp_path, run, plain, other):
    second = write(tmp_path / "another", independent, success=alone(OTHER), **other)
    for order in itertools.permutations([run, plain, second]):
        page = ParsedPage(write_report(order, tmp_path / "page.html")).text("metrics")
        assert f"{transfer(PLAIN):.3f} no interval: no counts" in page and f"{transfer(OTHER):.3f} no" not in page
        if "status" in other:
            continue  # comparisons take finished runs only
        assert value(order) == pytest.approx(transfer(PLAIN))
        assert found(order)["references"] == [str(plain)]


def test_page_and_table_name_the_reference(tmp_path, run, plain):
    note = f"{NAME} of sequential is measured against independent ({tmp_path.name}/plain)."
    assert note in ParsedPage(write_report([run, plain])).text("metrics")
    assert f"note: {note}" in compare([run, plain], [NAME])
    assert "is measured against" not in compare([run, plain])  # none of the metrics that are shown


def test_the_reference_with_the_same_settings_comes_before_one_with_the_same_seed(tmp_path, run):
    far = write(tmp_path / "far", independent, success=alone(OTHER))
    (far / "config.yaml").write_text((far / "config.yaml").read_text().replace("0.0005", "0.1"))
    near = write(tmp_path / "near", independent, success=alone(PLAIN), seed=8)
    assert value([run, far, near]) == value([run, near, far]) == pytest.approx(transfer(PLAIN))


def test_of_two_equally_good_references_that_differ_it_is_said_which_was_taken(tmp_path, run):
    second = write(tmp_path / "b", independent, success=alone(OTHER), seed=9)
    first = write(tmp_path / "a", independent, success=alone(PLAIN), seed=8)
    for order in ([run, second, first], [first, second, run]):
        assert value(order) == pytest.approx(transfer(PLAIN))
        table = compare(order, [NAME])
        assert f"measured against independent (a) ({tmp_path.name}/a); independent (b) would fit as well" in table
        assert "independent (b) would fit as well" in ParsedPage(write_report(order)).text("metrics")


def test_two_references_that_measured_the_same_need_no_word(tmp_path, run):
    both = [write(tmp_path / name, independent, success=alone(PLAIN), seed=seed) for name, seed in (("a", 8), ("b", 9))]
    assert "would fit as well" not in compare([run, *both], [NAME])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (
            {"method": "packnet"},
            "independent packnet learns with packnet, and the reference must be plain (method=sequential)",
        ),
        (
            {"steps_per_experience": 6},
            "independent does not fit: the learning curve of metaworld/drawer-open covers 600 steps, "
            "that of the reference 6",
        ),
        ({"extra": {"format": 2}}, "independent was written by another version of vla-cl, which may train otherwise"),
        ({"curve_points": 0}, "independent does not fit: the reference has no learning curve of metaworld/drawer-open"),
    ],
)
def test_a_run_that_is_no_reference_is_not_used_and_it_is_said_why(tmp_path, run, other, why):
    second = write(tmp_path / "another", independent, success=alone(OTHER), **other)
    group = found([second, run])
    assert group["metrics"][NAME]["value"] is None and group["references"] == []
    assert group["metrics"][NAME]["why_undefined"] == why
    assert f"note: {NAME} of sequential: not defined, {why}." in compare([second, run], [NAME]).replace(" format=1", "")
    assert f"{why}." in ParsedPage(write_report([second, run])).text("metrics")


def test_without_any_independent_run_the_reason_is_that(tmp_path, run):
    together = write(tmp_path / "joint", joint, curve_points=0)
    assert found([run, together])["metrics"][NAME]["why_undefined"] == NO_REFERENCE
    page = ParsedPage(write_report([run, together])).text("metrics")
    assert f"sequential: cw_forward_transfer : {NO_REFERENCE}." in page


def test_an_independent_run_transfers_nothing(tmp_path, plain):
    second = write(tmp_path / "another", independent, method="packnet", success=alone(OTHER))
    assert found([plain, second], "independent packnet")["metrics"][NAME]["value"] is None
    assert math.isfinite(transfer(PLAIN))


def test_a_comparison_says_independent_and_joint_as_the_report_does(tmp_path, run, plain):
    runs = [
        *(run, plain, write(tmp_path / "p", method="packnet", success=RUN)),
        write(tmp_path / "pi", independent, method="packnet", success=alone(OTHER)),
        write(tmp_path / "ej", joint, method="er", curve_points=0),
        write(tmp_path / "j", joint, curve_points=0),
    ]
    expected = {"sequential", "independent", "packnet", "independent packnet", "joint er", "joint"}
    assert {group["label"] for group in json.loads(compare(runs, style="json"))} == expected
    title = ParsedPage(write_report(runs)).headings[0]
    assert set(title.removesuffix(" on metaworld_demo").split(", ")) == expected


def test_runs_of_another_format_are_no_seeds_of_the_same_method(tmp_path):
    runs = [
        write(tmp_path / f"s{seed}", seed=seed, success=RUN, extra={"format": made, "seeds": {"train_seed": seed}})
        for seed, made in ((0, 1), (1, 2), (2, 2))
    ]
    groups = {group["label"]: group for group in json.loads(compare(runs, style="json"))}
    assert {label: group["seeds"] for label, group in groups.items()} == {
        "sequential format=1": [0],
        "sequential format=2": [1, 2],
    }
    assert groups["sequential format=2"]["format"] == 2
    sentence = "The runs were written by different versions of vla-cl (run formats 1 and 2)"
    assert f"note: {sentence}" in compare(runs)
    assert sentence in ParsedPage(write_report(runs)).text("")
    with pytest.raises(ConfigurationError, match="train_seed=2"):
        compare([*runs, write(tmp_path / "again", seed=2, success=RUN, extra={"format": 2})])


def test_a_run_of_the_new_format_is_reported(tmp_path):
    page = ParsedPage(write_report([write(tmp_path / "run", success=RUN, extra={"format": 2})]))
    assert "Metrics" in page.headings


def test_no_value_is_minus_zero_in_the_json(tmp_path):
    same = ((0.5, None, None), (0.5, 0.5, None), (0.5, 0.5, 0.5))
    text = compare([write(tmp_path / "run", success=same)], ["gem_bwt", "iscil_bwt"], "json")
    assert '"value": 0.0' in text and '"value": -0.0' not in text


def test_several_tasks_per_experience_are_not_one_after_another(tmp_path):
    a, b, c = TASKS
    stream = [{"name": name, "tasks": tasks} for name, tasks in (("ab", [a, b]), ("bc", [b, c]), ("a", [a]))]
    success = ((0.8, 0.8, None), (0.2, 0.6, 0.6), (0.9, 0.2, 0.4))
    folder = write(tmp_path / "run", success=success, curve_points=0, extra={"experiences": stream})
    text = ParsedPage(write_report([folder])).text("")
    assert "3 tasks learnt one after another in 3 experiences, some more than once." in text
    single = write(tmp_path / "two", success=success[:2], curve_points=0, extra={"experiences": stream[:1]})
    assert "3 tasks learnt in 1 experience." in ParsedPage(write_report([single])).text("")


def test_an_independent_run_of_several_tasks_at_once_says_what_it_reached(tmp_path):
    a, b, c = TASKS
    stream = [{"name": "ab", "tasks": [a, b]}, {"name": "c", "tasks": [c]}]
    success = ((0.8, 0.4, None), (None, None, 0.9))
    folder = write(tmp_path / "run", independent, success=success, curve_points=0, extra={"experiences": stream})
    matrix = json.loads((folder / "matrix.json").read_text()) | {"stream": [[a, b], [c]]}
    (folder / "matrix.json").write_text(json.dumps(matrix))
    text = ParsedPage(write_report([folder])).text("")
    assert "independent , a reference (one model per experience), reaches 70 %" in text
