"""Images generated token by token: the actions are choices of codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from unigrpo.registry import name_of, register
from unigrpo.rollout.heads.head import ImageHead
from unigrpo.rollout.sampling import choose, log_prob
from unigrpo.rollout.trajectory import Cost, ImageScore, ImageSegment

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.models.policy import CodePolicy, Context, Policy
    from unigrpo.rollout.rollout import RolloutSpec, SegmentNoise


@register("image_head", "tokens", source="unified interleaved GRPO (arXiv 2603.09538), with FSQ codes (2309.15505)")
@dataclass(frozen=True)
class Tokens(ImageHead):
    """Codes of a quantised autoencoder, generated one by one like words, each with its exact log-probability.

    As texts, images are sampled against the cache and then enter the context as one block, which scores them: an
    image is part of the context as soon as it is finished.  Guidance combines logits, token by token; a token has no
    time and is guided if the first denoising step would be.
    """

    denoises: ClassVar[bool] = False
    deferred: ClassVar[bool] = False

    def generate_image(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], noise: SegmentNoise, alive: Tensor
    ) -> tuple[ImageSegment, ImageScore, Sequence[Context], Cost]:
        """All codes of an image, one uniform draw each."""
        import torch

        painter, count = cast("CodePolicy", policy), math.prod(spec.latent_shape[1:])
        uniform = noise.uniform(("text",), (count,))
        asked = _guided(spec, contexts)
        token = _begin(painter, alive)
        tokens, cost = [], Cost()
        for k in range(count):
            logits, asked, work = _extend(painter, spec, asked, token, alive, k)
            token = choose(logits[:, 0], spec.temperature, uniform[:, k])[:, None]
            tokens.append(token)
            cost += work
        codes = torch.cat(tokens, 1)
        segment = ImageSegment((), painter.latents_of(codes), alive, tokens=codes)
        score, contexts, work = self.score(policy, spec, contexts, segment)
        return segment, score, contexts, cost + work

    def score(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[ImageScore, Sequence[Context], Cost]:
        """The codes under ``policy``, and the contexts behind them."""
        assert segment.tokens is not None
        logits, contexts, cost = _enter(cast("CodePolicy", policy), spec, contexts, segment.tokens, segment.alive)
        scores = log_prob(logits[:, :-1], spec.temperature, segment.tokens)
        return ImageScore(log_prob=scores.where(segment.alive[:, None], 0.0)), contexts, cost

    def encode(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[Sequence[Context], Cost]:
        """Let a given image, or one that is not to be scored, enter the contexts."""
        painter = cast("CodePolicy", policy)
        codes = painter.codes_of(segment.latents) if segment.tokens is None else segment.tokens
        # The latents of an episode that is over may be anything, and no code.
        _, contexts, cost = _enter(painter, spec, contexts, codes.where(segment.alive[:, None], 0), segment.alive)
        return contexts, cost

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say what has no meaning without denoising steps."""
        yield from super().conflicts(config)
        if config.optim.updates == 0:  # only evaluated
            return
        if config.dynamics.stochastic:
            yield f"dynamics={name_of(config.dynamics)} has no step to add noise to; use dynamics=ode"
        if config.modalities.image and config.image_ratio.of_steps:
            yield f"image_ratio={name_of(config.image_ratio)} is of denoising steps; use raw, and text_ratio for codes"
        if config.regularizer.weight > 0:
            yield f"regularizer={name_of(config.regularizer)} has no velocity to penalise; use none, and text_kl=k3"


def _begin(policy: CodePolicy, alive: Tensor) -> Tensor:
    """The token that begins an image, [B, 1]."""
    import torch

    return torch.full((len(alive), 1), policy.num_image_codes, device=alive.device)


def _guided(spec: RolloutSpec, contexts: Sequence[Context]) -> Sequence[Context]:
    """The contexts that an image is generated in: without the branches if they do not guide."""
    return contexts if spec.guidance.guides(1.0) else contexts[:1]


def _enter(
    policy: CodePolicy, spec: RolloutSpec, contexts: Sequence[Context], codes: Tensor, alive: Tensor
) -> tuple[Tensor, Sequence[Context], Cost]:
    """Move over a whole image; logits [B, N + 1, K] of each code and of one too many, and the longer contexts."""
    import torch

    tokens = torch.cat((_begin(policy, alive), codes), 1)
    before = _guided(spec, contexts)
    logits, after, cost = _extend(policy, spec, before, tokens, alive, 0)
    if not spec.context_grad:
        after = [context.followed_by(longer) for context, longer in zip(before, after, strict=True)]
    return logits, [*after, *contexts[len(after) :]], cost


def _extend(
    policy: CodePolicy, spec: RolloutSpec, contexts: Sequence[Context], tokens: Tensor, alive: Tensor, first: int
) -> tuple[Tensor, Sequence[Context], Cost]:
    """Logits [B, L, K] fp32 of what follows each token, guided if there are branches, and the longer contexts."""
    extended = [policy.extend_codes(spec.cross_modal_context(context), tokens, alive, first) for context in contexts]
    logits, *branches = (found.float() for found, _ in extended)
    if branches:
        # Every token is a row of its own: a guidance that looks at norms must not mix those of a block.
        rows = (branch.flatten(0, 1) for branch in branches)
        logits = spec.guidance.combine(logits.flatten(0, 1), *rows).unflatten(0, logits.shape[:2])
    cost = Cost(tokens=int(alive.sum()) * tokens.shape[1] * len(contexts))
    return logits, [context for _, context in extended], cost
