"""One override of a configuration, in Hydra's grammar; the only module that knows Hydra."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject

#: A word that the grammar takes as it stands and reads as text.
_BARE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_/][\w/.-]*", re.ASCII | re.IGNORECASE)
#: A home folder as a shell writes it, where a value or an item of one begins; before it, what quotes hold.
_TILDE = re.compile(r"""'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|(?<=[=,\[(])\s*(?P<home>~[^\s,'"()\[\]{}=:]*)""")


@dataclass(frozen=True)
class Override:
    """One change of a configuration.

    Attributes:
        key: dotted, as ``optim.updates``.
        value: plain (JSON); of a sweep (``a=1,2``, ``choice()``, ``range()``) None.
        kind: ``set`` (``a=1``), ``add`` (``+a=1``), ``put`` (``++a=1``: set or add) or ``delete`` (``~a``).
        text: as it was written, or could be.
        sweep: the values of a sweep; empty for a plain override.
    """

    key: str
    value: object
    kind: Literal["set", "add", "put", "delete"]
    text: str
    sweep: tuple[object, ...] = ()

    @classmethod
    def of(cls, key: str, value: object) -> Override:
        """The override that sets ``key`` to the plain ``value`` as it stands, whatever its letters mean elsewhere."""
        return cls(key, value, "set", f"{key}={spell(value)}")

    @property
    def root(self) -> str:
        """First part of the key: the name of a field of RunConfig."""
        return self.key.partition(".")[0]


@functools.cache
def parse(text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: it is not in Hydra's override grammar; says how a value is to be quoted.
    """
    from hydra.errors import HydraException

    try:
        parsed = _parse(_TILDE.sub(lambda found: f"'{found['home']}'" if found["home"] else found[0], text))
        swept = tuple(map(_plain, _swept(parsed))) if parsed.is_sweep_override() else ()
        value = None if swept else _plain(parsed._value)
    except (HydraException, ConfigError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        way_out = _quoting(text) if isinstance(error, HydraException) else ""
        raise ConfigError(f"cannot read the override {text!r}: {reason}{way_out}") from error
    if parsed.package is not None:
        raise ConfigError(f"cannot read the override {text!r}: a key has no '@'")
    if parsed.is_sweep_override() and not swept:
        raise ConfigError(f"{text}: expected at least one value")
    kind: Any = {"CHANGE": "set", "ADD": "add", "FORCE_ADD": "put", "DEL": "delete"}[parsed.type.name]
    return Override(parsed.key_or_group, value, kind, text, swept)


def spell(value: object) -> str:
    """The plain ``value`` as the grammar writes it: :func:`parse` reads the same from it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{spell(key)}:{spell(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _quoted(text: str) -> str:
    # Backslashes are themselves but for those right before a quote, and the quote ends the text.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def _quoting(text: str) -> str:
    """How the value is to be written, if quotes are all that it lacks."""
    from hydra.errors import HydraException

    key, _, value = text.partition("=")
    quoted = f"{key}={_quoted(value)}"
    try:
        _parse(quoted)
    except HydraException:
        return ""
    return f"; a value with special characters takes quotes, inside of those of the shell: {_for_shell(quoted)}"


def _for_shell(text: str) -> str:
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _parse(text: str) -> Any:
    """Hydra's own ``Override``; as ``OverridesParser.parse_rule``, but for mappings."""
    from antlr4 import CommonTokenStream, InputStream
    from hydra.core.override_parser.overrides_visitor import HydraErrorListener
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    lexer = OverrideLexer(InputStream(text))
    parser = OverrideParser(CommonTokenStream(lexer))
    for machine in (lexer, parser):
        machine.removeErrorListeners()
        machine.addErrorListener(HydraErrorListener())
    parsed = _visitor().visit(parser.override())
    parsed.input_line = text
    parsed.validate()
    return parsed


@functools.cache
def _visitor() -> Any:
    from hydra.core.override_parser.overrides_parser import create_functions
    from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor

    class Visitor(HydraOverrideVisitor):
        """Hydra's own lets the last of two equal keys win."""

        def visitDictContainer(self, ctx: Any) -> JsonObject:
            pairs = [self.visitDictKeyValuePair(ctx.getChild(i)) for i in range(1, ctx.getChildCount() - 1, 2)]
            keys = [_plain(key) for key, _ in pairs]
            if twice := next((key for k, key in enumerate(keys) if key in keys[:k]), None):
                raise ConfigError(f"the key {twice!r} comes twice")
            return dict(pairs)

    return Visitor(create_functions())


def _swept(parsed: Any) -> Any:
    """The values of a sweep."""
    from hydra.core.override_parser.types import ChoiceSweep, FloatRange, RangeSweep

    sweep = parsed._value
    if isinstance(sweep, ChoiceSweep) and not sweep.shuffle:
        return sweep.list
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        if {type(sweep.start), type(sweep.stop), type(sweep.step)} == {int}:
            return sweep.range()
        # In decimal places, as they are written: 0.1 + 0.1 + 0.1 is 0.3, which ends before 0.4.
        return FloatRange(*(Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step)))
    raise ConfigError("a sweep is a=1,2 or choice(1,2) or range(1,4); its order is that of the plan")


def _plain(value: object) -> Any:
    """Hydra's parsed value as plain data.

    Raises:
        ConfigError: an interpolation, which would mean something else in other surroundings.
    """
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) and "${" in value:
        raise ConfigError("expected a value, got an interpolation")
    return value
