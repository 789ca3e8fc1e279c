"""Whether a policy and its processor keep what a run relies on: for the author of an adapter, in one line.

``assert_policy_conforms(policy, processor)`` says what is broken, and what that would do to a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor, nn

from unigrpo.data.prompt import Prompt
from unigrpo.flow.dynamics import FlowSde
from unigrpo.flow.guidance import Cfg
from unigrpo.flow.schedule import time_points
from unigrpo.models.policy import Context, Modality, Policy
from unigrpo.models.processor import Processor
from unigrpo.noise import EpisodeDraws, normal
from unigrpo.rollout.decoded import ImagePart
from unigrpo.rollout.heads import Flow
from unigrpo.rollout.rollout import Rollout, RolloutSpec, replay
from unigrpo.rollout.trajectory import ImageScore, TextScore, TextSegment, Trajectory

_MODALITIES: tuple[Modality, ...] = ("text", "image")
_T = 0.6


def assert_policy_conforms(policy: Policy, processor: Processor, prompts: tuple[str, str] = ("one", "two")) -> None:
    """Check a policy that makes images by denoising; gradients that it has are lost, nothing else of it changes.

    Args:
        policy: no weight that matters may be 0, or what it does goes unseen.
        processor: of the policy.
        prompts: two texts that the tokenizer can spell, of different lengths if possible.

    Raises:
        AssertionError: the first fault: what was expected, what was found, and why a run needs it.
    """
    probe = _Probe(policy, processor, prompts)
    wanted = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    mode = policy.training
    try:
        for check in (
            probe.parameters,
            probe.sizes,
            probe.contexts_stay,
            probe.laws_of_contexts,
            probe.masked_rows,
            probe.modes,
            probe.replay,
            probe.gradients,
            probe.copies,
            probe.weights,
            probe.processor_agrees,
        ):
            policy.eval()
            check()
    finally:
        policy.train(mode)
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None


class _Probe:
    """A policy and what to ask it."""

    def __init__(self, policy: Policy, processor: Processor, prompts: tuple[str, str]):
        self.policy, self.processor, self.prompts = policy, processor, prompts
        self.trained = [parameter for _, parameter in policy.named_parameters() if parameter.requires_grad]
        ids, device = processor.ids, policy.device
        processor.to(device)
        (text,) = processor.encode([Prompt(f"p{k}", text) for k, text in enumerate(prompts)])
        assert isinstance(text, TextSegment)
        self.text = text
        begin = torch.full((2, 1), ids.bos if ids.prompt is None else ids.prompt, device=device)
        self.tokens = torch.cat((begin, self.text.tokens), 1)
        self.mask = torch.cat((torch.ones_like(begin, dtype=torch.bool), self.text.mask), 1)
        self.shape = self.processor.latent_shape()
        self.x, self.latents = (normal([(name, row) for row in range(2)], self.shape).to(device) for name in "xl")
        self.t = torch.tensor(_T, device=device)
        self.every = torch.ones(2, dtype=torch.bool, device=device)

    def read(self, policy: Policy | None = None, rows: slice = slice(None)) -> tuple[Tensor, Context]:
        """The prompts."""
        policy = policy or self.policy
        tokens, mask = self.tokens[rows], self.mask[rows]
        return policy.extend_text(policy.start(len(tokens)), tokens, mask)

    def answers(self, context: Context, policy: Policy | None = None) -> list[Tensor]:
        """What a policy makes of a context of two rows: a velocity, and logits of a text, before and after an image."""
        policy = policy or self.policy
        logits, _ = policy.extend_text(context, self.tokens, self.mask)
        longer = policy.extend_image(context, self.latents, self.every)
        later, _ = policy.extend_text(longer, self.tokens, self.mask)
        return [policy.velocity(context, self.x, self.t), logits[self.mask], later[self.mask]]

    def thaw(self) -> None:
        """Let all that is trained want gradients again."""
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def parameters(self) -> None:
        """Names, and whose they are."""
        names = [name for name, _ in self.policy.named_parameters()]
        _demand(len(set(names)) == len(names), "named_parameters: names come twice; a checkpoint would lose weights")
        trained = {id(p): name for name, p in self.policy.named_parameters() if p.requires_grad}
        text, image = ({id(p) for p in self.policy.parameters_of(modality)} for modality in _MODALITIES)
        shared = [trained[i] for i in text & image if i in trained]
        _demand(
            not shared, f"parameters_of: {_some(shared)} in text and in image; each modality has its own learning rate"
        )
        left = [name for i, name in trained.items() if i not in text | image]
        _demand(not left, f"parameters_of: {_some(left)} in neither text nor image, but trainable; freeze it or say so")
        strange = [i for i in text | image if i not in trained]
        _demand(not strange, "parameters_of: gives frozen parameters, or some that named_parameters does not have")

    @torch.no_grad()
    def sizes(self) -> None:
        """Sizes, dtypes and devices."""
        logits, context = self.read()
        _same("extend_text: shape of the logits", logits.shape[:2], self.tokens.shape)
        _same("the context's batch", context.batch, 2)
        none, _ = self.policy.extend_text(self.policy.start(2), self.tokens, self.mask, logits=False)
        _same("extend_text without logits: their shape", none.shape, (2, 0, logits.shape[2]))
        ids = [i for i in asdict(self.processor.ids).values() if i is not None]
        _demand(max(ids) < logits.shape[2], f"the tokenizer's ids {ids}: the policy has {logits.shape[2]} tokens")
        for t in (self.t, self.t.expand(2), self.t.double()):
            velocity = self.policy.velocity(context, self.x, t)
            _same("velocity: its shape", velocity.shape, self.x.shape)
            _same("velocity: its dtype is that of x, so that latents stay fp32", velocity.dtype, self.x.dtype)
        _same("velocity: its device", velocity.device, self.policy.device)
        one, each = self.policy.velocity(context, self.x, self.t), velocity
        _close("velocity: one time for all rows, and one for each", one, each, "the SFT draws a time for each row")
        other = self.policy.velocity(context, self.x, self.t / 2)
        _demand(not torch.equal(other, one), "velocity: does not depend on the time")

    @torch.no_grad()
    def contexts_stay(self) -> None:
        """No call changes a context that it is given."""
        _, context = self.read()
        before = self.answers(context)
        _equal(
            "a context that was read from is another afterwards",
            before,
            self.answers(context),
            "all denoising steps, and all members of a group, share it: build a new one, change none in place",
        )
        start = self.policy.start(2)
        bare = self.answers(start)
        self.policy.extend_text(start, self.tokens, self.mask)
        _equal("the empty context is another after a text", bare, self.answers(start), "branches start from it")
        _demand(not torch.equal(bare[0], before[0]), "velocity: does not depend on the text; prompts have no effect")
        _demand(not torch.equal(before[1], before[2]), "logits: do not depend on the image before; nothing sees it")

    def laws_of_contexts(self) -> None:
        """What ``repeat``, ``rows``, ``detach`` and ``followed_by`` are."""
        with torch.no_grad():
            _, context = self.read()
            index = torch.tensor([0, 0, 1, 1], device=self.policy.device)
            x = self.x[index]
            twice = self.policy.velocity(context.repeat(2), x, self.t)
            _same("repeat: rows", context.repeat(2).batch, 4)
            apart = self.policy.velocity(context, self.x, self.t)
            why = "the rows of a group would get another prompt's images"
            _close("repeat: rows 0, 1 -> 0, 0, 1, 1", twice, apart[index], why)
            _close("rows: those that are named", self.policy.velocity(context.rows(index), x, self.t), twice, why)
            swapped = self.policy.velocity(context.rows(index[[2, 0]]), x[[2, 0]], self.t)
            _close("rows: in the order in which they are named", swapped, apart[[1, 0]], why)
        self.thaw()
        _, context = self.read()
        longer = self.policy.extend_image(context, self.latents, self.every)
        _equal("detach: values", self.answers(context.detach()), self.answers(context), "it may stop gradients alone")
        joined = context.followed_by(longer)
        own, whole = (self.policy.velocity(c, self.x, self.t).detach() for c in (joined, longer))
        _equal("followed_by: values", [own], [whole], "it may stop gradients alone")
        expected = self.gradients_of_text(longer.detach())
        found = self.gradients_of_text(context.detach().followed_by(longer))
        why = "without context_grad an image would be trained by the texts after it"
        _equal("followed_by: gradients through what the longer one has more", expected, found, why)
        through = self.gradients_of_text(context.followed_by(longer.detach()))
        same = all(map(torch.equal, through, expected))
        _demand(not same, "followed_by: no gradient through the beginning; texts would not learn from later texts")

    def gradients_of_text(self, context: Context) -> list[Tensor]:
        """Gradients of all weights for a text in ``context``; nothing is kept of them."""
        _clear(self.policy)
        logits, _ = self.policy.extend_text(context, self.tokens, self.mask)
        logits[self.mask].square().sum().backward(retain_graph=True)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in self.policy.named_parameters()]
        _clear(self.policy)
        return found

    @torch.no_grad()
    def masked_rows(self) -> None:
        """Padding, and rows whose episode is over."""
        other = self.tokens.where(self.mask, self.processor.ids.eos)
        row = self.every.clone()
        row[1] = False
        logits, context = self.read()
        changed, same = self.policy.extend_text(self.policy.start(2), other, self.mask)
        why = "what stands in padding means nothing; it would leak between episodes"
        _equal("masked tokens", [logits[self.mask]], [changed[self.mask]], why)
        _equal("masked tokens, in the context", self.answers(context), self.answers(same), why)
        lone, _ = self.read(rows=slice(0, 1))
        _close("a row alone and in a batch", logits[:1][self.mask[:1]], lone[self.mask[:1]], why)
        over, ended = self.policy.extend_text(context, self.tokens, self.mask & row[:, None])
        _demand(bool(over.isfinite().all()), "extend_text: NaN where a row has no token; it spreads to all gradients")
        image = self.policy.extend_image(context, self.latents, row)
        why = "that episode is over: nothing may be added to it"
        for what, extended in (("text", ended), ("image", image)):
            mine, theirs = (self.policy.velocity(c, self.x, self.t)[1] for c in (extended, context))
            _close(f"a row without the {what}", mine, theirs, why)
            first = self.policy.velocity(extended, self.x, self.t)[0]
            kept = self.policy.velocity(context, self.x, self.t)[0]
            _demand(not torch.equal(first, kept), f"velocity: does not depend on the {what} before")

    @torch.no_grad()
    def modes(self) -> None:
        """Training mode computes the same."""
        before = self.answers(self.read()[1])
        self.policy.train()
        why = "rollouts are made in training mode and compared with the reference's: switch dropout off"
        _equal("train()", before, self.answers(self.read()[1]), why)

    def rollout(self, policy: Policy) -> tuple[RolloutSpec, Trajectory]:
        """Prompt, text, image, text, image of two episodes for each prompt, guided."""
        ids = asdict(self.processor.ids)
        spec = RolloutSpec(
            time_points(3), FlowSde(), (0, 1), Cfg(2.0), 1.0, head=Flow(), latent_shape=self.shape, **ids
        )
        rollout, draws = Rollout(policy, spec, 2), EpisodeDraws(("conformance",), self.prompts, 2)
        with torch.no_grad():
            rollout.condition_on(self.text)
            rollout.repeat(2)
            for _ in range(2):
                rollout.generate_text(4, draws)
                rollout.generate_image(draws)
        prompts = [Prompt(text, text) for text in self.prompts]
        return spec, Trajectory(prompts, 2, tuple(rollout.segments), tuple(rollout.scores), rollout.cost)

    def replay(self) -> None:
        """Replay repeats sampling bit for bit, with and without gradients."""
        spec, trajectory = self.rollout(self.policy)
        why = (
            "the ratio before the first update is then not 1; a kernel may have been chosen by contiguity or by"
            " requires_grad (unigrpo.models.linear.Linear is one that is not), or cached state is in play"
        )
        for trained in (True, False):
            self.policy.requires_grad_(trained)
            found = _scores(replay(self.policy, spec, trajectory))
            _equal(f"replay of a rollout, requires_grad={trained}", _scores(trajectory), found, why)
        self.thaw()

    def gradients(self) -> None:
        """Each modality's loss reaches its own parameters; the other's only through a context with gradients."""
        spec, trajectory = self.rollout(self.policy)
        for modality in _MODALITIES:
            _clear(self.policy)
            _loss(replay(self.policy, spec, trajectory), modality).backward()
            reached = {own: _reached(self.policy.parameters_of(own)) for own in _MODALITIES}
            _demand(reached[modality] > 0, f"the loss of {modality}s reaches none of parameters_of({modality!r})")
            if modality == "text":
                _same("parameters of images that the loss of texts reaches without context_grad", reached["image"], 0)
        _clear(self.policy)
        _, context = self.read()
        self.policy.velocity(context.detach(), self.x, self.t).square().sum().backward()
        detached = _reached(self.policy.parameters_of("text"))
        _clear(self.policy)
        self.policy.velocity(self.read()[1], self.x, self.t).square().sum().backward()
        through = _reached(self.policy.parameters_of("text"))
        _demand(
            through >= detached,
            f"the loss of images reaches {through} parameters of texts through a context, {detached} through a detached"
            " one; detach() must be what stops it",
        )
        _clear(self.policy)

    @torch.no_grad()
    def copies(self) -> None:
        """A frozen copy computes the same, and stays when the policy moves."""
        frozen = copy.deepcopy(self.policy).requires_grad_(False).eval()
        expected = self.answers(self.read()[1])
        why = "the reference is such a copy: its distance to the policy would not start at 0"
        _equal("a deep copy", expected, self.answers(self.read(frozen)[1], frozen), why)
        with _moved(self.policy):
            again = self.answers(self.read(frozen)[1], frozen)
        _equal("a deep copy after the policy has moved", expected, again, "it shares weights with the policy")

    @torch.no_grad()
    def weights(self) -> None:
        """``state_dict`` holds all that changes the results."""
        expected = self.answers(self.read()[1])
        saved = {name: weight.detach().clone() for name, weight in self.policy.state_dict().items()}
        with _moved(self.policy):
            moved = self.answers(self.read()[1])
            self.policy.load_state_dict(saved)
            again = self.answers(self.read()[1])
        _demand(not all(map(torch.equal, moved, expected)), "a change of all trainable weights changes no result of it")
        _equal("load_state_dict(state_dict())", expected, again, "a resumed run would go on from other weights")

    @torch.no_grad()
    def processor_agrees(self) -> None:
        """Images have the size that is said, and the processor reads what the policy makes."""
        _, trajectory = self.rollout(self.policy)
        decoded = self.processor.decode(trajectory)
        size = self.processor.image_size()
        for part in decoded.parts:
            if isinstance(part, ImagePart):
                _same("decode: shape of the images", tuple(part.pixels.shape[1:]), (3, *size))
                _same("decode: device of the images", part.pixels.device, torch.device("cpu"))
                _demand(bool(part.pixels.abs().max() <= 1), "decode: images beyond [-1, 1]")
        texts = [part.texts for _, part in decoded.texts]
        _same("decode: texts of the policy, in turns and rows", [len(found) for found in texts], [4, 4])


def _demand(holds: bool, fault: str) -> None:
    if not holds:
        raise AssertionError(fault)


def _same(what: str, found: object, expected: object) -> None:
    _demand(found == expected, f"{what}: expected {expected}, got {found}")


def _equal(what: str, mine: list[Tensor], theirs: list[Tensor], why: str) -> None:
    for a, b in zip(mine, theirs, strict=True):
        if not torch.equal(a, b):
            raise AssertionError(f"{what}: expected the same bits, got differences up to {_gap(a, b):.3g}; {why}")


def _close(what: str, mine: Tensor, theirs: Tensor, why: str) -> None:
    """Up to rounding: another number of rows may take another kernel."""
    scale = max(1.0, float(theirs.abs().max()))
    tolerance = 1e-4 if mine.dtype in (torch.float32, torch.float64) else 5e-2
    gap = _gap(mine, theirs)
    if not gap <= tolerance * scale:
        raise AssertionError(f"{what}: expected the same up to rounding, got differences up to {gap:.3g}; {why}")


def _gap(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.float() - theirs.float()).abs().max())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scores(walked: Trajectory | Rollout) -> list[Tensor]:
    found: list[Tensor] = []
    for score in walked.scores:
        if isinstance(score, TextScore):
            found.append(score.log_prob.detach())
        if isinstance(score, ImageScore):
            found += [t.detach() for step in score.steps for t in (step.velocity, step.mean, step.log_prob)]
    return found


def _loss(rollout: Rollout, modality: Modality) -> Tensor:
    """A number that hangs on all actions of a modality."""
    if modality == "text":
        return torch.stack([s.log_prob.sum() for s in rollout.scores if isinstance(s, TextScore)]).sum()
    images = [score for score in rollout.scores if isinstance(score, ImageScore)]
    return torch.stack([step.mean.square().sum() for score in images for step in score.steps]).sum()


def _clear(policy: Policy) -> None:
    for _, parameter in policy.named_parameters():
        parameter.grad = None


def _reached(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)


@contextmanager
def _moved(policy: Policy) -> Iterator[None]:
    """All trainable weights a little elsewhere, and back again."""
    saved = [(parameter, parameter.detach().clone()) for _, parameter in policy.named_parameters()]
    for parameter, _ in saved:
        if parameter.requires_grad:
            parameter.add_(0.1)
    try:
        yield
    finally:
        for parameter, weight in saved:
            parameter.copy_(weight)
