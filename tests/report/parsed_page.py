"""Reads a report the way a test wants to ask about it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br"}


class ParsedPage(HTMLParser):
    """Text per section, every element's attributes, and elements that were not closed properly."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, list[str]] = {"": []}
        self.headings: list[str] = []
        self.badly_nested: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.badly_nested += [tag for tag, _ in self._open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes).get("id") or "" if tag == "section" else self._section()))
        if label := dict(attributes).get("data-label"):  # a narrow window shows it in front of the cell
            self.sections.setdefault(self._section(), []).append(f"{label}:")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.badly_nested.append(tag)
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] not in {"style", "script"}:
            self.sections.setdefault(self._section(), []).append(data)
            if self._open[-1][0] in {"h1", "h2"}:
                self.headings.append(data)

    def _section(self) -> str:
        return self._open[-1][1] if self._open else ""

    def text(self, section: str | None = None) -> str:
        """Text of a section (by id), of the head of the page (""), or of all; spaces are made plain and single."""
        chosen = self.sections.values() if section is None else [self.sections.get(section, [])]
        parts = [part for texts in chosen for part in texts]
        return " ".join(" ".join(parts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]
