"""A policy that paints token by token: against the dense forward, with the cache, who sees whom, whose is what."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models import tiny
from tests.models.reference import Block, Reference
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.mot.policy import MoTPolicy

LEVELS = (3, 2, 2)
POLICY = tiny.policy(code_levels=LEVELS).requires_grad_(False)
BEGIN = 12
ALL = torch.ones(2, dtype=torch.bool)


def codes_of(seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(BEGIN, (rows, 4), generator=torch.Generator().manual_seed(seed))


def begun(codes: torch.Tensor) -> torch.Tensor:
    return torch.cat((torch.full((len(codes), 1), BEGIN), codes), 1)


def read(policy: MoTPolicy, lengths: list[int] | None = None, seed: int = 0) -> MoTContext:
    """The context after a text."""
    segment = tiny.text(lengths or [4, 2], seed)
    return policy.extend_text(policy.start(len(segment.tokens)), segment.tokens, segment.mask)[1]


@pytest.mark.parametrize("size", [(2, 3), (3, 2)])
def test_blocks_are_the_dense_forward(size):
    """Text, a picture, text, another picture: one mask over all tokens says the same."""
    policy = tiny.policy(code_levels=LEVELS, latent_size=size).double().requires_grad_(False)
    words, pictures = [[1, 7, 5, 2], [1, 6, 2]], [[3, 0, 11, 5, 5, 1], [2, 9, 4, 4, 10, 7]]
    blocks = [Block(words[0]), Block(codes=pictures[0]), Block(words[1]), Block(codes=pictures[1])]
    texts, painted = Reference(policy.config, policy.state_dict())(blocks)
    context, one = policy.start(1), torch.ones(1, dtype=torch.bool)
    for index in range(2):
        tokens = torch.tensor([words[index]])
        logits, context = policy.extend_text(context, tokens, torch.ones_like(tokens, dtype=torch.bool))
        torch.testing.assert_close(logits[0], texts[index], atol=1e-5, rtol=0)
        logits, context = policy.extend_codes(context, begun(torch.tensor([pictures[index]])), one)
        assert logits.std() > 0.1
        torch.testing.assert_close(logits[0], painted[index], atol=1e-5, rtol=0)
    assert context.position.tolist() == [4 + 1 + 3 + 1], "a picture takes one rotary position"


@given(st.lists(st.integers(1, 4), max_size=4), st.integers(0, 99))
def test_token_by_token_is_the_block(cuts, seed):
    codes, context = begun(codes_of(seed)), read(POLICY)
    logits, whole = POLICY.extend_codes(context, codes, ALL)
    found, bounds = [], [0, *sorted(set(cuts)), 5]
    for start, end in pairwise(bounds):
        piece, context = POLICY.extend_codes(context, codes[:, start:end], ALL, start)
        found.append(piece)
    torch.testing.assert_close(torch.cat(found, 1), logits, atol=1e-5, rtol=0)
    assert torch.equal(context.position, whole.position)
    assert context.valid.shape == whole.valid.shape
    later = tiny.text([3, 1], seed)
    one, two = (POLICY.extend_text(c, later.tokens, later.mask)[0][later.mask] for c in (context, whole))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@given(st.integers(0, 3), st.integers(0, 99))
def test_a_code_is_seen_by_those_after_it_and_by_later_text(place, seed):
    codes, context = codes_of(seed), read(POLICY)
    changed = codes.clone()
    changed[:, place] = (codes[:, place] + 1) % BEGIN
    (mine, after), (theirs, other) = (POLICY.extend_codes(context, begun(x), ALL) for x in (codes, changed))
    assert torch.equal(mine[:, : place + 1], theirs[:, : place + 1])
    assert (mine[:, place + 1 :] != theirs[:, place + 1 :]).any(-1).all()
    later = tiny.text([2, 2])
    assert not torch.equal(*(POLICY.extend_text(c, later.tokens, later.mask)[0] for c in (after, other)))


def test_a_picture_that_was_not_made_leaves_no_trace():
    context, alive = read(POLICY), torch.tensor([True, False])
    longer = [POLICY.extend_codes(context, begun(codes_of(seed)), alive)[1] for seed in (1, 2)]
    assert torch.equal(longer[0].position, context.position + torch.tensor([1, 0]))
    later = tiny.text([3, 3])
    (one, two), bare = (
        [POLICY.extend_text(c, later.tokens, later.mask)[0] for c in longer],
        POLICY.extend_text(context, later.tokens, later.mask)[0],
    )
    assert torch.equal(one[1], two[1])
    torch.testing.assert_close(one[1], bare[1], atol=1e-5, rtol=0)
    assert not torch.equal(one[0], two[0])
    assert all(tensor.isfinite().all() for tensor in (one, two))


def test_latents_and_codes_are_one():
    codes = codes_of(5)
    latents = POLICY.latents_of(codes)
    assert latents.shape == (2, *POLICY.latent_shape)
    assert torch.equal(POLICY.codes_of(latents), codes)
    assert POLICY.num_image_codes == BEGIN


def test_the_two_experts_share_out_all_parameters():
    policy = MoTPolicy(tiny.config(code_levels=LEVELS))
    names = {id(parameter): name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    text, image = ([names[id(p)] for p in policy.parameters_of(modality)] for modality in ("text", "image"))
    assert sorted(text + image) == sorted(names.values())
    assert {name for name in image if "_moe_gen" not in name} == {"code2llm.weight", "llm2code.weight", "llm2code.bias"}
    assert not any("_moe_gen" in name for name in text)


def test_the_loss_of_codes_trains_all_of_the_generation_expert():
    policy = tiny.policy(code_levels=LEVELS)
    codes = codes_of(1)
    logits, _ = policy.extend_codes(read(policy).detach(), begun(codes), ALL)
    logits[:, :-1].log_softmax(-1).gather(-1, codes[..., None]).sum().backward()
    assert all(parameter.grad.any() for parameter in policy.parameters_of("image"))
    touched = policy.language_model.model.embed_tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [policy.config.start_of_image_id], "the last marker comes after all that is predicted"


def test_a_flow_model_knows_nothing_of_codes():
    names = [name for name, _ in MoTPolicy(tiny.config()).named_parameters()]
    assert not any("code" in name for name in names)


@pytest.mark.parametrize("wrong", [{"latent_channels": 4}, {"latent_patch_size": 2}, {"time_conditioning": "adaln"}])
def test_what_codes_do_not_go_with_is_refused(wrong):
    with pytest.raises(ValueError, match=r"code_levels=\(3, 2, 2\): expected one per latent channel"):
        tiny.config(code_levels=LEVELS, **wrong)
