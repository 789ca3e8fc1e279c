"""Pictures painted token by token: the actions are choices of codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from unigrpo.categorical import choose, log_prob
from unigrpo.heads.head import ImageHead
from unigrpo.registry import register
from unigrpo.trajectory import Cost, ImageScore, ImageSegment

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.models.policy import CodePolicy, Context
    from unigrpo.walk import Draw, Walk


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

    def paint(self, walk: Walk, draw: Draw) -> tuple[ImageSegment, ImageScore]:
        """All codes of a picture, one uniform draw each."""
        import torch

        policy, made = _policy(walk), walk.active
        count = math.prod(policy.latent_shape[1:])
        uniform = walk.drawn(draw, (len(walk.segments), "text"), (count,))
        contexts = _contexts(walk)
        token = _begin(walk, made)
        tokens = []
        for k in range(count):
            logits, contexts = _extend(walk, contexts, token, made, k)
            token = choose(logits[:, 0], walk.rules.temperature, uniform[:, k])[:, None]
            tokens.append(token)
        codes = torch.cat(tokens, 1)
        segment = ImageSegment((), policy.latents_of(codes), made, tokens=codes)
        return segment, self.score(walk, segment)

    def score(self, walk: Walk, segment: ImageSegment) -> ImageScore:
        """The codes under the walk's policy; its context goes on behind them."""
        assert segment.tokens is not None
        logits = _enter(walk, segment.tokens, segment.made)
        scores = log_prob(logits[:, :-1], walk.rules.temperature, segment.tokens)
        return ImageScore(log_prob=scores.where(segment.made[:, None], 0.0))

    def look(self, walk: Walk, segment: ImageSegment) -> None:
        """Let a given picture, or one that is not to be scored, enter the context."""
        codes = _policy(walk).codes_of(segment.latents) if segment.tokens is None else segment.tokens
        # The latents of an episode that is over may be anything, and no code.
        _enter(walk, codes.where(segment.made[:, None], 0), segment.made)

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


def _policy(walk: Walk) -> CodePolicy:
    return cast("CodePolicy", walk.policy)


def _begin(walk: Walk, made: Tensor) -> Tensor:
    """The token that begins a picture, [B, 1]."""
    import torch

    return torch.full((len(made), 1), _policy(walk).image_codes, device=made.device)


def _contexts(walk: Walk) -> list[Context]:
    """What the next picture is painted in: the context, and the one without texts if that guides."""
    if walk.unconditional is None or not walk.rules.guidance.guides(1.0):
        return [walk.context]
    return [walk.context, walk.unconditional]


def _enter(walk: Walk, codes: Tensor, made: Tensor) -> Tensor:
    """Move the walk's contexts over a whole picture; logits [B, N + 1, K] of each code and of one too many."""
    import torch

    tokens = torch.cat((_begin(walk, made), codes), 1)
    before = _contexts(walk)
    logits, after = _extend(walk, before, tokens, made, 0)
    if not walk.rules.context_grad:
        after = [context.followed_by(longer) for context, longer in zip(before, after, strict=True)]
    walk.context, *free = after
    if free:
        (walk.unconditional,) = free
    return logits


def _extend(
    walk: Walk, contexts: Sequence[Context], tokens: Tensor, made: Tensor, first: int
) -> tuple[Tensor, list[Context]]:
    """Logits [B, L, K] fp32 of what follows each token, guided if there are two contexts, and the longer contexts."""
    walk.cost += Cost(tokens=int(made.sum()) * tokens.shape[1] * len(contexts))
    extended = [_policy(walk).extend_codes(walk.seen(context), tokens, made, first) for context in contexts]
    logits, *free = (found.float() for found, _ in extended)
    if free:
        # Every token is a row of its own: a guidance that looks at norms must not mix those of a block.
        guided: Tensor = walk.rules.guidance.combine(logits.flatten(0, 1), free[0].flatten(0, 1))
        logits = guided.unflatten(0, logits.shape[:2])
    return logits, [context for _, context in extended]
