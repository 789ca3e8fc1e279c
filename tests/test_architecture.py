"""The house is as its page draws it: imports lead downwards, and pictures and tables are those of the code."""

from __future__ import annotations

import importlib.util

from tests.pages import ROOT


def _script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_import_leads_downwards_and_the_picture_is_the_codes():
    house = _script("house")
    found = house.arrows()
    assert house.circles(found) == set()
    assert {name for arrow in found for name in arrow} == set(house.WHAT)
    assert (ROOT / "docs" / "house.svg").read_text(encoding="utf-8") == house.picture(found)


def test_a_circle_would_be_found():
    house = _script("house")
    assert house.circles(house.arrows() | {("rollout", "training")}) == {("rollout", "training")}


def test_the_table_of_equations_is_the_registrys():
    equations = _script("equations")
    assert (ROOT / "docs" / "equations.md").read_text(encoding="utf-8") == equations.page()
