"""Between words and pixels on one side, tokens and latents on the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from unigrpo.errors import ConfigError
from unigrpo.models.processor import Processor
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory
from unigrpo.worlds import Shapes

MODEL, WORLD = tiny.model(), Shapes()
PROCESSOR = Processor(MODEL, WORLD)
WORDS = st.lists(st.sampled_from(["red", "circle", "top", "left", ".", "</image>", "<bos>"]), max_size=4)
#: What a row says and how it ends; a text that is cut says something.
ROWS = st.one_of(
    st.tuples(WORDS, st.sampled_from(["stop", "paint", None])), st.tuples(WORDS.filter(len), st.just("cut"))
)


@pytest.mark.parametrize("family", ["images", "stories"])
def test_a_prompt_is_given_as_its_text(family):
    prompts = [tests[0] for tests in WORLD.prompts_by_task("test", family).values()]
    (segment,) = PROCESSOR.encode(prompts)
    assert segment.given
    assert MODEL.tokenizer.decode(segment.tokens, segment.mask) == [prompt.prompt for prompt in prompts]


def test_an_edit_gives_its_picture_and_then_its_instructions():
    prompts = [tests[0] for tests in WORLD.prompts_by_task("test", "edits").values()]
    source, *instructions = PROCESSOR.encode(prompts)
    assert isinstance(source, ImageSegment)
    assert source.given
    assert source.alive.all()
    rendered = torch.stack([torch.from_numpy(WORLD.render(prompt.source)) for prompt in prompts])
    assert torch.equal(source.latents, MODEL.autoencoder.encode(rendered))
    texts = [MODEL.tokenizer.decode(segment.tokens, segment.mask) for segment in instructions]
    assert [list(row) for row in zip(*texts, strict=True)] == [list(prompt.instructions) for prompt in prompts]


def segment_of(rows: list[tuple[list[str], str | None]], turn: int) -> TextSegment:
    ids = MODEL.tokenizer.words()
    closing = {"stop": [MODEL.tokenizer.eos], "paint": [MODEL.tokenizer.start_of_image], "cut": [], None: []}
    said = [[ids[word] for word in words] * (end is not None) + closing[end] for words, end in rows]
    length = max(1, *map(len, said))
    tokens = torch.tensor([row + [MODEL.tokenizer.pad] * (length - len(row)) for row in said])
    mask = torch.arange(length) < torch.tensor([len(row) for row in said])[:, None]
    return TextSegment(tokens, mask, turn=turn)


@given(st.lists(ROWS, min_size=2, max_size=4), st.integers(0, 3))
def test_what_was_said_is_read_word_for_word_and_so_is_its_end(rows, turn):
    trajectory = Trajectory(tuple(range(len(rows))), 1, (segment_of(rows, turn),), (None,))
    decoded = PROCESSOR.decode(trajectory)
    (words,) = decoded.parts
    assert words.texts == [" ".join(said) * (end is not None) for said, end in rows]
    assert words.ends == [end for _, end in rows]
    assert words.lengths == [(end is not None) * (len(said) + (end != "cut")) for said, end in rows]
    assert words.alive == [end is not None for _, end in rows]
    assert (words.turn, words.given) == (turn, False)
    assert decoded.prompts == list(range(len(rows)))


def test_pictures_are_decoded():
    alive = torch.tensor([True, False])
    segment = ImageSegment((), tiny.randn(2, 3, 4, 4), alive, given=True, turn=2)
    (pictures,) = PROCESSOR.decode(Trajectory("ab", 1, (segment,), (None,))).parts
    assert torch.equal(pictures.pixels, MODEL.autoencoder.decode(segment.latents))
    assert pictures.pixels.dtype == torch.float32
    assert (pictures.alive, pictures.given, pictures.turn) == ([True, False], True, 2)


def test_what_a_group_shares_is_said_and_shown_in_every_row():
    text = segment_of([(["red"], "stop"), (["circle", "."], "cut")], 0)
    picture = ImageSegment((), tiny.randn(2, 3, 4, 4), torch.tensor([True, False]))
    own = segment_of([([word], "paint") for word in ("top", "left", ".", "red", "circle", "top")], 1)
    decoded = PROCESSOR.decode(Trajectory("ab", 3, (text, picture, own), (None,) * 3))
    words, pictures, others = decoded.parts
    assert words.texts == ["red"] * 3 + ["circle ."] * 3
    assert words.ends == ["stop"] * 3 + ["cut"] * 3
    assert words.lengths == [2] * 6
    assert pictures.alive == [True] * 3 + [False] * 3
    assert torch.equal(pictures.pixels[0], pictures.pixels[2])
    assert others.texts == ["top", "left", ".", "red", "circle", "top"]
    assert decoded.prompts == list("aaabbb")


def asked(key: str, **fields):
    return SimpleNamespace(key=key, prompt="red circle", **fields)


@pytest.mark.parametrize(
    ("fields", "odd", "what"),
    [
        (({}, {"source": "s"}, {}, {"source": "s"}), "p1", "having a source picture"),
        (({"source": "s"}, {"source": "s"}, {"source": None}), "p2", "having a source picture"),
        (({"instructions": ("red", "red")}, {"instructions": ("red",)}), "p1", "the number of their texts"),
        (({}, {"instructions": ("red", "red")}), "p1", "the number of their texts"),
    ],
)
def test_a_mixed_batch_is_refused_for_its_rows_would_be_paired_with_each_other(fields, odd, what):
    scene = WORLD.prompts_by_task("test", "edits")["add"][0].source
    prompts = [
        asked(f"p{k}", **{name: scene if value == "s" else value for name, value in one.items()})
        for k, one in enumerate(fields)
    ]
    with pytest.raises(ConfigError, match=f"'p0' and '{odd}' differ in {what}"):
        PROCESSOR.encode(prompts)


def test_prompts_whose_source_is_none_give_their_text_alone():
    (segment,) = PROCESSOR.encode([asked("a", source=None), asked("b")])
    assert segment.rows == 2
