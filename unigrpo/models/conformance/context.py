"""What a policy makes of texts and images: sizes, contexts, padding, and that a block is its tokens."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

import torch

from unigrpo.models.conformance.expect import close, demand, equal, same
from unigrpo.models.conformance.probe import Probe
from unigrpo.models.policy import VisionPolicy
from unigrpo.models.processor import StandardProcessor
from unigrpo.rollout.trajectory import ImageSegment


@torch.no_grad()
def vocabulary(probe: Probe) -> None:
    """Every token of the tokenizer can be read and is scored."""
    if not probe.writes:
        return
    processor, scored = probe.processor, _scored(probe, 0)
    found = asdict(processor.ids)
    ids = [*found.pop("system"), *found.pop("stops"), *(i for i in found.values() if i is not None)]
    demand(max(ids) < scored, f"the tokenizer's ids {ids}: the policy has {scored} tokens")
    known = len(processor.tokenizer) if isinstance(processor, StandardProcessor) else int(probe.tokens.max()) + 1
    demand(
        known <= scored,
        f"the tokenizer has {known} tokens, the policy scores {scored}: enlarge its embeddings and head to {known}",
    )
    try:
        _scored(probe, scored - 1)
    except IndexError as error:
        raise AssertionError(
            f"extend_text: token {scored - 1} cannot be read, though the policy scores {scored} ({error}); tables of"
            " embeddings and head must have one size"
        ) from error


def _scored(probe: Probe, token: int) -> int:
    """How many tokens the policy scores, after reading one."""
    tokens = torch.full((1, 1), token, device=probe.policy.device)
    logits, _ = probe.policy.extend_text(probe.policy.start(1), tokens, torch.ones_like(tokens, dtype=torch.bool))
    return logits.shape[2]


@torch.no_grad()
def sizes(probe: Probe) -> None:
    """Sizes, dtypes and devices."""
    policy = probe.policy
    logits, context = probe.read()
    if probe.writes:
        same("extend_text: shape of the logits", logits.shape[:2], probe.tokens.shape)
    same("the context's batch", context.batch, 2)
    none, _ = policy.extend_text(policy.start(2), probe.tokens, probe.mask, logits=False)
    same("extend_text without logits: their shape", none.shape, (2, 0, logits.shape[2]))
    for t in (probe.t, probe.t.expand(2), probe.t.double()):
        velocity = policy.velocity(context, probe.x, t)
        same("velocity: its shape", velocity.shape, probe.x.shape)
        same("velocity: its dtype is that of x, so that latents stay fp32", velocity.dtype, probe.x.dtype)
    same("velocity: its device", velocity.device, policy.device)
    one, each = policy.velocity(context, probe.x, probe.t), velocity
    close("velocity: one time for all rows, and one for each", one, each, "the SFT draws a time for each row")
    other = policy.velocity(context, probe.x, probe.t / 2)
    demand(not torch.equal(other, one), "velocity: does not depend on the time")


@torch.no_grad()
def contexts_stay(probe: Probe) -> None:
    """No call changes a context that it is given; and what is in it has an effect."""
    policy = probe.policy
    _, context = probe.read()
    before = probe.answers(context)
    equal(
        "a context that was read from is another afterwards",
        before,
        probe.answers(context),
        "all denoising steps, and all members of a group, share it: build a new one, change none in place",
    )
    start = probe.start()
    bare = probe.answers(start)
    policy.extend_text(start, probe.tokens, probe.mask, logits=probe.writes)
    equal("the empty context is another after a text", bare, probe.answers(start), "branches start from it")
    demand(not torch.equal(bare[0], before[0]), "velocity: does not depend on the text; prompts have no effect")
    other = torch.full_like(probe.tokens, probe.processor.ids.eos)
    _, context = policy.extend_text(start, other, probe.mask, logits=False)
    said = policy.velocity(context, probe.x, probe.t)
    demand(
        not torch.allclose(said, before[0]),
        "velocity: does not depend on what the text says, only on how long it is; prompts have no effect",
    )
    for modality, blind, seeing in probe.seen(before):
        what = {"image": "velocity: does", "text": "logits: do"}[modality]
        demand(not torch.equal(blind, seeing), f"{what} not depend on the image before; nothing sees it")


def laws_of_contexts(probe: Probe) -> None:
    """What ``repeat``, ``rows``, ``detach`` and ``followed_by`` are."""
    policy, t = probe.policy, probe.t
    with torch.no_grad():
        _, context = probe.read()
        index = torch.tensor([0, 0, 1, 1], device=policy.device)
        x = probe.x[index]
        twice = policy.velocity(context.repeat(2), x, t)
        same("repeat: rows", context.repeat(2).batch, 4)
        apart = policy.velocity(context, probe.x, t)
        why = "the rows of a group would get another prompt's images"
        close("repeat: rows 0, 1 -> 0, 0, 1, 1", twice, apart[index], why)
        close("rows: those that are named", policy.velocity(context.rows(index), x, t), twice, why)
        swapped = policy.velocity(context.rows(index[[2, 0]]), x[[2, 0]], t)
        close("rows: in the order in which they are named", swapped, apart[[1, 0]], why)
    probe.thaw()
    _, context = probe.read()
    equal("detach: values", probe.answers(context.detach()), probe.answers(context), "it may stop gradients alone")
    if not probe.reads:  # nothing is asked behind an image
        return
    longer = policy.extend_image(context, probe.latents, probe.every)
    joined = context.followed_by(longer)
    own, whole = (policy.velocity(c, probe.x, t).detach() for c in (joined, longer))
    equal("followed_by: values", [own], [whole], "it may stop gradients alone")
    if not probe.writes:
        return
    expected = probe.gradients_of_text(longer.detach())
    found = probe.gradients_of_text(context.detach().followed_by(longer))
    why = "without context_grad an image would be trained by the texts after it"
    equal("followed_by: gradients through what the longer one has more", expected, found, why)
    if "text" in probe.modalities:
        through = probe.gradients_of_text(context.followed_by(longer.detach()))
        stopped = all(map(torch.equal, through, expected))
        # Where what makes a context is frozen, as embeddings under a LoRA are, there is none to be had.
        there, cut = (probe.gradients_of_text(start) for start in (context, context.detach()))
        demand(
            not stopped or all(map(torch.equal, there, cut)),
            "followed_by: no gradient through the beginning; texts would not learn from later texts",
        )


@torch.no_grad()
def masked_rows(probe: Probe) -> None:
    """Padding, and rows whose episode is over."""
    policy, x, t = probe.policy, probe.x, probe.t
    other = probe.tokens.where(probe.mask, probe.processor.ids.eos)
    row = probe.every.clone()
    row[1] = False
    logits, context = probe.read()
    changed, longer = policy.extend_text(probe.start(), other, probe.mask, logits=probe.writes)
    why = "what stands in padding means nothing; it would leak between episodes"
    if probe.writes:
        equal("masked tokens", [logits[probe.mask]], [changed[probe.mask]], why)
    equal("masked tokens, in the context", probe.answers(context), probe.answers(longer), why)
    # The other prompt: a model that is conditioned on what was written last would not tell the same one.
    tokens, mask = probe.tokens.flip(0), probe.mask.flip(0) & row[:, None]
    over, ended = policy.extend_text(context, tokens, mask, logits=probe.writes)
    demand(bool(over.isfinite().all()), "extend_text: NaN where a row has no token; it spreads to all gradients")
    extensions = [("text", ended)]
    if "image" in probe.reads:
        extensions.append(("image", policy.extend_image(context, probe.latents.flip(0), row)))
    why = "that episode is over: nothing may be added to it"
    for what, extended in extensions:
        mine, theirs = (policy.velocity(c, x, t)[1] for c in (extended, context))
        close(f"a row without the {what}", mine, theirs, why)
        first, kept = (policy.velocity(c, x, t)[0] for c in (extended, context))
        demand(not torch.equal(first, kept), f"velocity: does not depend on the {what} before")


@torch.no_grad()
def features(probe: Probe) -> None:
    """What a vision encoder sees is read, by the rows that have the image alone, in a context of its own."""
    see = probe.processor.see
    if probe.features is None or see is None:
        return
    same("see: dimensions and rows of the features [B, N, D]", (probe.features.dim(), len(probe.features)), (3, 2))
    policy, reader = probe.policy, cast("VisionPolicy", probe.policy)
    row = probe.every.clone()
    row[1] = False
    _, context = probe.read()
    image = policy.extend_image(context, probe.latents, row)
    before = probe.answers(image)
    seen = reader.extend_features(image, probe.features, row)
    why = "build a new one, change none in place"
    equal("the context that features were appended to is another", before, probe.answers(image), why)
    other = probe.features.clone()
    other[0] = see(ImageSegment((), probe.x, probe.every))[0]
    both = probe.show(context)
    changed = reader.extend_features(policy.extend_image(context, probe.latents, probe.every), other, probe.every)
    index, one = probe.every.nonzero()[1], slice(1, 2)
    why = "features belong to one image of one episode"
    for what, *pair in (("without the image", seen, image), ("whose neighbour has other ones", both, changed)):
        mine, theirs = (probe.answers(found.rows(index), rows=one) for found in pair)
        for a, b in zip(mine, theirs, strict=True):
            close(f"extend_features: a row {what}", a, b, why)
    of_texts = "text" in probe.reads
    read, unread = (probe.answers(found)[int(of_texts)][0] for found in (both, changed))
    made = "logits" if of_texts else "velocities"
    demand(not torch.equal(read, unread), f"extend_features: {made} do not depend on the features; nothing reads them")


@torch.no_grad()
def rows_alone(probe: Probe) -> None:
    """A row without its neighbour, and without the padding that it has beside a longer one."""
    policy = probe.policy
    logits, together = probe.read()
    why = "a row depends on how long its neighbours are; its positions must count its own tokens, not padded places"
    for row, length in enumerate(probe.mask.sum(1).tolist()):
        one = slice(row, row + 1)
        tokens, mask = probe.tokens[one, :length], probe.mask[one, :length]
        lone, alone = policy.extend_text(probe.start(rows=one), tokens, mask, logits=probe.writes)
        if probe.writes:
            close("a row alone and in a batch", logits[one, :length], lone, why)
        its = together.rows(torch.tensor([row], device=policy.device))
        for mine, theirs in zip(probe.answers(its, rows=one), probe.answers(alone, rows=one), strict=True):
            close("after a row alone and in a batch", mine, theirs, why)


@torch.no_grad()
def blocks(probe: Probe) -> None:
    """The logits of a block are those of its tokens one at a time; images are made behind whole blocks alone."""
    if not probe.writes:
        return
    policy = probe.policy
    logits, _ = probe.read()
    found, context = [], probe.start()
    for k in range(probe.tokens.shape[1]):
        one, context = policy.extend_text(context, probe.tokens[:, k : k + 1], probe.mask[:, k : k + 1])
        found.append(one)
    what = "a block of tokens, and the same tokens one at a time"
    why = "texts are sampled one at a time and scored as a block, where a token sees those before it alone"
    close(f"logits of {what}", torch.cat(found, 1)[probe.mask], logits[probe.mask], why)
