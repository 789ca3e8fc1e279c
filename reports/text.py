"""Text from outside, made fit for where it is written: names and prompts are words there, never markup."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

#: Categories of characters that show nothing, or change how others show: controls, marks of direction, surrogates.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Of these, what scripts and emoji need within words: the zero-width non-joiner and joiner.
_JOINERS = "\u200c\u200d"

_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # what follows a line's end in brackets, or a star, would be an argument
    "*": "{*}",
    "−": "$-$",
    "±": r"\,$\pm$\,",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\u2009": r"\,",
}


def printable(text: str) -> str:
    r"""``text`` with what cannot be seen written out (``\x00``, ``\u202e``); ends of lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _unseen(c) else _written_out(c) for c in text)


def one_line(text: str) -> str:
    r""":func:`printable`, and ends of lines and tabs written out too."""
    return "".join(_written_out(c) if c in "\n\t" else c for c in printable(text))


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def names(raw: Iterable[str]) -> dict[str, str]:
    """Each of ``raw`` -> a name that can be read on one line, is not empty, and is like no other."""
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
    """``text`` with its middle left out where it is longer than ``most``: names of arms differ at their ends."""
    head = most // 2
    return text if len(text) <= most else f"{text[:head]}…{text[head + 1 - most :]}"


def shortened(texts: Sequence[str], most: int) -> list[str]:
    """Each of ``texts`` by :func:`shorten`; those that it would make equal are numbered."""
    short = [shorten(text, most) for text in texts]
    times = Counter(short)
    return [f"{text} ({i})" if times[text] > 1 else text for i, text in enumerate(short, start=1)]


def file_name(name: str) -> str:
    """A file name without suffix for ``name``, whose slashes become underscores.

    Of one with other odd characters, or of more than 80, the start and a hash of the whole.
    """
    plain = name.replace("/", "_")
    safe = re.sub(r"[^\w.\-]", "_", plain, flags=re.ASCII)[:80]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(ascii(name).encode()).hexdigest()[:8]}"


def distinct(files: Iterable[str]) -> Iterator[str]:
    """``files``, numbered where a file system that does not tell cases apart would take one for another before it."""
    taken: set[str] = set()
    for file in files:
        found, number = file, 1
        while found.casefold() in taken:
            number += 1
            found = f"{file}-{number}"
        taken.add(found.casefold())
        yield found


def markdown(text: object) -> str:
    """``text`` within a line of GitHub's Markdown, or a cell of its tables."""
    line = _flat(text)
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # within words it is no emphasis
    line = re.sub(r"^([-+=#]|\d+[.)](?=\s|$))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)  # of a block
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def tex(text: object) -> str:
    """``text`` within a line of LaTeX."""
    line = "".join(_TEX.get(c, c) for c in _flat(text))
    return re.sub("-(?=-)", "-{}", line)


def _flat(text: object) -> str:
    return re.sub(r"[ \t\n]+", " ", printable(str(text))).strip()


def spreadsheet(text: str) -> str:
    """``text`` as a field of CSV that no spreadsheet takes for a formula: such a one gets an apostrophe in front."""
    line = one_line(text)
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line
