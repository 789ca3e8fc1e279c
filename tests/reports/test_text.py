"""Words from outside, in each medium that a report is written in."""

import pytest

from reports.text import distinct, file_name, markdown, names, one_line, printable, shorten, shortened, spreadsheet, tex


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünï, 日本, 🙂", "plain, ünï, 日本, 🙂"),
        ("a\x00b\x1b[31m", r"a\x00b\x1b[31m"),
        ("\u202egnol\u200f", r"\u202egnol\u200f"),
        ("\ud800", r"\ud800"),
        ("a\u2028b\x85", r"a\u2028b\x85"),
        ("two\nlines\tand\r", "two\nlines\tand\\r"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert printable(text) == shown


def test_a_name_is_one_line():
    assert one_line("two\nlines\tand") == r"two\nlines\tand"


def test_names_are_never_empty_and_never_alike():
    raw = ["a\nb", r"a\nb", "", " ", "a", "a"]
    assert names(raw) == {"a\nb": r"a\nb", r"a\nb": r"a\nb (2)", "": '""', " ": '" "', "a": "a"}


def test_long_names_keep_both_ends():
    assert shorten("latent_kl@weight=0.1,window=late", 12) == "latent…=late"
    assert shorten("short", 12) == "short"
    assert shortened(["a" * 90, "a" * 91, "b"], 10) == ["aaaaa…aaaa (1)", "aaaaa…aaaa (2)", "b"]


@pytest.mark.parametrize("name", ["train/reward", "train_O", "by_turn/editing/turn/O"])
def test_usual_names_make_usual_files(name):
    assert file_name(name) == name.replace("/", "_")


@pytest.mark.parametrize("name", ["../../x", "a:b*?", "nul\x00", "\ud800", "日本", "x" * 300, "a\nb", ""])
def test_odd_names_make_files_that_every_system_can_hold(name):
    found = file_name(name)
    assert found.isascii()
    assert len(found) < 100
    assert not set(found) & set('/\\:*?"<>|\x00\n')
    assert found not in (".", "..")


def test_odd_names_make_different_files():
    assert len({file_name(name) for name in ("a:b", "a*b", "a?b", "x" * 300, "x" * 301)}) == 5


def test_no_file_takes_the_place_of_another():
    assert list(distinct(["train_a", "train_A", "train_a", "b"])) == ["train_a", "train_A-2", "train_a-3", "b"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("velocity_mse", "velocity_mse"),
        ("_plain_", r"\_plain\_"),
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\\\|b"),
        ("**b** `c` [l](u)", r"\*\*b\*\* \`c\` \[l\](u)"),
        ("KL $$", r"KL \$\$"),
        ("<b>&lt;", "&lt;b&gt;&amp;lt;"),
        ("two\n\nlines", "two lines"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("0.5 of it", "0.5 of it"),
        ("# head", r"\# head"),
    ],
)
def test_markdown(text, written):
    assert markdown(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50% of a_b & $c$ #1", r"50\% of a\_b \& \$c\$ \#1"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("[v1]*", "{[}v1]{*}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("two\n\nlines", "two lines"),
        ("0.5\u2009±", r"0.5\,\,$\pm$\,"),
    ],
)
def test_tex(text, written):
    assert tex(text) == written


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", " =1", "=cmd|' /C calc'!A0"])
def test_no_field_is_a_formula(text):
    assert spreadsheet(text) == f"'{text}"
    assert spreadsheet("a=b") == "a=b"
