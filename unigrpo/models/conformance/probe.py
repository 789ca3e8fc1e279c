"""A model under test, and what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor, nn

from unigrpo.data.prompt import Prompt
from unigrpo.flow.dynamics import FlowSde
from unigrpo.flow.guidance import Cfg
from unigrpo.flow.schedule import time_points
from unigrpo.models.conformance.expect import demand
from unigrpo.models.model import LoadedModel, Model
from unigrpo.models.policy import Context, Modality, Policy, VisionPolicy
from unigrpo.noise import EpisodeDraws, normal
from unigrpo.rollout.heads import Flow
from unigrpo.rollout.rollout import Rollout, RolloutSpec
from unigrpo.rollout.trajectory import ImageSegment, TextSegment, Trajectory

MODALITIES: tuple[Modality, ...] = ("text", "image")
_T = 0.6


class Probe:
    """A model, two prompts, and an image for each.

    Attributes:
        writes: whether the policy makes texts, whose logits can be asked for.
        reads: what can depend on an image before it.
        trained: parameters that want gradients, which checks may switch off for a while.
        tokens: [2, L] int64, right-padded, the token first that begins a prompt.
        mask: [2, L] bool; one row is shorter.
        x: [2, C, H, W] noisy latents.
        latents: [2, C, H, W] clean ones.
        t: 0-d.
        every: [2] bool, both rows.
        features: [2, N, D] of the clean images; None without a vision encoder.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompts: tuple[str, str],
        modalities: Sequence[Modality],
        model: Model,
        size: tuple[int, int] = (0, 0),
    ):
        self.loaded, self.prompts, self.modalities, self.size = loaded, prompts, modalities, size
        self.writes, self.reads, self._needs = model.writes_texts, model.reads_images, model.needs_images
        self.policy, self.processor = policy, processor = loaded.policy, loaded.processor
        self.trained = [parameter for _, parameter in policy.named_parameters() if parameter.requires_grad]
        ids, device = processor.ids, policy.device
        processor.to(device)
        (text,) = processor.encode([Prompt(f"p{k}", text) for k, text in enumerate(prompts)])
        assert isinstance(text, TextSegment)
        demand(
            not bool(text.mask.all()),
            f"prompts {prompts}: expected two texts of different lengths, got {text.mask.shape[1]} tokens each; without"
            " padding half of the checks see nothing",
        )
        self.text = text
        begin = torch.full((2, 1), ids.bos if ids.prompt is None else ids.prompt, device=device)
        self.tokens = torch.cat((begin, self.text.tokens), 1)
        self.mask = torch.cat((torch.ones_like(begin, dtype=torch.bool), self.text.mask), 1)
        self.shape = processor.latent_shape(*size)
        self.x, self.latents = (normal([(name, row) for row in range(2)], self.shape).to(device) for name in "xl")
        self.t = torch.tensor(_T, device=device)
        self.every = torch.ones(2, dtype=torch.bool, device=device)
        see = processor.see
        self.features = None if see is None else see(ImageSegment((), self.latents, self.every))

    def start(self, policy: Policy | None = None, rows: slice = slice(None)) -> Context:
        """What stands before the prompts: an image where there is no other without, or nothing."""
        policy = policy or self.policy
        empty = policy.start(len(self.every[rows]))
        return self.show(empty, policy, rows) if self._needs else empty

    def read(self, policy: Policy | None = None) -> tuple[Tensor, Context]:
        """The prompts."""
        policy = policy or self.policy
        return policy.extend_text(self.start(policy), self.tokens, self.mask, logits=self.writes)

    def show(self, context: Context, policy: Policy | None = None, rows: slice = slice(None)) -> Context:
        """``context`` of ``rows`` with their images, and with the features of those if there are any."""
        policy = policy or self.policy
        alive = self.every[rows]
        longer = policy.extend_image(context, self.latents[rows], alive)
        if self.features is None:
            return longer
        return cast("VisionPolicy", policy).extend_features(longer, self.features[rows], alive)

    def answers(self, context: Context, policy: Policy | None = None, rows: slice = slice(None)) -> list[Tensor]:
        """What a policy makes of a context: a velocity and, where it makes texts, the logits of one.

        Then the same again behind an image, where something can depend on that.

        Args:
            context: of those rows.
            policy: that of the model, if none is given.
            rows: of the probe, by default both.
        """
        policy = policy or self.policy
        found = self._said(context, policy, rows)
        return found + self._said(self.show(context, policy, rows), policy, rows) if self.reads else found

    def _said(self, context: Context, policy: Policy, rows: slice) -> list[Tensor]:
        velocity = policy.velocity(context, self.x[rows], self.t)
        if not self.writes:
            return [velocity]
        mask = self.mask[rows]
        return [velocity, policy.extend_text(context, self.tokens[rows], mask)[0][mask]]

    def seen(self, answers: list[Tensor]) -> list[tuple[Modality, Tensor, Tensor]]:
        """Of :meth:`answers`: what can depend on the image, as it is before and behind it."""
        if not self.reads:
            return []
        half = len(answers) // 2
        made: tuple[Modality, ...] = ("image", "text") if self.writes else ("image",)
        return [each for each in zip(made, answers[:half], answers[half:], strict=True) if each[0] in self.reads]

    def thaw(self) -> None:
        """Let all that is trained want gradients again."""
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def gradients_of_text(self, context: Context) -> list[Tensor]:
        """Gradients of all weights for a text in ``context``; nothing is kept of them."""
        clear(self.policy)
        logits, _ = self.policy.extend_text(context, self.tokens, self.mask)
        backward(logits[self.mask].square().sum())
        found = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in self.policy.named_parameters()]
        clear(self.policy)
        return found

    def rollout(self) -> tuple[RolloutSpec, Trajectory]:
        """Prompt, text, image, twice, of two episodes for each prompt, guided; less if the model can do less."""
        ids = asdict(self.processor.ids)
        spec = RolloutSpec(
            time_points(3),
            FlowSde(),
            (0, 1),
            self.loaded.guidance(Cfg(2.0)),
            1.0,
            head=Flow(),
            latent_shape=self.shape,
            see=self.processor.see,
            **ids,
        )
        rollout, draws = Rollout(self.policy, spec, 2), EpisodeDraws(("conformance",), self.prompts, 2)
        with torch.no_grad():
            if self._needs:
                rollout.condition_on(ImageSegment((), self.latents, self.every, features=self.features))
            rollout.condition_on(self.text)
            rollout.repeat(2)
            for turn in range(2 if self.reads else 1):
                if turn and "text" not in self.reads:  # it answers requests alone
                    rollout.condition_on(self.text)
                if self.writes:
                    rollout.generate_text(4, draws)
                rollout.generate_image(draws)
        prompts = [Prompt(text, text) for text in self.prompts]
        return spec, Trajectory(prompts, 2, tuple(rollout.segments), tuple(rollout.scores), rollout.cost)


def backward(loss: Tensor) -> None:
    """Gradients of a loss, whose graph is kept; none where nothing that it hangs on is trained."""
    if loss.requires_grad:
        loss.backward(retain_graph=True)


def clear(policy: Policy) -> None:
    """Drop all gradients."""
    for _, parameter in policy.named_parameters():
        parameter.grad = None


def reached(parameters: Iterable[nn.Parameter]) -> int:
    """How many of them have a gradient."""
    return sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)


@contextmanager
def moved(policy: Policy) -> Iterator[None]:
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
