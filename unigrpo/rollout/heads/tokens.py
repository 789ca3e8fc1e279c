"""Pictures painted token by token: the actions are choices of codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from unigrpo.registry import register
from unigrpo.rollout.heads.head import ImageHead
from unigrpo.rollout.sampling import choose, log_prob
from unigrpo.rollout.trajectory import Cost, ImageScore, ImageSegment

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.models.policy import CodePolicy, Context
    from unigrpo.rollout.rollout import Draw, Rollout


@register("image_head", "tokens", source="unified interleaved GRPO (arXiv 2603.09538), with FSQ codes (2309.15505)")
@dataclass(frozen=True)
class Tokens(ImageHead):
    """Codes of a quantised autoencoder, painted one by one like words, each with its exact log-probability.

    As texts, pictures are sampled against the cache and then enter the context as one block, which scores them: a
    picture is part of the context as soon as it is finished.  Guidance combines logits, token by token; a token has no
    time and is guided if the first denoising step would be.
    """

    denoises: ClassVar[bool] = False
    deferred: ClassVar[bool] = False

    def generate_image(self, rollout: Rollout, draw: Draw) -> tuple[ImageSegment, ImageScore]:
        """All codes of a picture, one uniform draw each."""
        import torch

        policy, alive = _policy(rollout), rollout.active
        count = math.prod(policy.latent_shape[1:])
        uniform = rollout.noise(draw, (len(rollout.segments), "text"), (count,))
        contexts = _contexts(rollout)
        token = _begin(rollout, alive)
        tokens = []
        for k in range(count):
            logits, contexts = _extend(rollout, contexts, token, alive, k)
            token = choose(logits[:, 0], rollout.spec.temperature, uniform[:, k])[:, None]
            tokens.append(token)
        codes = torch.cat(tokens, 1)
        segment = ImageSegment((), policy.latents_of(codes), alive, tokens=codes)
        return segment, self.score(rollout, segment)

    def score(self, rollout: Rollout, segment: ImageSegment) -> ImageScore:
        """The codes under the rollout's policy; its context goes on behind them."""
        assert segment.tokens is not None
        logits = _enter(rollout, segment.tokens, segment.alive)
        scores = log_prob(logits[:, :-1], rollout.spec.temperature, segment.tokens)
        return ImageScore(log_prob=scores.where(segment.alive[:, None], 0.0))

    def encode(self, rollout: Rollout, segment: ImageSegment) -> None:
        """Let a given picture, or one that is not to be scored, enter the context."""
        codes = _policy(rollout).codes_of(segment.latents) if segment.tokens is None else segment.tokens
        # The latents of an episode that is over may be anything, and no code.
        _enter(rollout, codes.where(segment.alive[:, None], 0), segment.alive)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say what has no meaning without denoising steps."""
        yield from super().conflicts(config)
        if config.optim.updates == 0:  # only evaluated
            return
        if config.dynamics.stochastic:
            yield f"dynamics={config.dynamics.name} has no step to add noise to; use dynamics=ode"
        if config.modalities.image and config.image_ratio.name != "raw":
            yield f"image_ratio={config.image_ratio.name} is of denoising steps; use raw, and text_ratio for codes"
        if config.regularizer.weight > 0:
            yield f"regularizer={config.regularizer.name} has no velocity to penalise; use none, and text_kl=k3"


def _policy(rollout: Rollout) -> CodePolicy:
    return cast("CodePolicy", rollout.policy)


def _begin(rollout: Rollout, alive: Tensor) -> Tensor:
    """The token that begins a picture, [B, 1]."""
    import torch

    return torch.full((len(alive), 1), _policy(rollout).num_image_codes, device=alive.device)


def _contexts(rollout: Rollout) -> list[Context]:
    """What the next picture is painted in: the context, and the one without texts if that guides."""
    if rollout.unconditional is None or not rollout.spec.guidance.guides(1.0):
        return [rollout.context]
    return [rollout.context, rollout.unconditional]


def _enter(rollout: Rollout, codes: Tensor, alive: Tensor) -> Tensor:
    """Move the rollout's contexts over a whole picture; logits [B, N + 1, K] of each code and of one too many."""
    import torch

    tokens = torch.cat((_begin(rollout, alive), codes), 1)
    before = _contexts(rollout)
    logits, after = _extend(rollout, before, tokens, alive, 0)
    if not rollout.spec.context_grad:
        after = [context.followed_by(longer) for context, longer in zip(before, after, strict=True)]
    rollout.context, *free = after
    if free:
        (rollout.unconditional,) = free
    return logits


def _extend(
    rollout: Rollout, contexts: Sequence[Context], tokens: Tensor, alive: Tensor, first: int
) -> tuple[Tensor, list[Context]]:
    """Logits [B, L, K] fp32 of what follows each token, guided if there are two contexts, and the longer contexts."""
    rollout.cost += Cost(tokens=int(alive.sum()) * tokens.shape[1] * len(contexts))
    extended = [
        _policy(rollout).extend_codes(rollout.cross_modal_context(context), tokens, alive, first)
        for context in contexts
    ]
    logits, *free = (found.float() for found, _ in extended)
    if free:
        # Every token is a row of its own: a guidance that looks at norms must not mix those of a block.
        guided: Tensor = rollout.spec.guidance.combine(logits.flatten(0, 1), free[0].flatten(0, 1))
        logits = guided.unflatten(0, logits.shape[:2])
    return logits, [context for _, context in extended]
