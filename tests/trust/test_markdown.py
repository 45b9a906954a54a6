"""Whatever stands in a name, a table in Markdown keeps its cells, and they say the name."""

import pytest
from parsed_markdown import Cells

from vla_cl.trust.markdown import code, row

HOSTILE = [
    "er", "a|b", "a\\|b", "a\\", "|", "`", "``", "`a`", "a``b`c", "`|`", "a\\`|`\\", " a ", "<b>x</b>",
    "*a* _b_ [c](d)", "&#124;", "$x$", "--- | ---", "# a", "name=${x:y}", "\u4f60\u597d|", "a  b",
]  # fmt: skip
LINES = [("a\nb", "a b"), ("a\r\nb", "a  b"), ("x | y\n| --- |\nz", "x | y | --- | z"), ("a\u2028b", "a\\x2028b"),
         ("a\x1b[31mb", "a\\x1b[31mb")]  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), [*((name, name) for name in HOSTILE), *LINES])
def test_a_name_in_code_font_is_shown_as_it_is(name, shown):
    assert Cells(code(name)).code == [shown]
    page = "\n".join([row(["method", "x"]), row(["---"] * 2), row([code(name), "1 [0, 2]"]), row([code("after"), "2"])])
    found = Cells(page)
    assert found.rows == [["method", "x"], [shown, "1 [0, 2]"], ["after", "2"]]
    assert found.code == [shown, "after"]


@pytest.mark.parametrize("text", ["a|b", "a\n| b |\nc", "lacks `features` | and more", "a\\|b"])
def test_text_in_a_row_stays_in_its_cell(text):
    found = Cells("\n".join([row(["method", "x"]), row(["---"] * 2), row(["a", text]), row(["b", "c"])]))
    assert [len(cells) for cells in found.rows] == [2, 2, 2]
    assert found.rows[-1] == ["b", "c"]


def test_what_is_plain_is_written_plainly():
    assert row([code("er"), "1.0 [0.9, 1.0]", "gem_bwt \u2191"]) == "| `er` | 1.0 [0.9, 1.0] | gem_bwt \u2191 |"
    assert code("") == ""
