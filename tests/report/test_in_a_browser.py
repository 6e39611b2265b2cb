"""The report in a real browser without a network: console, keyboard, widths, colours, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hundredfold.report.write import write_report
from support.browser import CHROMEDRIVER, CHROMIUM, Browser, open_browser
from support.reported_runs import open_run

AXE = Path(__file__).parents[2] / ".venv-node" / "node_modules" / "axe-core" / "axe.min.js"
TAB, ENTER = "\ue004", "\ue007"  # as WebDriver names the keys

pytestmark = pytest.mark.skipif(
    not (CHROMEDRIVER and CHROMIUM),
    reason="no browser: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(open_run(home, "first"), path)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_opens_without_a_message_and_fits(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.emulate(width=width, dark=dark)
    browser.open(page)
    assert browser.messages() == []
    assert browser.run("return document.title").startswith("weekly done")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    text, ground = browser.run(
        "const look = getComputedStyle(document.body); return [look.color, look.backgroundColor]"
    )
    bright = [sum(map(int, each.strip("rgb()").split(","))) for each in (text, ground)]
    assert (bright[0] > bright[1]) is dark


def test_a_blocked_text_would_be_seen_in_the_console(browser: Browser, tmp_path: Path) -> None:
    """The test above can fail: a page that loads a file reports it."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw new Error('x')</script>")
    browser.open(path)
    assert len(browser.messages()) >= 1


def test_the_keyboard_reaches_the_content_and_sorts_a_table(browser: Browser, page: Path) -> None:
    browser.emulate(width=1200)
    browser.open(page)
    browser.press(TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    column = (
        "const table = [...document.querySelectorAll('table')].find("
        "t => t.caption.textContent.startsWith('The 5 slowest'));"
    )
    values = "return [...table.tBodies[0].rows].map(r => Number(r.cells[2].dataset.value));"
    browser.run(
        f"{column} table.closest('details').open = true;"
        "table.tHead.rows[0].cells[2].querySelector('button').focus();"
    )
    before = browser.run(column + values)
    assert before == sorted(before, reverse=True)
    browser.press(ENTER)
    assert browser.run(column + values) == sorted(before)
    sort = "return table.tHead.rows[0].cells[2].getAttribute('aria-sort')"
    assert browser.run(column + sort) == "ascending"


def test_the_print_is_light_and_has_no_navigation(browser: Browser, page: Path) -> None:
    browser.emulate(width=1200, dark=True, media="print")
    browser.open(page)
    shown = "return getComputedStyle(document.querySelector('nav')).display"
    assert browser.run(shown) == "none"
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert browser.run(ground) == "rgb(255, 255, 255)"
    browser.emulate(width=1200)


def test_the_page_is_complete_without_scripts(browser: Browser, page: Path) -> None:
    count = "return document.querySelectorAll('table, figure').length"
    browser.open(page)
    with_script = browser.run(count)
    browser.develop("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page)
        assert browser.run("return document.querySelectorAll('thead button').length") == 0
        assert browser.run(count) == with_script > 10
    finally:
        browser.develop("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install axe-core in .venv-node")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault_of_accessibility(browser: Browser, page: Path, dark: bool) -> None:
    browser.emulate(width=1200, dark=dark)
    browser.develop("Page.setBypassCSP", {"enabled": True})  # for the script of axe itself
    try:
        browser.open(page)
        browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        checked = "return axe.run(document).then(r => r.violations.map(v => [v.id, v.help]))"
        script = f"{AXE.read_text('utf-8')}; {checked}"
        assert browser.run(script) == []
        browser.run("document.body.append(document.createElement('img'))")
        assert [each[0] for each in browser.run(script)][:1] == ["image-alt"]
    finally:
        browser.develop("Page.setBypassCSP", {"enabled": False})
