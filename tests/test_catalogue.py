import json
from pathlib import Path

import pytest

from vla_cl.cli.main import main
from vla_cl.config.compose import choices
from vla_cl.tools import catalogue
from vla_cl.types import ConfigurationError, MethodCard

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"


CARD = {"title": "Mine", "equation": "x", "source": "me", "step": "1", "memory": "none", "follows": "nothing"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"family": "replay"}, r"'Mine' gives family='replay', which is called paradigm now; write paradigm= with one"),
        ({"paradigm": "reply"}, r"'Mine' needs paradigm= with one of 'reference', .*got 'reply'"),
        ({}, r"'Mine' needs paradigm= with one of .*got None"),
    ],
)
def test_a_card_without_a_known_paradigm_is_refused(given, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        MethodCard(**CARD, **given)


def test_every_method_is_listed_and_has_a_card(capsys):
    assert main(["methods"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(listed) == choices("method")
    assert all(entry.kind.card for entry in catalogue.entries())


def test_the_page_is_what_the_code_says():
    """But for the measured table, which only a bench can write."""
    written = PAGE.read_text()
    fresh = catalogue.text()
    begin, end = written.find("## What a step costs"), written.find("## Sequential fine-tuning")
    assert (written if begin < 0 else written[:begin] + written[end:]) == fresh


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in catalogue.entries()}


@pytest.fixture(scope="module")
def page(entries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "entries", lambda: list(entries.values()))
        return catalogue.text()


@pytest.mark.parametrize("name", choices("method"))
def test_each_method_and_each_preset_says_what_it_follows(entries, page, name):
    """The method in its card, the preset in the comment that its yaml begins with; the page shows both."""
    entry = entries[name]
    card = entry.kind.card
    written = (PAGE.parents[1] / "conf" / "method" / f"{entry.name}.yaml").read_text()
    comment = " ".join(line[1:].strip() for line in written.split("\nname:")[0].splitlines())
    assert len(card.follows.split()) > 4
    assert len(comment.split()) > 4
    lines = page.splitlines()
    assert f"- what we follow: {card.follows}" in lines
    assert any(line.startswith(f"- `method={entry.name}`: {comment} Settings: ") for line in lines)
    assert "\n" not in card.follows


def test_in_the_list_every_preset_can_be_told_from_the_others(capsys):
    assert main(["methods"]) == 0
    words = {line.split()[0]: line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()}
    assert len(set(words.values())) == len(words) == len(choices("method"))
    assert words["ewc"] == "Elastic weight consolidation (EWC)"
    assert words["ewc_clog"] == "EWC with the settings of CLoG's code"


def section(page, title):
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_keeps_code_font_and_lists_and_names_no_class(page):
    assert "`block` is that for any network" in section(page, "Half fine-tuning (HFT)")
    assert "\n- a model of probabilities (" in section(page, "Confidence-aware moving average (CAMA)")
    assert " * " not in page
    for name in ("Ability.", "MomentumFilteredAdamW", "``"):
        assert name not in page


def test_a_method_that_builds_on_another_of_its_file_speaks_for_itself(page):
    assert "Generative replay: learn from samples" in section(page, "Generative replay, LAMOL")
    assert "Generative replay:" not in section(page, "Generative distillation")
    assert "Experience replay (ER): learn from remembered samples" in section(page, "Experience replay (ER)")


def test_measured_figures_are_put_into_a_table(tmp_path):
    row = {
        "machine": {"cpu": "a processor"},
        "ratio": {"median": 1.5, "low": 1.4, "high": 1.6},
        "others": {"measured over theory": {"median": 1.01, "low": 1.0, "high": 1.02}},
        "figures": [
            {"who": "theory over plain", "value": 1.48, "unit": "x"},
            {"who": "kept", "value": 8e6, "unit": "bytes"},
            {"who": "kept in theory", "value": 8e6, "unit": "bytes"},
        ],
    }
    stored = tmp_path / "methods.json"
    stored.write_text(json.dumps({"step-ewc": row, "step-gem": {**row, "cannot_run": "it was stopped"}}))
    page = catalogue.text(stored)
    assert "| `ewc` | 1.50 [1.40, 1.60] | 1.48 | 1.01 [1.00, 1.02] | 8.0 MB | 8.0 MB |" in page
    assert "it was stopped" in page
    stored.write_text(json.dumps({"step-gem": {**row, "cannot_run": "no\n| room | `left"}}))
    written = catalogue.text(stored)
    assert "| `gem` | - | - | - | - | no \\| room \\| `left |\n" in written
    assert "a processor" in page


def test_a_file_that_the_bench_did_not_write_is_refused(tmp_path):
    other = tmp_path / "other.json"
    other.write_text("[1]")
    with pytest.raises(ConfigurationError, match="holds list, expected an object"):
        catalogue.text(other)
    other.write_text('{"step-er": 3}')
    with pytest.raises(ConfigurationError, match="not what vla-cl bench methods stores"):
        catalogue.text(other)
    other.write_text("{}")
    with pytest.raises(ConfigurationError, match="holds no row"):
        catalogue.text(other)
