"""What a reader of Markdown sees."""

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt


class Cells(HTMLParser):
    """The texts of the cells of the tables of a page, row by row, and of its code."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.code, self._within = [], [], []
        self.feed(MarkdownIt("commonmark").enable("table").render(page))

    def handle_starttag(self, tag, attrs):
        self._within.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "code":
            self.code.append("")

    def handle_endtag(self, tag):
        assert self._within.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self._within):
            self.rows[-1][-1] += data
        if "code" in self._within:
            self.code[-1] += data


def named_files(page):
    """Name and text of every block of code that is a whole file: its first line is a comment with a path."""
    for _, text in re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if name := re.match(r"# (my_\w+/\S+)\n", text):
            yield name[1], text


def without_code(page):
    """A page's prose: neither blocks of code nor what stands between backticks."""
    page = re.sub(r"^ *(`{3,}).*?^ *\1[^\n]*$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.+?``|`[^`]+`", "", page, flags=re.DOTALL)
