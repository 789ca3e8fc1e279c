from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unigrpo.errors import ConfigError
from unigrpo.overrides import Override, parse, spell

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(a, b):
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@given(VALUES)
def test_a_value_is_read_as_it_was_spelled(value):
    assert same(parse(f"a.b={spell(value)}").value, value)
    assert same(Override.of("a.b", value).value, value)


@given(st.text())
def test_words_that_look_like_something_else_stay_words(text):
    for odd in (text, f"{text}'", f"{text}\\", f"\\'{text}", f"~{text}", f"{text}${{x}}"):
        assert parse(f"a={spell(odd)}").value == odd


@pytest.mark.parametrize(
    "word", ["null", "True", "nan", "inf", "1e-4", "", "a,b", "[v1]", "epoch=9-step=88", "x#y", "/a b"]
)
def test_a_value_of_a_yaml_file_is_taken_as_it_stands(word):
    override = Override.of("model.checkpoint", word)
    assert override.value == word
    assert parse(override.text) == override


def test_sweeps_are_taken_apart():
    assert parse("a=1,2").sweep == (1, 2)
    assert parse("a=choice(x,y)").sweep == ("x", "y")
    assert parse("a=range(1,4)").sweep == (1, 2, 3)
    assert parse("a=[1,2],[3,4]").sweep == ([1, 2], [3, 4])
    assert parse("a=1").sweep == ()


def test_a_range_counts_in_the_decimal_places_it_is_written_in():
    assert parse("a=range(0.1,0.4,0.1)").sweep == (0.1, 0.2, 0.3)
    assert parse("a=range(1,2,0.25)").sweep == (1.0, 1.25, 1.5, 1.75)
    assert parse("a=range(0.3,0,-0.1)").sweep == (0.3, 0.2, 0.1)
    assert parse("a=range(1e-4,4e-4,1e-4)").sweep == (1e-4, 2e-4, 3e-4)


def test_a_tilde_is_a_word_wherever_a_value_begins():
    assert parse("model.checkpoint=~/ck").value == "~/ck"
    assert parse("model.checkpoint=~/a,~/b").sweep == ("~/a", "~/b")
    assert parse("a=[~/x, ~me/y]").value == ["~/x", "~me/y"]
    assert parse("a='x=~/y'").value == "x=~/y"
    assert parse('a=["[~", ~]').value == ["[~", "~"]
    assert (parse("~a").kind, parse("~a").key) == ("delete", "a")


def test_kinds():
    kinds = {text: parse(text).kind for text in ("a=1", "+a=1", "++a=1", "~a", "~a=1")}
    assert kinds == {"a=1": "set", "+a=1": "add", "++a=1": "put", "~a": "delete", "~a=1": "delete"}
    assert {parse(text).key for text in kinds} == {"a"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=/x/epoch=9-step=88", "takes quotes, inside of those of the shell: \"a='/x/epoch=9-step=88'\""),
        ("a=x#y", "\"a='x#y'\""),
        ("a=it's", "'\"'\"'"),
        ("a=é", "\"a='é'\""),
        ("a={x: 1, y: 2, x: 3}", "the key 'x' comes twice"),
        ("a={x: 1, 'x': 3}", "cannot read the override"),
        ("a=${oc.env:HOME}", "expected a value, got an interpolation"),
        ("a=[1, '${x}', ${x}]", "expected a value, got an interpolation"),
        ("a@b=1", "a key has no '@'"),
        ("a=interval(1,2)", "a sweep is"),
        ("a=shuffle(1,2)", "a sweep is"),
        ("a=glob(*)", "a sweep is"),
        ("a=range(1,1)", "expected at least one value"),
        ("a=range(0.1,1,0)", "cannot read the override"),
        ("a=f(1)", "cannot read the override"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_the_way_out(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert expected in str(caught.value)


def test_the_way_out_is_a_way_out():
    assert parse("a='/x/epoch=9-step=88'").value == "/x/epoch=9-step=88"
