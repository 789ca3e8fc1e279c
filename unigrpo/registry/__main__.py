"""``python -m unigrpo.registry``: every slot with its strategies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from unigrpo import console
from unigrpo.registry import listing

#: Columns of what is no terminal: more than any row has, so that nothing is cut.
_WIDE = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every slot with its strategies."""
    console.prepare()
    argparse.ArgumentParser(prog="python -m unigrpo.registry", description=main.__doc__).parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    output = Console()
    if not output.is_terminal:
        output = Console(width=_WIDE)
    names = ("slot", "strategy", "fields = defaults", "what", "source")
    # In a narrow terminal long words go on in the next line.
    table = Table(*(Column(name, overflow="fold") for name in names))
    last = ""
    for row in listing():
        # Of tuple[int, int] rich would take the brackets for words of its own.
        fields = escape("\n".join(f"{name}: {kind} = {default!r}" for name, (kind, default) in row["fields"].items()))
        if last and row["slot"] != last:
            table.add_section()
        table.add_row(row["slot"] if row["slot"] != last else "", row["name"], fields, row["summary"], row["source"])
        last = row["slot"]
    output.print(table)


if __name__ == "__main__":
    main()
