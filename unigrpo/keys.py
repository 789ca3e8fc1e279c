"""The keys of a run's configuration as a page: each with its value in a recipe and what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator

from unigrpo import registry
from unigrpo.compose import ELSEWHERE, load_recipe, recipes
from unigrpo.config import SILENT, RunConfig, slot_of
from unigrpo.overrides import spell

#: The recipe of a command that names none, and the columns of the page.
_RECIPE, _KEY, _WIDTH = "unigrpo", 44, 120


def keys_text(recipe: str = _RECIPE) -> str:
    """Every key of :class:`~unigrpo.config.RunConfig`, with its value in ``recipe``."""
    elsewhere = (textwrap.fill(f"{key}: {what}", _WIDTH) for key, what in ELSEWHERE.items())
    lines = [
        f"keys, with their values in recipe={recipe}:",
        *_lines(recipe),
        "",
        "fields of strategies (KEY.FIELD=VALUE): python -m unigrpo.registry",
        *elsewhere,
    ]
    return "\n".join(lines)


def rows(recipe: str = _RECIPE) -> Iterator[tuple[str, str, str]]:
    """Every key, its value in ``recipe`` as a command would give it, and its meaning or choices."""
    plain = load_recipe(recipe)["config"]
    meanings = _meanings(RunConfig) | {"recipe": f"Where the values come from: {', '.join(recipes())}, or a file"}
    for field in dataclasses.fields(RunConfig):
        value = plain.get(field.name, SILENT.get(field.name))
        if slot := slot_of(field.name):
            yield field.name, spell(value["name"]), " | ".join(registry.strategies(slot))
        elif isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            told = _meanings(field.default_factory)
            for name, setting in value.items():
                chosen = setting["name"] if isinstance(setting, dict) else setting
                yield f"{field.name}.{name}", spell(chosen), told.get(name, "")
        else:
            yield field.name, spell(value), meanings.get(field.name, "")


def _lines(recipe: str) -> Iterator[str]:
    room = _WIDTH - _KEY
    for key, value, meaning in rows(recipe):
        first, *rest = textwrap.wrap(meaning, room) or [""]
        yield f"{f'  {key}={value}':<{_KEY}}{first}".rstrip()
        yield from (" " * _KEY + line for line in rest)


def _meanings(cls: type) -> dict[str, str]:
    """What the source of a dataclass says below its fields: the first sentence of each."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, said in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, ast.Expr):
            text = said.value.value if isinstance(said.value, ast.Constant) else ""
            found[field.target.id] = " ".join(str(text).replace("``", "").split()).partition(". ")[0].rstrip(".")
    return found
