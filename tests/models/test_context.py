"""What a context promises: padding, sharing and order change nothing; nothing is changed in place; who sees whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import tiny
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.mot.policy import MoTPolicy
from unigrpo.rollout.trajectory import TextSegment

POLICY = tiny.policy().requires_grad_(False)
T = torch.tensor(0.6)


def every(rows: int) -> Tensor:
    """A picture in each of the rows."""
    return torch.ones(rows, dtype=torch.bool)


def extend(policy: MoTPolicy, context: MoTContext, segment: TextSegment) -> tuple[Tensor, MoTContext]:
    return policy.extend_text(context, segment.tokens, segment.mask)


def cut(segment: TextSegment, row: int) -> TextSegment:
    """One row without its padding."""
    length = int(segment.mask[row].sum())
    return TextSegment(segment.tokens[row : row + 1, :length], segment.mask[row : row + 1, :length])


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=2, max_size=4), st.integers(0, 99))
def test_p48_right_padding_changes_nothing(lengths, seed):
    """Two ragged texts, a picture between them: every row comes out as it does alone."""
    first = tiny.text([a for a, _ in lengths], seed)
    second = tiny.text([b for _, b in lengths], seed + 1)
    clean, x = (tiny.randn(len(lengths), 3, 2, 2, seed=seed + k) for k in (2, 3))
    one, context = extend(POLICY, POLICY.start(len(lengths)), first)
    two, context = extend(POLICY, POLICY.extend_image(context, clean, every(len(clean))), second)
    velocity = POLICY.velocity(context, x, T)
    for row in range(len(lengths)):
        alone, small = extend(POLICY, POLICY.start(1), cut(first, row))
        close(one[row, first.mask[row]], alone[0])
        alone, small = extend(POLICY, POLICY.extend_image(small, clean[row : row + 1], every(1)), cut(second, row))
        close(two[row, second.mask[row]], alone[0])
        close(velocity[row], POLICY.velocity(small, x[row : row + 1], T)[0])
        assert context.position[row] == small.position[0]


def test_what_stands_in_the_padding_does_not_matter():
    segment = tiny.text([5, 2])
    other = TextSegment(segment.tokens.where(segment.mask, 9), segment.mask)
    logits, context = extend(POLICY, POLICY.start(2), segment)
    changed, longer = extend(POLICY, POLICY.start(2), other)
    assert torch.equal(logits[segment.mask], changed[segment.mask])
    assert logits.isfinite().all()
    x = tiny.randn(2, 3, 2, 2)
    assert torch.equal(POLICY.velocity(context, x, T), POLICY.velocity(longer, x, T))


def test_a_row_without_a_single_token_is_finite():
    """As a row of a batch it would else spread NaN through every gradient."""
    segment = tiny.text([3, 0])
    logits, context = extend(POLICY, POLICY.start(2), segment)
    assert logits.isfinite().all()
    x = tiny.randn(2, 3, 2, 2)
    close(POLICY.velocity(context, x, T)[1], POLICY.velocity(POLICY.start(1), x[1:], T)[0])


def test_a_repeated_context_is_as_good_as_separate_ones():
    segment = tiny.text([5, 3])
    _, shared = extend(POLICY, POLICY.start(2), segment)
    again = TextSegment(segment.tokens.repeat_interleave(3, 0), segment.mask.repeat_interleave(3, 0))
    _, separate = extend(POLICY, POLICY.start(6), again)
    repeated = shared.repeat(3)
    assert repeated.batch == 6
    assert torch.equal(repeated.position, separate.position)
    assert torch.equal(repeated.valid, separate.valid)
    x = tiny.randn(6, 3, 2, 2)
    close(POLICY.velocity(repeated, x, T), POLICY.velocity(separate, x, T))


@given(st.integers(1, 7), st.integers(0, 99))
def test_text_sees_no_future_token(place, seed):
    segment = tiny.text([8, 8], seed)
    tokens = segment.tokens.clone()
    tokens[:, place] = 5 + (tokens[:, place] - 4) % 8
    logits, _ = extend(POLICY, POLICY.start(2), segment)
    changed, _ = extend(POLICY, POLICY.start(2), TextSegment(tokens, segment.mask))
    assert torch.equal(logits[:, :place], changed[:, :place])
    assert (logits[:, place:] != changed[:, place:]).any(-1).all()


def test_every_patch_sees_every_patch_and_the_whole_text():
    segment = tiny.text([4])
    _, context = extend(POLICY, POLICY.start(1), segment)
    x = tiny.randn(1, 3, 2, 2)
    velocity = POLICY.velocity(context, x, T)
    for row in range(2):
        for column in range(2):
            moved = x.clone()
            moved[..., row, column] += 1
            assert (POLICY.velocity(context, moved, T) != velocity).any(1).all()
    for place in range(4):
        tokens = segment.tokens.clone()
        tokens[:, place] = 5 + (tokens[:, place] - 4) % 8
        _, other = extend(POLICY, POLICY.start(1), TextSegment(tokens, segment.mask))
        assert (POLICY.velocity(other, x, T) != velocity).any(1).all()


def test_rows_do_not_see_each_other():
    segment, x = tiny.text([4, 6]), tiny.randn(2, 3, 2, 2)
    _, context = extend(POLICY, POLICY.start(2), segment)
    changed = x.clone()
    changed[1] += 1
    assert torch.equal(POLICY.velocity(context, x, T)[0], POLICY.velocity(context, changed, T)[0])


def test_a_context_is_never_changed_in_place():
    _, context = extend(POLICY, POLICY.start(2), tiny.text([4, 2]))
    kept = [tensor.clone() for tensor in (*context.keys, *context.values, context.valid, context.position)]
    x = tiny.randn(2, 3, 2, 2)
    POLICY.velocity(context, x, T)
    extend(POLICY, context, tiny.text([3, 1]))
    POLICY.extend_image(context, x, every(2))
    context.repeat(2)
    now = (*context.keys, *context.values, context.valid, context.position)
    assert all(torch.equal(before, after) for before, after in zip(kept, now, strict=True))


def test_a_clean_picture_changes_what_follows():
    _, context = extend(POLICY, POLICY.start(1), tiny.text([3]))
    one, two = (POLICY.extend_image(context, tiny.randn(1, 3, 2, 2, seed=seed), every(1)) for seed in (1, 2))
    assert one.valid.shape[1] == context.valid.shape[1] + 2 + 4
    later = tiny.text([2])
    assert not torch.equal(extend(POLICY, one, later)[0], extend(POLICY, two, later)[0])


@given(st.integers(0, 99))
def test_a_picture_that_a_row_does_not_have_is_as_if_it_were_not_there(seed):
    """Not to the words that follow, not to the next picture, not to the positions."""
    first, second = tiny.text([3, 4], seed), tiny.text([2, 3], seed + 1)
    clean, x = (tiny.randn(2, 3, 2, 2, seed=seed + k) for k in (2, 3))
    _, context = extend(POLICY, POLICY.start(2), first)
    longer = POLICY.extend_image(context, clean, torch.tensor([True, False]))
    assert longer.position.tolist() == [context.position[0] + 1, context.position[1]]
    logits, longer = extend(POLICY, longer, second)
    whole, with_it = extend(POLICY, POLICY.extend_image(context, clean, every(2)), second)
    bare, without = extend(POLICY, context, second)
    close(logits[0, second.mask[0]], whole[0, second.mask[0]])
    close(logits[1, second.mask[1]], bare[1, second.mask[1]])
    velocity = POLICY.velocity(longer, x, T)
    close(velocity[0], POLICY.velocity(with_it, x, T)[0])
    close(velocity[1], POLICY.velocity(without, x, T)[1])


def test_some_rows_of_a_context_as_often_as_they_are_named():
    _, context = extend(POLICY, POLICY.start(3), tiny.text([5, 2, 3]))
    x = tiny.randn(4, 3, 2, 2)
    index = torch.tensor([2, 0, 0, 1])
    chosen = context.rows(index)
    assert chosen.position.tolist() == context.position[index].tolist()
    for row, of in enumerate(index):
        alone = context.rows(of[None])
        close(POLICY.velocity(chosen, x, T)[row], POLICY.velocity(alone, x[row : row + 1], T)[0])


def test_one_time_for_all_or_one_for_each():
    _, context = extend(POLICY, POLICY.start(2), tiny.text([3, 3]))
    x = tiny.randn(2, 3, 2, 2)
    same = POLICY.velocity(context, x, torch.tensor(0.4, dtype=torch.float64))
    assert torch.equal(same, POLICY.velocity(context, x, torch.tensor([0.4, 0.4])))
    mixed = POLICY.velocity(context, x, torch.tensor([0.4, 0.9]))
    close(mixed[0], same[0])
    assert (mixed[1] - same[1]).abs().max() > 1e-3


@settings(max_examples=10)
@given(st.floats(0.01, 1.0), st.integers(0, 99))
def test_predicted_data_and_velocity_say_the_same(t, seed):
    """``x = (1-t) x0 + t e`` and ``v = e - x0``, hence ``x - t v = x0``: the head's output is the clean latents."""
    data = tiny.policy(prediction="data").requires_grad_(False)
    velocity = tiny.policy(prediction="velocity").requires_grad_(False)
    x, time = tiny.randn(2, 3, 2, 2, seed=seed), torch.tensor(t)
    predicted = data.velocity(data.start(2), x, time)
    close(x - time * predicted, velocity.velocity(velocity.start(2), x, time))


def test_predicted_data_at_time_zero_is_finite():
    data = tiny.policy(prediction="data").requires_grad_(False)
    assert data.velocity(data.start(1), tiny.randn(1, 3, 2, 2), torch.tensor(0.0)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_stay_near_fp32(dtype):
    other = tiny.policy().requires_grad_(False).to(dtype)
    segment, x = tiny.text([4, 2]), tiny.randn(2, 3, 2, 2)
    _, context = extend(POLICY, POLICY.start(2), segment)
    logits, low = extend(other, other.start(2), segment)
    assert logits.dtype == low.keys[0].dtype == dtype
    velocity = other.velocity(low, x, T)
    assert velocity.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float64 else 0.3
    torch.testing.assert_close(velocity, POLICY.velocity(context, x, T), atol=tolerance, rtol=0)


@torch.no_grad()
def test_tokens_that_come_one_by_one_are_appended_in_place():
    context = POLICY.start(2)
    for token in tiny.text([9, 9]).tokens.T[:, :, None]:
        before = context
        _, context = POLICY.extend_text(context, token, torch.ones_like(token, dtype=torch.bool))
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(context.keys, before.keys, strict=True))


@torch.no_grad()
def test_two_that_go_on_from_one_context_do_not_disturb_each_other():
    """Each token is appended in place, but only once: the second way gets memory of its own."""
    segment = tiny.text([3, 3])
    _, context = extend(POLICY, POLICY.start(2), segment)
    for steps in (0, 1):  # from a block, and from a context that has room
        ways = []
        for word in (5, 9):
            token = torch.full((2, 1), word)
            ways.append(POLICY.extend_text(context, token, torch.ones_like(token, dtype=torch.bool))[1])
            ways.append(POLICY.extend_text(ways[-1], token, torch.ones_like(token, dtype=torch.bool))[1])
        for way, word in zip(ways[1::2], (5, 9), strict=True):
            tokens = torch.cat((torch.full((2, steps), 7), torch.full((2, 2), word)), 1)
            _, alone = extend(POLICY, POLICY.start(2), segment)
            _, alone = POLICY.extend_text(alone, tokens, torch.ones_like(tokens, dtype=torch.bool))
            for mine, theirs in zip(way.keys + way.values, alone.keys + alone.values, strict=True):
                close(mine, theirs)
        token = torch.full((2, 1), 7)
        _, context = POLICY.extend_text(context, token, torch.ones_like(token, dtype=torch.bool))


@torch.no_grad()
def test_more_tokens_than_there_is_room_for_are_as_a_block():
    tokens = tiny.text([80, 80]).tokens
    context = POLICY.start(2)
    for token in tokens.T[:, :, None]:
        _, context = POLICY.extend_text(context, token, torch.ones_like(token, dtype=torch.bool))
    _, block = POLICY.extend_text(POLICY.start(2), tokens, torch.ones_like(tokens, dtype=torch.bool))
    for mine, theirs in zip(context.keys + context.values, block.keys + block.values, strict=True):
        close(mine, theirs)


def test_a_velocity_reads_no_more_of_the_last_layer_than_it_needs():
    """What it leaves out has no gradient, and the context behind a given text needs its keys and values alone."""
    policy = tiny.policy()
    last = policy.language_model.model.layers[-1]
    segment = tiny.text([3, 2])
    _, context = policy.extend_text(policy.start(2), segment.tokens, segment.mask, logits=False)
    policy.velocity(context, tiny.randn(2, 3, 2, 2), T).sum().backward()
    unread = ("self_attn.o_proj.weight", "mlp.up_proj.weight", "post_attention_layernorm.weight")
    assert all(last.get_parameter(name).grad is None for name in unread)
    read = ("self_attn.k_proj.weight", "self_attn.o_proj_moe_gen.weight", "mlp_moe_gen.up_proj.weight")
    assert all(last.get_parameter(name).grad.any() for name in read)
