"""What griffe, which reads the code for the reference, has to know of this repository's packages."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Ours(griffe.Extension):
    """Keeps functions of a package that have the name of one of its modules, and reads roles as plain code."""

    def __init__(self) -> None:
        self._functions: list[griffe.Function] = []

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Remember a function as it is read: a module of its name, read later, takes its place in a package."""
        self._functions.append(func)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Make code of Sphinx's roles, as in ``:func:`register```."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`", r"`\1`", obj.docstring.value
            )

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Give the functions their places back."""
        for func in self._functions:
            package = func.parent
            if isinstance(package, griffe.Module) and package.package is pkg and package.is_init_module:
                package.set_member(func.name, func)
