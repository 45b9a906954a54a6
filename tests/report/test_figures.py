"""What goes into a paper: SVG that parses, CSV that reads back, LaTeX that is whole whatever names there are."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from generated_run import GeneratedRun, experience_replay, joint

from vla_cl.cli.main import main
from vla_cl.report import write_report
from vla_cl.report.paper_tables import latex
from vla_cl.types import ConfigurationError

NASTY = r"a_b%$#&{}~^\x<y>|"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tasks = (f"metaworld/{NASTY}", "metaworld/button-press-topdown", "metaworld/window-close")
    runs = [
        GeneratedRun(tasks=tasks, curve_points=4, videos=0),
        experience_replay(tasks=tasks, curve_points=4, videos=0, name="er-7"),
        experience_replay(tasks=tasks, videos=0, name="er-8", extra={"seeds": {"train_seed": 8, "eval_seed": 11}}),
        joint(tasks=tasks, videos=0),
    ]
    write_report([run.write(tmp_path / run.name) for run in runs], figures=tmp_path / "figures")
    return tmp_path / "figures"


def test_every_figure_is_there_once(folder: Path) -> None:
    names = sorted(file.name for file in folder.iterdir())
    assert names == [
        *("matrix-er.svg", "matrix-er.tex", "matrix-joint.svg", "matrix-joint.tex"),
        *("matrix-sequential.svg", "matrix-sequential.tex", "matrix.csv", "metrics.csv", "metrics.tex"),
        *("scores-a-b-x-y.svg", "scores-button-press-topdown.svg", "scores-window-close.svg", "scores.svg"),
        "training.svg",
    ]


def test_a_figure_is_whole_and_needs_nothing_else(folder: Path) -> None:
    for file in folder.glob("*.svg"):
        root = ElementTree.parse(file).getroot()
        assert root.tag == f"{SVG}svg"
        width, height = (float(root.attrib[name]) for name in ("width", "height"))
        assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
        text = file.read_text()
        assert "var(" not in text and "color-mix" not in text and "href" not in text  # other programs draw it as well
        for inner in root.iter(f"{SVG}svg"):  # the panels lie inside the sheet
            if inner is not root:
                assert float(inner.attrib["x"]) + float(inner.attrib["width"]) <= width + 0.1
                assert float(inner.attrib["y"]) + float(inner.attrib["height"]) <= height + 0.1
    assert NASTY in "".join(ElementTree.parse(folder / "matrix-er.svg").getroot().itertext())


def test_all_panels_and_the_legend_are_in_one_sheet(folder: Path) -> None:
    root = ElementTree.parse(folder / "scores.svg").getroot()
    texts = [element.text for element in root.findall(f"{SVG}text")]
    assert texts == [
        *("er, mean and range of 2 seeds", "sequential", "joint"),
        *(NASTY, "button-press-topdown", "window-close"),
    ]


def rows_of(file: Path) -> list[list[str]]:
    """The cells of a table, after its structure was looked at."""
    lines = file.read_text().splitlines()
    assert lines[0].startswith("% ") and r"\usepackage{booktabs}" in lines[0]
    begin = re.fullmatch(r"\\begin\{tabular\}\{(l[r]+)\}", lines[1])
    assert begin is not None
    assert (lines[2], lines[4], lines[-2], lines[-1]) == (
        *(r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"),
    )
    rows = [lines[3], *lines[5:-2]]
    assert all(row.endswith(r" \\") for row in rows)
    cells = [re.split(r"(?<!\\)&", row[:-3]) for row in rows]
    assert {len(row) for row in cells} == {len(begin[1])}
    bare = "".join("".join(row) for row in cells)
    bare = re.sub(r"\\(?:texttt|small|uparrow|downarrow|text\w+|ldots)|\\[{}%&$#_]", "", bare)
    assert not re.search(r"[\\%#_&~^]", bare)  # nothing of a name is a command
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    return [[cell.strip() for cell in row] for row in cells]


def test_tables_for_latex_are_whole(folder: Path) -> None:
    head, *rows = rows_of(folder / "metrics.tex")
    assert [row[0] for row in rows] == ["er", "sequential", "joint"]
    assert [row[1] for row in rows] == ["2", "1", "1"]
    assert head[2] == r"\texttt{final\_average} $\uparrow$"
    assert rows[0][2] == "0.917"  # two seeds have no interval
    assert re.fullmatch(r"0\.400 \{\\small \[0\.\d+, 0\.\d+\]\}", rows[1][2])
    head, *rows = rows_of(folder / "matrix-sequential.tex")
    assert head[1] == latex(NASTY)
    assert rows[0] == [f"after {latex(NASTY)}", "95", "--", "--"]


def test_every_character_of_a_name_is_shown_in_latex() -> None:
    assert latex("a_b & 50%") == r"a\_b \& 50\%"
    assert latex("\\x{y}$") == r"\textbackslash{}x\{y\}\$"
    assert latex("−0.5 [a, b]\n") == "$-$0.5 [a, b] "


def test_numbers_come_back_from_csv(folder: Path) -> None:
    with (folder / "matrix.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 6 + 6 + 6 + 3
    own = [cell for cell in cells if cell["method"] == "sequential" and cell["task"] == f"metaworld/{NASTY}"]
    assert [(cell["experience"], float(cell["score"]), cell["trials"]) for cell in own] == [
        *(("1", 0.95, "20"), ("2", 0.2, "20"), ("3", 0.05, "20")),
    ]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["metric"] == "final_average" and row["method"] == "er"]
    assert [row["seed"] for row in ends] == ["", "7", "8"]
    assert float(ends[0]["value"]) == pytest.approx(2.75 / 3)
    assert ends[0]["low"] == "" and float(ends[1]["low"]) < 2.75 / 3
    assert ends[0]["why_none"].startswith("two seeds")


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = GeneratedRun(videos=0).write(tmp_path / "run")
    assert main(["report", str(run), "--figures", str(tmp_path / "paper")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run / "report.html"), str(tmp_path / "paper")]
    assert (tmp_path / "paper" / "scores.svg").is_file()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    run = GeneratedRun(videos=0).write(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write the figures to"):
        write_report([run], figures=tmp_path / "file" / "figures")
    assert not (run / "report.html").exists()
