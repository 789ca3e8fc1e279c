"""Escapes names and prompts for each format, so that they are never taken for markup."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

#: Unicode categories of invisible characters: controls, direction marks, surrogates, separators.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Invisible characters that scripts and emoji need: the zero-width non-joiner and joiner.
_JOINERS = "\u200c\u200d"

_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after a line break (\\), a bracket or a star would be an argument
    "*": "{*}",
    "−": "$-$",
    "±": r"\,$\pm$\,",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\u2009": r"\,",
}


def printable(text: str) -> str:
    r"""``text`` with invisible characters written out (``\x00``, ``\u202e``); line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _unseen(c) else _written_out(c) for c in text)


def one_line(text: str) -> str:
    r""":func:`printable`, with line ends and tabs written out too."""
    return "".join(_written_out(c) if c in "\n\t" else c for c in printable(text))


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def names(raw: Iterable[str]) -> dict[str, str]:
    """Each of ``raw`` -> a unique, printable, non-empty name on one line."""
    shown: dict[str, str] = {}
    for name in dict.fromkeys(raw):
        wanted = one_line(name) if name.strip() else f'"{one_line(name)}"'
        found, number = wanted, 1
        while found in shown.values():
            number += 1
            found = f"{wanted} ({number})"
        shown[name] = found
    return shown


def shorten(text: str, most: int) -> str:
    """``text`` without its middle if it is longer than ``most``: names of arms often differ at their ends only."""
    head = most // 2
    return text if len(text) <= most else f"{text[:head]}…{text[head + 1 - most :]}"


def shortened(texts: Sequence[str], most: int) -> list[str]:
    """Each of ``texts`` by :func:`shorten`; texts that become equal are numbered."""
    short = [shorten(text, most) for text in texts]
    times = Counter(short)
    return [f"{text} ({i})" if times[text] > 1 else text for i, text in enumerate(short, start=1)]


def file_name(name: str) -> str:
    """A file name without suffix for ``name``; slashes become underscores.

    A name with other special characters, or longer than 80, is replaced by its start and a hash.
    """
    plain = name.replace("/", "_")
    safe = re.sub(r"[^\w.\-]", "_", plain, flags=re.ASCII)[:80]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(ascii(name).encode()).hexdigest()[:8]}"


def distinct(files: Iterable[str]) -> Iterator[str]:
    """``files``, with a number added to names that differ from an earlier one by case only, or not at all."""
    taken: set[str] = set()
    for file in files:
        found, number = file, 1
        while found.casefold() in taken:
            number += 1
            found = f"{file}-{number}"
        taken.add(found.casefold())
        yield found


def markdown(text: object) -> str:
    """``text`` escaped for a line, or a table cell, of GitHub's Markdown."""
    line = _flat(text)
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # inside a word it is no emphasis
    line = re.sub(r"^([-+=#]|\d+[.)](?=\s|$))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)  # of a block
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def tex(text: object) -> str:
    """``text`` escaped for a line of LaTeX."""
    line = "".join(_TEX.get(c, c) for c in _flat(text))
    return re.sub("-(?=-)", "-{}", line)


def _flat(text: object) -> str:
    return re.sub(r"[ \t\n]+", " ", printable(str(text))).strip()


def spreadsheet(text: str) -> str:
    """``text`` as a CSV field; an apostrophe in front keeps a spreadsheet from reading it as a formula."""
    line = one_line(text)
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line
