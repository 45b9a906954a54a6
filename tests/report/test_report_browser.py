"""The report in a real browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from generated_run import GeneratedRun
from headless_browser import NAMES, Browser, find_browser

from vla_cl.report import write_report

pytestmark = pytest.mark.browser

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        sentence = f"no browser: none of {', '.join(NAMES)} is on the PATH; install Debian's chromium"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with Browser(executable) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, comparison: Path) -> Browser:
    browser.requests.clear()
    browser.complaints.clear()
    browser.resize(1200)
    browser.open(comparison)
    return browser


def test_nothing_is_requested_and_nothing_goes_wrong(page: Browser, comparison: Path) -> None:
    page.wait_for("[...document.querySelectorAll('video')].every(video => video.readyState >= 1)")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [comparison.as_uri()]


def test_videos_decode(page: Browser) -> None:
    page.wait_for("[...document.querySelectorAll('video')].every(video => video.readyState >= 1)")
    assert page.evaluate("document.querySelectorAll('video').length") == 18
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.videoWidth === 128 && v.duration > 1)")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.error === null)")
    assert page.evaluate(
        "[...document.querySelectorAll('img.poster')].every(i => i.complete && i.naturalWidth === 128)"
    )


def cells_of(run: int) -> str:
    return f"document.querySelectorAll('.heat-map')[{run}].querySelectorAll('td.cell')"


def test_matrix_is_shown_with_numbers_and_colours(page: Browser) -> None:
    cells = page.evaluate(f"[...{cells_of(0)}].map(cell => cell.innerText.split('\\n')[0])")
    assert [cell.replace("\u00a0", " ") for cell in cells] == ["100 %", "95 %", "85 %", "90 %", "90 %", "95 %"]
    colours = page.evaluate(f"[...{cells_of(1)}].map(cell => getComputedStyle(cell).backgroundColor)")
    assert len(set(colours)) == 7  # 0, 0, 5 | 95 | 20, 90 | 5, 15, 100


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_page_never_scrolls_sideways(width: int, page: Browser) -> None:
    page.resize(width)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate(OVERFLOW) == 0
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate(OVERFLOW) == 0


def test_long_names_and_many_tasks_fit_a_phone(browser: Browser, tmp_path: Path) -> None:
    tasks = tuple(f"metaworld/{'long-task-name-' * 5}{number}" for number in range(6))
    success = tuple(tuple(1.0 if column <= row else None for column in range(6)) for row in range(6))
    run = GeneratedRun(tasks=tasks, success=success, videos=0, name="n" * 120, method="m" * 120, error="x" * 400)
    browser.resize(390)
    browser.open(write_report([run.write(tmp_path / "run")]))
    assert browser.evaluate(OVERFLOW) == 0


def test_four_runs_fit_a_window_and_a_sheet_with_all_columns_of_the_metrics(browser: Browser, tmp_path: Path) -> None:
    lost = ((0.95, None, None), (0.2, 0.9, None), (0.05, 0.15, 1.0))
    runs = [
        GeneratedRun(name=name, method=name, success=lost, curve_points=4, videos=0).write(tmp_path / name)
        for name in ("sequential", "packnet", "experience_replay", "distillation")
    ]
    report = write_report(runs)
    cut = "document.querySelector('table.metrics').getBoundingClientRect().right - document.querySelector('main')"
    browser.resize(1300)
    browser.open(report)
    assert browser.evaluate(f"{cut}.getBoundingClientRect().right") <= 0
    browser.resize(680)
    browser.send("Emulation.setEmulatedMedia", media="print")
    right = browser.evaluate("document.querySelector('table.metrics').getBoundingClientRect().right - innerWidth")
    browser.send("Emulation.setEmulatedMedia", media="")
    assert right <= 1


def test_dark_mode_changes_page_and_plots(page: Browser) -> None:
    def colours() -> list[str]:
        style = "getComputedStyle(document.querySelector('{}')).{}"
        return page.evaluate(f"[{style.format('body', 'backgroundColor')}, {style.format('.line', 'stroke')}]")

    light = colours()
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = colours()
    page.send("Emulation.setEmulatedMedia", features=[])
    assert light[0] != dark[0] and light[1] != dark[1]


def test_print_shows_posters_and_cuts_nothing_off(page: Browser) -> None:
    page.resize(680)  # the printable width of A4 at 15 mm margins
    page.send("Emulation.setEmulatedMedia", media="print")
    shown = page.evaluate(
        "['video', 'img.poster'].map(kind => getComputedStyle(document.querySelector('.video ' + kind)).display)"
    )
    overflow = page.evaluate(OVERFLOW)
    too_wide = page.evaluate(
        "[...document.querySelectorAll('table, svg, img')]"
        ".filter(element => element.getBoundingClientRect().right > innerWidth + 1).length"
    )
    page.send("Emulation.setEmulatedMedia", media="")
    assert shown == ["none", "block"]
    assert overflow == 0 and too_wide == 0
    assert page.pdf().startswith(b"%PDF")
