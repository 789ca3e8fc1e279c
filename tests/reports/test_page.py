"""What a browser makes of a report: nothing sticks out, nothing is asked of a network, everybody can read it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from reports import drawing
from reports.pages import write_report
from tests.reports.everything import HOSTILE, everything, nothing
from tests.reports.pages import Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (390, 1280, 1920)

#: Elements that stick out of the window, unless something that scrolls holds them.
STICKING_OUT = """() => {
  const held = ["auto", "scroll", "hidden"];
  const scrolls = (e) => e && (held.includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    const outside = box.width && (box.right > innerWidth + 1 || box.left < -1) && e.checkVisibility();
    if (outside && !e.closest("defs") && !scrolls(e.parentElement))
      out.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 40)} ${box.left}..${box.right}`);
  }
  return out.slice(0, 5);
}"""
SHOWN = "() => [...document.querySelectorAll('.samples tbody')].filter((e) => e.checkVisibility()).length"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> the page of a sweep; PNG files, which no page has, are not drawn, nor others without a browser."""
    root = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_bitmap", lambda figure: b"")
        if not (CHROMIUM and find_spec("playwright")):
            patch.setattr(drawing, "_vector", lambda figure: "<svg ></svg>")
        found = {"everything": write_report(everything(root / "everything")).page}
        patch.setattr(drawing, "_vector", lambda figure: "<svg ></svg>")
        return found | {name: write_report(folder).page for name, folder in nothing(root).items()}


def test_pages_are_valid_html(written):
    """By the rules of the standard's parser, which knows what may stand in what."""
    import html5lib

    for name, path in written.items():
        parser = html5lib.HTMLParser()
        parser.parse(path.read_text(encoding="utf-8"))
        assert parser.errors == [], name
        page = Page(path.read_text(encoding="utf-8"))
        assert page.faults == [], name
        assert len(page.ids) == len(set(page.ids)), name


def test_a_page_with_everything_has_all_sections_and_takes_no_name_for_markup(written):
    text = written["everything"].read_text(encoding="utf-8")
    page = Page(text)
    sections = {"factors", "differences", "turns", "samples", "failures", "methods"}
    assert sections <= set(page.ids)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert HOSTILE[0] in {*page.text}
    assert "\u202e" not in text
    assert "optim.weight by arm" in page.text
    assert len(text) < 3_000_000


def test_without_a_script_every_sample_is_listed_and_can_be_chosen(written):
    page = Page(written["everything"].read_text(encoding="utf-8"))
    rows = [values["class"].split() for tag, values in page.tags if tag == "tbody" and "class" in values]
    assert len(rows) == 3
    assert not any("hidden" in values for _, values in page.tags)
    radios = [values for tag, values in page.tags if tag == "input"]
    assert [values["id"] for values in radios if "checked" in values] == ["change-all", "tag-all"]
    styles = written["everything"].read_text(encoding="utf-8").partition("</style>")[0]
    for values in radios:
        assert values["id"].endswith("-all") or f"#{values['id']}:checked" in styles
    assert {f"tag-{i}" for i in range(3)} == {name for row in rows for name in row if name.startswith("tag")}


@dataclass
class Browser:
    """A page of a headless browser, and all that it asked for or complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    options = ["--no-sandbox", "--disable-gpu", "--disable-extensions"]
    with playwright.sync_playwright() as tool, tool.chromium.launch(executable_path=CHROMIUM, args=options) as it:
        found = Browser(it.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda line: found.complaints.append(line.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        yield found


@pytest.fixture(scope="module")
def violations() -> Callable[[Any], list[str]]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    options = {"resultTypes": ["violations"]}

    def found(page: Any) -> list[str]:
        results = axe.Axe().run(page, options=options).response["violations"]
        return [f"{one['id']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in results]

    return found


@pytest.mark.parametrize("name", ["everything", "no cell", "one seed", "an arm lost"])
def test_nothing_sticks_out_or_is_hard_to_read(name, written, browser, violations):
    page = browser.page
    page.goto(written[name].as_uri())
    for width in WIDTHS if name == "everything" else WIDTHS[:1]:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(STICKING_OUT) == [], width
    for scheme in ("light", "dark") if name == "everything" else ("light",):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == [], scheme
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate(STICKING_OUT) == []
    assert not page.locator("nav").is_visible()
    page.emulate_media(media="screen")
    assert [url for url in browser.requests if not re.match("file:|data:", url)] == []
    assert {url for url in browser.requests if url.startswith("file:")} <= {path.as_uri() for path in written.values()}
    assert browser.complaints == []


def test_samples_are_chosen_by_keyboard_and_tables_sorted(written, browser):
    page = browser.page
    page.goto(written["everything"].as_uri())
    assert page.evaluate(SHOWN) == 3
    page.locator("#change-all").focus()
    worse = int(page.locator("label:has(#change-worse) small").inner_text())
    page.keyboard.press("ArrowRight")
    assert page.evaluate(SHOWN) == worse
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(SHOWN) == 1
    head = page.locator("table.main thead button").first
    head.focus()
    page.keyboard.press("Enter")
    assert page.locator("table.main thead [aria-sort=descending]").count() == 1
    assert browser.complaints == []
