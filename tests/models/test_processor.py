"""Between words and pixels on one side, tokens and latents on the other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.models import tiny
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError
from unigrpo.models.processor import StandardProcessor, fitted
from unigrpo.models.template import ChatTemplate
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory
from unigrpo.worlds.shapes.dataset import Drawn, Shapes
from unigrpo.worlds.shapes.grammar import Scene

MODEL = tiny.model()
PROCESSOR = MODEL.processor
WORDS = st.lists(st.sampled_from(["red", "circle", "top", "left", ".", "</image>", "<bos>"]), max_size=4)
#: What a row says and how it ends; a text that is cut says something.
ROWS = st.one_of(
    st.tuples(WORDS, st.sampled_from(["stop", "image", None])), st.tuples(WORDS.filter(len), st.just("cut"))
)


@pytest.mark.parametrize("task", ["images", "stories"])
def test_a_prompt_is_given_as_its_text(task):
    prompts = [tests[0] for tests in Shapes(task).prompts("test").values()]
    (segment,) = PROCESSOR.encode(prompts)
    assert segment.given
    assert MODEL.tokenizer.decode(segment.tokens, segment.mask) == [prompt.text for prompt in prompts]


def test_an_edit_gives_its_picture_and_then_its_instructions():
    prompts = [tests[0] for tests in Shapes("edits").prompts("test").values()]
    source, *instructions = PROCESSOR.encode(prompts)
    assert isinstance(source, ImageSegment)
    assert source.given
    assert source.alive.all()
    rendered = torch.stack([torch.from_numpy(prompt.images[0].pixels()) for prompt in prompts])
    assert torch.equal(source.latents, MODEL.autoencoder.encode(rendered))
    texts = [MODEL.tokenizer.decode(segment.tokens, segment.mask) for segment in instructions]
    assert [list(row) for row in zip(*texts, strict=True)] == [list(prompt.turns) for prompt in prompts]


def seeing():
    return StandardProcessor(MODEL.tokenizer, MODEL.autoencoder, PROCESSOR.grid, vision=tiny.Quarters())


def test_given_images_are_seen_by_their_pixels_and_generated_ones_as_decoded():
    prompts = [tests[0] for tests in Shapes("edits").prompts("test").values()]
    processor, look = seeing(), tiny.Quarters()
    source, *_ = processor.encode(prompts)
    pixels = torch.stack([torch.from_numpy(prompt.images[0].pixels()) for prompt in prompts])
    assert torch.equal(source.features, look(pixels))
    again = processor.see(source)
    assert torch.equal(again, look(MODEL.autoencoder.decode(source.latents)))
    assert not torch.allclose(again, source.features, atol=1e-2)
    assert PROCESSOR.see is None
    assert PROCESSOR.encode(prompts)[0].features is None


def test_what_rows_hold_that_are_over_is_not_decoded():
    latents, alive = tiny.randn(2, 3, 4, 4), torch.tensor([True, False])
    whole = seeing().see(ImageSegment((), latents, torch.ones_like(alive)))
    latents[1] = torch.nan
    part = seeing().see(ImageSegment((), latents, alive))
    assert torch.equal(part[0], whole[0])
    assert part.isfinite().all()


def test_an_image_of_another_size_is_seen_as_it_is_painted():
    """Fitted: the encoder sees what the autoencoder does."""
    (prompt,) = [Prompt("a", "red", images=(Drawn(Scene(())),))]
    source, _ = seeing().encode([prompt], 16, 24)
    (pixels,) = (fitted(torch.from_numpy(image.pixels()), (16, 24)) for image in prompt.images)
    assert torch.equal(source.features, tiny.Quarters()(pixels[None]))


def test_a_vision_encoder_moves_with_the_processor():
    moved = []

    class Movable(tiny.Quarters):
        def to(self, device):
            moved.append(device)
            return self

    StandardProcessor(MODEL.tokenizer, MODEL.autoencoder, PROCESSOR.grid, vision=Movable()).to(torch.device("cpu"))
    assert moved == [torch.device("cpu")]


def segment_of(rows: list[tuple[list[str], str | None]], turn: int) -> TextSegment:
    ids = MODEL.tokenizer.words()
    closing = {"stop": [MODEL.tokenizer.eos], "image": [MODEL.tokenizer.start_of_image], "cut": [], None: []}
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
    own = segment_of([([word], "image") for word in ("top", "left", ".", "red", "circle", "top")], 1)
    decoded = PROCESSOR.decode(Trajectory("ab", 3, (text, picture, own), (None,) * 3))
    words, pictures, others = decoded.parts
    assert words.texts == ["red"] * 3 + ["circle ."] * 3
    assert words.ends == ["stop"] * 3 + ["cut"] * 3
    assert words.lengths == [2] * 6
    assert pictures.alive == [True] * 3 + [False] * 3
    assert torch.equal(pictures.pixels[0], pictures.pixels[2])
    assert others.texts == ["top", "left", ".", "red", "circle", "top"]
    assert decoded.prompts == list("aaabbb")


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (20, 20), (33, 32)])
def test_an_image_of_another_size_is_scaled_and_cut_as_pillow_does_it(shape):
    pixels = tiny.randn(3, *shape).tanh()
    scale = 32 / min(shape)
    height, width = (round(side * scale) for side in shape)
    top, left = (height - 32) // 2, (width - 32) // 2
    box = (left, top, left + 32, top + 32)
    channels = [
        np.asarray(Image.fromarray(channel.numpy()).resize((width, height), Image.Resampling.BICUBIC).crop(box))
        for channel in pixels
    ]
    expected = torch.from_numpy(np.stack(channels)).clamp(-1, 1)
    torch.testing.assert_close(fitted(pixels, (32, 32)), expected, atol=1e-5, rtol=1e-5)


def test_given_images_have_the_size_that_is_asked_for():
    class Plain:
        def __init__(self, *shape):
            self.shape = shape

        def pixels(self):
            return np.full(self.shape, 0.5, dtype=np.float32)

        def digest(self):
            return str(self.shape)

    prompts = [
        Prompt(f"p{k}", "red circle", images=(Plain(3, *shape),)) for k, shape in enumerate([(48, 80), (32, 32)])
    ]
    for size in (0, 40):
        source, _ = PROCESSOR.encode(prompts, size, size)
        assert source.latents.shape[1:] == PROCESSOR.latent_shape(size, size)
    whole = Drawn(Scene(()))
    assert torch.equal(fitted(torch.from_numpy(whole.pixels()), (32, 32)), torch.from_numpy(whole.pixels()))


SOURCE = (Drawn(Scene(())),)
TWO = ("red circle", "red")


@pytest.mark.parametrize(
    ("fields", "odd", "what"),
    [
        (({}, {"images": SOURCE}, {}, {"images": SOURCE}), "p1", "the number of their images"),
        (({"images": SOURCE}, {"images": SOURCE}, {}), "p2", "the number of their images"),
        (({"images": SOURCE}, {"images": SOURCE * 2}), "p1", "the number of their images"),
        (({"turns": TWO}, {"turns": TWO[:1]}), "p1", "the number of their texts"),
        (({}, {"turns": TWO}), "p1", "the number of their texts"),
    ],
)
def test_a_mixed_batch_is_refused_for_its_rows_would_be_paired_with_each_other(fields, odd, what):
    prompts = [Prompt(f"p{k}", "red circle", **one) for k, one in enumerate(fields)]
    with pytest.raises(ConfigError, match=f"'p0' and '{odd}' differ in {what}"):
        PROCESSOR.encode(prompts)


def test_prompts_without_images_give_their_text_alone_even_beside_one_of_a_single_turn():
    (segment,) = PROCESSOR.encode([Prompt("a", "red circle", turns=("red circle",)), Prompt("b", "red circle")])
    assert segment.rows == 2


def test_several_images_are_given_in_their_order():
    sources = [prompts[0].images[0] for prompts in Shapes("edits").prompts("test").values()]
    pairs = [(sources[0], sources[1]), (sources[2], sources[3])]
    first, second, _ = PROCESSOR.encode([Prompt(f"p{k}", "red circle", images=pair) for k, pair in enumerate(pairs)])
    for k, segment in enumerate((first, second)):
        pixels = torch.stack([torch.from_numpy(pair[k].pixels()) for pair in pairs])
        assert torch.equal(segment.latents, MODEL.autoencoder.encode(pixels))


class TestImageSize:
    def test_0_is_the_models_own(self):
        assert PROCESSOR.image_size() == (32, 32)
        assert PROCESSOR.latent_shape() == (3, 4, 4)

    def test_another_is_counted_in_pixels(self):
        assert PROCESSOR.latent_shape(16, 40) == (3, 2, 5)

    @pytest.mark.parametrize("size", [(20, 16), (16, 20), (48, 16), (16, 0)])
    def test_what_the_model_cannot_make_is_refused(self, size):
        """Between two latent pixels, or beyond the table of positions."""
        with pytest.raises(ConfigError, match="expected multiples of 8 pixels up to 40"):
            PROCESSOR.image_size(*size)


CHAT = (
    "{% for message in messages %}red {{ message.role == 'system' and 'top' or 'left' }} {{ message.content }} <eos> "
    "{% endfor %}{% if add_generation_prompt %}red circle{% endif %}"
)


class TestChatTemplate:
    """The template frames a request, and its last token is what the reply begins with."""

    def test_a_request_is_framed_and_the_reply_begins_where_the_template_ends(self):
        tokenizer, grid = MODEL.tokenizer, PROCESSOR.grid
        chat = StandardProcessor(tokenizer, MODEL.autoencoder, grid, ChatTemplate(CHAT, system_prompt="top left"))
        words = tokenizer.words()
        assert (chat.ids.prompt, chat.ids.bos, chat.ids.eos) == (words["red"], words["circle"], tokenizer.eos)
        (segment,) = chat.encode([Prompt("a", "top"), Prompt("b", "left left")])
        framed = "top top left <eos> red left {} <eos> red"
        assert tokenizer.inner.decode_batch(segment.tokens.tolist(), skip_special_tokens=False)[1] == framed.format(
            "left left"
        )
        assert segment.mask.sum(1).tolist() == [len(framed.format("top").split()), len(framed.split()) + 1]

    def test_where_nothing_is_replied_a_request_has_its_last_token(self):
        tokenizer, template = MODEL.tokenizer, ChatTemplate(CHAT)
        silent = StandardProcessor(tokenizer, MODEL.autoencoder, PROCESSOR.grid, template, answered=False)
        (segment,) = silent.encode([Prompt("a", "top"), Prompt("b", "left left")])
        texts = [
            tokenizer.inner.decode(row[kept].tolist(), skip_special_tokens=False)
            for row, kept in zip(segment.tokens, segment.mask, strict=True)
        ]
        assert texts == ["left top <eos> red circle", "left left left <eos> red circle"]

    def test_one_that_wants_parts_gets_each_text_as_a_part(self):
        source = "{% for m in messages %}{{ m.role }}{% for c in m.content %}={{ c.type }}:{{ c.text }};{% endfor %}"
        template = ChatTemplate(source + "{% endfor %}", "be brief", in_parts=True)
        assert template.render("a b") == "system=text:be brief;user=text:a b;"

    def test_one_that_frames_requests_unlike_each_other_is_refused(self):
        odd = "{{ messages[0].content or 'red' }} top {% if messages[0].content %}circle{% else %}left{% endif %}"
        chat = StandardProcessor(MODEL.tokenizer, MODEL.autoencoder, PROCESSOR.grid, ChatTemplate(odd))
        with pytest.raises(ConfigError, match=r"expected every request to begin with token .* for 'red'"):
            chat.encode([Prompt("a", "red")])

    def test_one_may_leave_a_loop_early(self):
        early = "{% if loop.index > 1 %}{% break %}{% endif %}"
        source = f"{{% for message in messages %}}{early}{{{{ message.content }}}}{{% endfor %}}"
        assert ChatTemplate(source, "first").render("second") == "first"

    @pytest.mark.parametrize("wrong", ["{% if %}", "{{ raise_exception('no system') }}"])
    def test_one_that_cannot_be_rendered_is_named(self, wrong):
        with pytest.raises(ConfigError, match="the chat template cannot be rendered"):
            ChatTemplate(wrong).render("red")

    def test_it_is_read_from_a_tokenizers_folder(self, tmp_path):
        with pytest.raises(ConfigError, match=r"expected a chat template in chat_template\.jinja or"):
            ChatTemplate.of_folder(tmp_path, {})
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ bos_token }}"}))
        assert ChatTemplate.of_folder(tmp_path, {"bos_token": "b"}).render("red") == "b"
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
        assert ChatTemplate.of_folder(tmp_path, {}).render("red") == "red"
