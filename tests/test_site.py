"""The documentation site: every page is in it, every link and anchor leads somewhere, and it needs no network."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent


def _website():
    spec = importlib.util.spec_from_file_location("website", ROOT / "docs" / "website.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


website = _website()
PAGES = website.pages()


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: list[str] = []
    website.outside_code(
        page.read_text(encoding="utf-8"),
        lambda part: found.extend(re.findall(r"^#+ +(.*?) *$", part, re.MULTILINE)) or part,
    )
    slugs: dict[str, int] = {}
    for title in found:
        words = re.sub(r"\]\([^)]*\)|[^\w\- ]", "", title.lower()).replace(" ", "-")
        slugs[words] = slugs.get(words, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, last in slugs.items() for number in range(last + 1)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_their_anchors_lead_somewhere(page):
    for link in website.links(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_every_page_has_its_place_in_the_order():
    placed = re.findall(r": (\S+\.md)$", website.CONFIG.read_text(), re.MULTILINE)
    made = [f"reference/{name}.md" for name in ("keys", "strategies", *website.MODULES)]
    assert sorted(placed) == sorted([*made, *(page.relative_to(ROOT).as_posix() for page in PAGES)])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a warning."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    return website.build(folder / "stage", folder / "site").parent


@pytest.fixture(scope="module")
def built(site):
    """File of the site -> its text."""
    return {path.resolve(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_links_of_the_site_lead_somewhere(built):
    ids = {path: {*re.findall(r"""\bid="?([^\s">]+)""", text)} for path, text in built.items()}
    dead = []
    for path, text in built.items():
        for link in re.findall(r"""<a\b[^>]*?\bhref="?([^\s">]+)""", text):
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target).resolve() if target else path
            if (
                "://" not in link
                and path.name != "404.html"
                and not (
                    file.exists() and (not anchor or file not in ids or anchor in ids[file] or anchor == "__codelineno")
                )
            ):
                dead.append((path.name, link))
    assert dead == []
    assert len(ids) > len(PAGES)


def test_the_site_loads_nothing_from_elsewhere(site, built):
    loads = [
        found
        for text in built.values()
        for tag in re.findall(r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*>", text)
        for found in re.findall(r"""(?:src|href|data)="?([a-z]*:?//[^\s">]+)""", tag)
    ]
    loads += [
        found
        for path in site.rglob("*.css")
        for found in re.findall(r"url\((?:['\"]?)(?:https?:)?//[^)]*", path.read_text())
    ]
    assert loads == []


def test_the_reference_is_made_from_docstrings_and_equations_have_their_lines(site):
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert (
        "<p>Train in <code>folder</code>, or go on where it was left, and evaluate; a finished run is read.</p>" in text
    )
    assert ":class:" not in text
    assert "velocity_mse" in (site / "reference" / "strategies.html").read_text(encoding="utf-8")
    assert "optim.image_lr" in (site / "reference" / "keys.html").read_text(encoding="utf-8")
    equations = (site / "docs" / "equations.html").read_text(encoding="utf-8")
    file, line = re.search(r"unigrpo/flow/dynamics\.py\.html#L-0-(\d+)\">(.*?):", equations).group(2, 1)
    assert "register(" in (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
