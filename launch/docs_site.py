"""What the site has beside docs/*.md; MkDocs calls these functions (``hooks`` in mkdocs.yml).

The home page is the README. Each method of docs/methods.md gets a page. So does each public module (its docstrings),
and each file of the repository that a page links to (its text). Formulas become MathML, which needs no script.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

TOP = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that are files at the top of the repository."""

API = {
    "From Python": ["vla_cl.library", "vla_cl.training.learning", "vla_cl.evaluation.plan", "vla_cl.metrics"],
    "What one can add": [
        "vla_cl.interfaces.method",
        "vla_cl.interfaces.model",
        "vla_cl.interfaces.data",
        "vla_cl.interfaces.family",
        "vla_cl.interfaces.evaluation",
        "vla_cl.interfaces.simulation",
        "vla_cl.evaluation.held_out",
    ],
    "Nouns": ["vla_cl.types", "vla_cl.scores", "vla_cl.random_numbers", "vla_cl.metrics.definitions"],
}
"""Modules whose docstrings become pages, by heading."""

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash"}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)|(!\[[^\]]*\]\()([^()\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$|``.+?``|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    methods = [{"Which there are": "paradigms.md"}, {"What works, what it costs": "methods.md"}]
    methods += [{title: uri} for title, uri, _ in _methods()]
    api: list[Any] = ["api/index.md"]
    for heading, modules in API.items():
        api.append({heading: [{module: f"api/{module}.md"} for module in modules]})
    for entry in config.nav or []:
        entry |= {"Methods": methods} if "Methods" in entry else {"API": api} if "API" in entry else {}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {uri: (ROOT / name).read_text() for uri, name in TOP.items()}
    pages["methods.md"], pages["api/index.md"] = _method_index(), _api_index()
    pages |= {uri: text for _, uri, text in _methods()}
    pages |= {f"api/{module}.md": f"# `{module}`\n\n::: {module}\n" for module in _modules()}
    for uri, text in pages.items():
        if (old := files.get_file_from_path(uri)) is not None:
            files.remove(old)
        files.append(File.generated(config, uri, content=text))
    for path in sorted({target for file in files.documentation_pages() for target in _sources(file)}):
        page = File.generated(
            config, _source_uri(path), content=_source_page(path), inclusion=InclusionLevel.NOT_IN_NAV
        )
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        page.meta["search"] = {"exclude": True}
        return markdown

    def replaced(found: re.Match[str]) -> str:
        label, target, image, shown = found.groups()
        return f"[{label}]({_link(target, uri)})" if target else f"{image}{_link(shown, uri)})"

    parts = _FENCE.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(replaced, part) for number, part in enumerate(parts))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas of `pymdownx.arithmatex` as MathML, which browsers draw themselves."""
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda found: _math(found[1], "inline"), html)
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda found: _math(found[1], "block"),
        html,
        flags=re.DOTALL,
    )


def _math(formula: str, display: str) -> str:
    return convert(unescape(formula).strip(), display=display)


# --- methods ----------------------------------------------------------------------------------------------------------


def _sections() -> list[tuple[str, str]]:
    """Heading and text of every section of docs/methods.md; the first has no heading."""
    head, *rest = re.split(r"^## ", (DOCS / "methods.md").read_text(), flags=re.MULTILINE)
    return [("", head), *((part.split("\n", 1)[0], part.split("\n", 1)[1]) for part in rest)]


def _is_method(text: str) -> bool:
    return "\n- source: " in text


def _methods() -> Iterator[tuple[str, str, str]]:
    """Title, page and text of every method."""
    for title, text in _sections():
        if _is_method(text):
            short = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            yield title, f"methods/{short}.md", f"# {title}\n{text}"


def _method_index() -> str:
    """Tables, and links to the methods; a preset's name leads to its method."""
    pages = {
        name: uri for _, uri, text in _methods() for name in re.findall(r"^- `method=(\w+)`", text, flags=re.MULTILINE)
    }
    kept = "".join(f"## {title}\n{text}" if title else text for title, text in _sections() if not _is_method(text))

    def linked(found: re.Match[str]) -> str:
        uri = pages.get(found[2].rsplit("-", 1)[0], pages.get(found[2]))
        return f"| [{found[1]}]({uri}) |" if uri else found[0]

    return re.sub(r"^\| (`([\w-]+)`) \|", linked, kept, flags=re.MULTILINE)


# --- docstrings -------------------------------------------------------------------------------------------------------


def _modules() -> list[str]:
    return [module for modules in API.values() for module in modules]


def _api_index() -> str:
    """A line for each module, from its docstring."""
    lines = ["# API", "", "From the docstrings. [From Python](../python.md) shows how the parts go together.", ""]
    for heading, modules in API.items():
        lines += [f"## {heading}", "", "| module | |", "|---|---|"]
        lines += [f"| [`{module}`]({module}.md) | {_first_sentence(module)} |" for module in modules] + [""]
    return "\n".join(lines)


def _first_sentence(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split()).replace("|", "\\|")


# --- links ------------------------------------------------------------------------------------------------------------


def _origin(uri: str) -> Path:
    """The file that a page's links are relative to."""
    return ROOT / TOP[uri] if uri in TOP else DOCS / ("methods.md" if uri.startswith("methods/") else uri)


def _targets(uri: str, text: str) -> Iterator[tuple[str, Path, str]]:
    """Every relative link outside code: as written, what it leads to, and the part behind ``#``."""
    for part in _FENCE.split(text)[::2]:
        for found in _LINK.finditer(part):
            written = found[2] or found[4]
            if not re.match(r"[a-z]+:|#", written):
                path, _, anchor = written.partition("#")
                yield written, Path(os.path.normpath(_origin(uri).parent / path)), anchor


def _sources(file: File) -> Iterator[Path]:
    """Files and folders of the repository, outside docs, that a page links to."""
    if file.src_uri.startswith(("api/", "source/")):
        return
    for _, path, _ in _targets(file.src_uri, file.content_string):
        if path.exists() and not path.is_relative_to(DOCS) and str(path.relative_to(ROOT)) not in TOP.values():
            yield path


def _source_uri(path: Path) -> str:
    return f"source/{path.relative_to(ROOT)}.md"


def _source_page(path: Path) -> str:
    """The text of a file, or of every file of a folder."""
    listed = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in LANGUAGES)
    parts = [f"# `{path.relative_to(ROOT)}`\n"]
    for file in listed:
        if len(listed) > 1:
            parts.append(f"## `{file.relative_to(path)}`\n")
        parts.append(f"````{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text().rstrip()}\n````\n")
    return "\n".join(parts)


def _link(written: str, uri: str) -> str:
    """A link of a page's origin, as a link between pages of the site."""
    if re.match(r"[a-z]+:|#", written) or uri.startswith("api/"):
        return written
    path, _, anchor = written.partition("#")
    target = Path(os.path.normpath(_origin(uri).parent / path))
    if not target.exists():
        # A page that is made for the site only (api/index.md), or a mistake, which MkDocs names.
        return written
    tops = {ROOT / name: page for page, name in TOP.items()}
    inside = target.is_relative_to(DOCS)
    to = target.relative_to(DOCS).as_posix() if inside else tops.get(target) or _source_uri(target)
    return os.path.relpath(to, PurePosixPath(uri).parent) + (f"#{anchor}" if anchor else "")
