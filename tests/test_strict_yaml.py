from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unigrpo.errors import ConfigError
from unigrpo.strict_yaml import load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1E+4", -1e4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2026-11-28", "2026-11-28"),
        ("1_000", "1_000"),
        ("1e-4x", "1e-4x"),
        ("'1e-4'", "1e-4"),
        ("=", "="),
    ],
)
def test_words_mean_what_the_core_schema_of_yaml_1_2_says(text, value):
    assert read_yaml(f"[{text}]" if text else "") == ([value] if text else None)
    assert type(read_yaml(text)) is type(value)


# Beyond U+FFFF JSON escapes pairs of surrogates, which YAML does not know.
TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_json_is_read_as_json_has_it(value):
    assert read_yaml(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\n'a': 3", "line 3: the key 'a' comes twice, first in line 1"),
        ("x: {kl: [], kl_strong: [], kl_strong: [w]}", "line 1: the key 'kl_strong' comes twice"),
        ("x:\n  - {b: 1,\n     b: 1}", "line 3: the key 'b' comes twice, first in line 2"),
        ("? [1, 2]\n: 3", "line 1: expected a word as a key"),
        ("a: [", "line 1: not valid YAML"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("!!python/object:os.system x", "not valid YAML"),
    ],
)
@pytest.mark.parametrize("all_text", [False, True])
def test_what_would_mean_something_else_is_refused_with_its_line(text, expected, all_text):
    if text.startswith("!!") and all_text:
        return
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, all_text=all_text)
    assert expected in str(caught.value)


def test_a_merged_key_may_be_replaced():
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


def test_where_all_is_text_nothing_is_a_number():
    assert read_yaml("{a: 0123, b: on, c: [1e-4, null]}", all_text=True) == {
        "a": "0123",
        "b": "on",
        "c": ["1e-4", "null"],
    }


def test_a_file_that_cannot_be_read_is_an_error_of_the_configuration(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 3\)"):
        load_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_yaml(path) == {"a": 1}
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path)


def test_pyyaml_itself_keeps_its_own_rules():
    assert yaml.safe_load("a: no") == {"a": False}
