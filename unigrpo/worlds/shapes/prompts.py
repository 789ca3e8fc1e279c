"""Prompts of GenEval's six tasks in its own metadata format, generated, in three disjoint splits.

A prompt is a *meaning* (which objects, which relation) in a *form* (opener, article, ending, order of two conjuncts).
About a quarter of the meanings is held out, one half of them for the test and the other for validation, so that no two
splits share a meaning, with one exception: ``single_object`` has only five meanings, and forms are held out instead.
The halves have counts, colours and relations alike as far as there are two of a kind; of the numbers the test has no
"three" and validation no "four".
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from unigrpo.data.dataset import SPLITS, Split
from unigrpo.data.prompt import Prompt, key_of
from unigrpo.io import JsonObject
from unigrpo.worlds.shapes.grammar import COLOURS, PLURALS, SHAPES

#: The six tasks in the official order, and how many prompts the official file has of each.
OFFICIAL_COUNTS: Mapping[str, int] = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
TASKS = tuple(OFFICIAL_COUNTS)
#: Relation -> its converse.
RELATIONS: Mapping[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COUNT_WORDS: Mapping[int, str] = {2: "two", 3: "three", 4: "four"}

OPENERS = ("a photo of", "a picture of", "an image of", "a drawing of", "draw", "paint", "show", "make")
ENDINGS = ("", "please", "on grey")
ARTICLES = ("a", "one")
#: Beside a number the article is a word that says the number is meant.
COUNT_ARTICLES = ("", "exactly")
#: (opener, article, ending) by number.
FORMS = tuple(itertools.product(range(len(OPENERS)), range(len(ARTICLES)), range(len(ENDINGS))))

Clause = JsonObject


@dataclass(frozen=True)
class GenEvalPrompt:
    """One line of a GenEval prompt file."""

    tag: str
    include: tuple[Clause, ...] = field(hash=False)
    """Clauses ``{"class", "count"[, "color"][, "position": [relation, index of the reference clause]]}``."""
    exclude: tuple[Clause, ...] = field(hash=False)
    """Clauses ``{"class", "count"}``: so many of the class, or more, are wrong."""
    prompt: str

    @property
    def key(self) -> str:
        """A name for files and records, stable under any change of the other prompts."""
        return key_of(self.tag, self.prompt)

    @property
    def meaning(self) -> str:
        """What prompts share that ask for the same in other words; of ``single_object`` each has its own."""
        return self.prompt if self.tag == "single_object" else _asked(self.include)

    def to_json(self) -> str:
        """The line of the official file (without ``exclude`` where there is none, as there)."""
        line: JsonObject = {"tag": self.tag, "include": list(self.include)}
        if self.exclude:
            line["exclude"] = list(self.exclude)
        return json.dumps(line | {"prompt": self.prompt})

    @classmethod
    def from_json(cls, line: str) -> GenEvalPrompt:
        """Read a line of an official file.

        Raises:
            ValueError: not a JSON object with ``tag``, ``include`` and ``prompt``.
        """
        data = json.loads(line)
        if not isinstance(data, dict) or not {"tag", "include", "prompt"} <= data.keys():
            raise ValueError(f"expected a JSON object with tag, include and prompt, got {line[:80]!r}")
        return cls(data["tag"], tuple(data["include"]), tuple(data.get("exclude", ())), data["prompt"])


@dataclass(frozen=True)
class _Meaning:
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    phrases: tuple[str, ...]
    """Ways to say it, ``{}`` where an article goes."""
    held_out: bool
    kind: str = ""
    """What the halves of what is held out have alike, as far as there are two of a kind."""


def _asked(include: Sequence[Clause]) -> str:
    """The objects and their relation, whatever is named first."""
    known = [json.dumps({k: v for k, v in clause.items() if k != "position"}, sort_keys=True) for clause in include]
    for subject, clause in zip(known, include, strict=True):
        if "position" in clause:
            relation, index = clause["position"]
            pair = (subject, relation, known[index])
            return " ".join(pair if relation in ("left of", "above") else (pair[2], RELATIONS[relation], pair[0]))
    return " ".join(sorted(known))


def _clause(shape: str, count: int = 1, **more: object) -> Clause:
    return {"class": shape, "count": count} | more


def _single_object() -> Iterator[_Meaning]:
    for shape in SHAPES:
        yield _Meaning((_clause(shape),), (), (f"{{}} {shape}",), held_out=False)


def _two_object() -> Iterator[_Meaning]:
    for (i, one), (j, two) in itertools.combinations(enumerate(SHAPES), 2):
        phrases = (f"{{}} {one} and {{}} {two}", f"{{}} {two} and {{}} {one}")
        yield _Meaning((_clause(one), _clause(two)), (), phrases, held_out=(i + j) % 4 == 3)


def _counting() -> Iterator[_Meaning]:
    for (i, shape), (count, word) in itertools.product(enumerate(SHAPES), COUNT_WORDS.items()):
        phrase = f"{{}} {word} {PLURALS[shape]}"
        yield _Meaning((_clause(shape, count),), (_clause(shape, count + 1),), (phrase,), (i + count) % 4 == 2, word)


def _colors() -> Iterator[_Meaning]:
    for (i, shape), (c, colour) in itertools.product(enumerate(SHAPES), enumerate(COLOURS)):
        yield _Meaning((_clause(shape, color=colour),), (), (f"{{}} {colour} {shape}",), (i + c) % 4 == 0, colour)


def _position() -> Iterator[_Meaning]:
    """'A left of B' and 'B right of A' are one meaning and fall in one split, though each has its own metadata."""
    for (i, one), (j, two) in itertools.permutations(enumerate(SHAPES), 2):
        for vertical, relation in enumerate(("left of", "above")):
            held_out = (i + 3 * j + 2 * vertical) % 4 == 1
            for subject, reference, word in ((one, two, relation), (two, one, RELATIONS[relation])):
                include = (_clause(reference), _clause(subject, position=[word, 0]))
                yield _Meaning(include, (), (f"{{}} {subject} {word} {{}} {reference}",), held_out, relation)


def _color_attr() -> Iterator[_Meaning]:
    for (i, one), (j, two) in itertools.combinations(enumerate(SHAPES), 2):
        for (c, colour), (d, other) in itertools.permutations(enumerate(COLOURS), 2):
            first, second = f"{{}} {colour} {one}", f"{{}} {other} {two}"
            include = (_clause(one, color=colour), _clause(two, color=other))
            phrases = (f"{first} and {second}", f"{second} and {first}")
            yield _Meaning(include, (), phrases, held_out=(i + j + c + 2 * d) % 4 == 0)


_MEANINGS = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}


def _phrase(tag: str, phrase: str, form: tuple[int, int, int]) -> str:
    opener, article, ending = form
    word = (COUNT_ARTICLES if tag == "counting" else ARTICLES)[article]
    return " ".join(f"{OPENERS[opener]} {phrase.replace('{}', word)} {ENDINGS[ending]}".split())


#: The 21 of 48 forms that ``single_object`` holds out; every word of them occurs in training forms too.
_HELD_OUT_FORMS = [form for form in FORMS if (form[0] + 4 * form[1] + 3 * form[2]) % 7 < 3]


def _split_of_form(form: tuple[int, int, int]) -> Split:
    return _half(_HELD_OUT_FORMS.index(form)) if form in _HELD_OUT_FORMS else "train"


@cache
def _held_out(tag: str) -> Mapping[str, Split]:
    """The meanings of a task that are not trained on, kind by kind one of the test and one of validation in turn."""
    kinds = {_asked(meaning.include): meaning.kind for meaning in _MEANINGS[tag]() if meaning.held_out}
    ordered = sorted(kinds, key=lambda asked: (kinds[asked], _digest(asked)))
    return {asked: _half(rank) for rank, asked in enumerate(ordered)}


def _half(rank: int) -> Split:
    return "validation" if rank % 2 else "test"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _spoken(tag: str, meaning: _Meaning, split: Split) -> list[GenEvalPrompt]:
    """Every prompt of a meaning in a split, successive ones as different in form as possible."""
    if tag == "single_object":
        forms = [form for form in FORMS if _split_of_form(form) == split]
    else:
        forms = list(FORMS) if _held_out(tag).get(_asked(meaning.include), "train") == split else []
    texts = [_phrase(tag, phrase, form) for phrase in meaning.phrases for form in forms]
    return [GenEvalPrompt(tag, meaning.include, meaning.exclude, text) for text in sorted(texts, key=_digest)]


@cache
def by_task(split: Split) -> Mapping[str, tuple[GenEvalPrompt, ...]]:
    """Task -> its prompts in ``split``; the first n of a task are spread evenly over its meanings."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    found = {}
    for tag in TASKS:
        columns = [spoken for meaning in _MEANINGS[tag]() if (spoken := _spoken(tag, meaning, split))]
        columns.sort(key=lambda column: column[0].key)
        rounds = itertools.zip_longest(*columns)
        found[tag] = tuple(prompt for prompts in rounds for prompt in prompts if prompt is not None)
    return found


@cache
def all_prompts(split: Split) -> tuple[GenEvalPrompt, ...]:
    """Every prompt of ``split``, task by task in the official order."""
    return tuple(itertools.chain.from_iterable(by_task(split).values()))


def select(split: Split, counts: Sequence[int]) -> list[GenEvalPrompt]:
    """The first ``counts[i]`` prompts of the i-th task.

    ``OFFICIAL_COUNTS.values()`` gives the official proportions, for which only ``train`` has prompts enough.

    Raises:
        ValueError: not one count per task, or more than a task has.
    """
    tasks = by_task(split)
    if len(counts) != len(tasks):
        raise ValueError(f"expected {len(tasks)} counts, one for each of {', '.join(tasks)}, got {len(counts)}")
    chosen: list[GenEvalPrompt] = []
    for (tag, prompts), count in zip(tasks.items(), counts, strict=True):
        if not 0 <= count <= len(prompts):
            raise ValueError(f"{tag}: expected 0 to {len(prompts)} prompts, got {count}")
        chosen += prompts[:count]
    return chosen


def geneval_prompt(prompt: Prompt) -> GenEvalPrompt:
    """The prompt that GenEval's metadata of ``prompt`` (``include``, ``exclude``) make."""
    known = prompt.meta
    return GenEvalPrompt(prompt.tag, tuple(known["include"]), tuple(known.get("exclude", ())), prompt.text)
