"""README and docs: links lead somewhere, Python runs, words are the field's, and the site builds without a network."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parsed_markdown import named_files, without_code

from vla_cl.config.compose import compose
from vla_cl.metrics import METRICS, ScoreMatrix, compute_all

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md"))
GENERATED = DOCS / "methods.md"  # its words are those of the code

OTHER_WORDS = {
    r"pictures?": "image",
    r"films?": "video",
    r"normalis\w+": "normalization",
    r"regularis\w+": "regularization",
    r"optimis\w+": "optimization",
    r"colour\w*": "color",
    r"behaviours?": "behavior",
    r"learnt": "learned",
}
"""What prose does not say, and what it says instead."""


def anchors(page):
    """What may stand behind ``#`` in a link to a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=lambda page: page.name)
def test_one_word_for_one_thing(page):
    prose = without_code(page.read_text())
    for word, better in OTHER_WORDS.items():
        found = re.findall(rf".*\b{word}\b.*", prose, re.IGNORECASE)
        assert not found, f"say {better!r}: {found}"


def test_the_readme_is_read_in_three_minutes():
    assert len(without_code((ROOT / "README.md").read_text()).split()) < 800


def test_the_table_of_metrics_is_complete():
    scores = np.array([[0.9, 0.1, 0.1], [0.4, 0.8, 0.2], [0.3, 0.5, 0.7]])
    names, curve = ("s/a", "s/b", "s/c"), np.array([[0.0, 0.1], [5.0, 0.5]])
    counts = np.full((3, 3), 20)
    matrix = ScoreMatrix(names, names, scores, counts, dict.fromkeys(names, curve), np.zeros(3), 10, 20)
    found = compute_all(matrix)
    expected = {
        metric.name: ("↑" if metric.direction == "higher" else "↓", "no" if np.isnan(found[metric.name].low) else "yes")
        for metric in METRICS
    }
    rows = re.findall(r"^\| `(\w+)` \| ([↑↓]) \| (yes|no) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert {name: (arrow, interval) for name, arrow, interval in rows} == expected


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in (ROOT / "README.md", DOCS / "python.md"):
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if "from_pretrained" not in code:  # of a checkpoint: below
                exec(re.sub(r"steps=\d+", "steps=2", code), {})
    assert (tmp_path / "outputs" / "dots-er" / "matrix.json").exists()


def test_a_policy_is_loaded_as_shown(tmp_path, monkeypatch):
    from lerobot.configs.types import FeatureType, PolicyFeature

    from vla_cl.policies.nano_vla.configuration_nano_vla import NanoVLAConfig
    from vla_cl.policies.nano_vla.modeling_nano_vla import NanoVLAPolicy

    inputs = {
        "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 16, 16)),
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
    }
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    config = NanoVLAConfig(input_features=inputs, output_features=outputs, image_size=16, device="cpu")
    monkeypatch.chdir(tmp_path)
    policy = NanoVLAPolicy(config)
    folder = tmp_path / "outputs/demo/er/checkpoints/last/pretrained_model"
    folder.mkdir(parents=True)
    policy.save_pretrained(folder)
    code = next(
        code
        for code in re.findall(r"^```python\n(.*?)^```", (DOCS / "python.md").read_text(), re.MULTILINE | re.DOTALL)
        if "from_pretrained" in code
    )
    found = {}
    exec(code, found)
    assert found["policy"].state_dict().keys() == policy.state_dict().keys()


def test_the_streams_shown_compose(tmp_path):
    for page in PAGES:
        for name, text in named_files(page.read_text()):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    for stream, suite in (("kitchen", "metaworld"), ("panda", "robosuite")):
        assert compose([f"stream={stream}"], folders=[tmp_path / "my_conf"])["suite"]["name"] == suite


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a broken link is an error."""
    pytest.importorskip("mkdocs", reason="needs the group docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site):
    for page in PAGES:
        name = "index" if page.name == "README.md" else page.stem.lower()
        assert (site / f"{name}.html").exists(), page
    ewc = (site / "methods" / "elastic-weight-consolidation-ewc.html").read_text()
    assert "<math" in ewc
    assert "method=ewc_libero" in ewc
    assert "edit_gradients" in (site / "api" / "vla_cl.interfaces.method.html").read_text()


def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:[^\s\">]+)|<link[^>]*\shref=\"?(https?:[^\s\">]+)")
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?https?:", sheet.read_text()), sheet
