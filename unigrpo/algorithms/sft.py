"""Supervised fine-tuning: next-token cross-entropy on texts; flow matching, or cross-entropy of codes, on images.

The examples go through the very rollout that reinforcement learning uses.  Which of their segments are targets they say
themselves: what is given is only seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from unigrpo.flow.schedule import shifted
from unigrpo.rollout.trajectory import ImageSegment, Segment, TextScore, TextSegment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unigrpo.rollout.rollout import Rollout


class _Codes(Protocol):
    """What images by codes ask of a policy."""

    @property
    def num_image_codes(self) -> int: ...

    def codes_of(self, latents: Tensor) -> Tensor: ...

    def extend_codes(self, context: object, tokens: Tensor, alive: Tensor) -> tuple[Tensor, object]: ...


@dataclass(frozen=True)
class Sft:
    """The loss of examples: ``text_weight * text + image``.

    BAGEL (2505.14683) draws times logit-normally, moved towards noise by ``timestep_shift``.
    """

    noises: int = 1
    """Noise levels per image and step: its context is covered once for all of them. Codes have no noise."""
    dropout: float = 0.1
    """Part of the images generated without any text, which makes guidance possible."""
    text_weight: float = 0.2
    """Weight of the texts' cross-entropy beside the images' loss."""
    timestep_shift: float = 1.0
    """s of ``t <- s t / (1 + (s - 1) t)``, >= 1."""

    def __post_init__(self) -> None:
        if self.noises < 1 or not 0 <= self.dropout <= 1 or self.text_weight < 0 or self.timestep_shift < 1:
            raise ValueError(
                f"expected noises >= 1, dropout in [0, 1], text_weight >= 0 and timestep_shift >= 1, got"
                f" noises={self.noises}, dropout={self.dropout}, text_weight={self.text_weight},"
                f" timestep_shift={self.timestep_shift}"
            )

    def __call__(
        self, rollout: Rollout, segments: Sequence[Segment], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy per token that is a target, and the mean loss of the images; 0 without any.

        Args:
            rollout: at its start, one row per example; guided, so that it keeps a context without texts.
            segments: of the examples, in order; ragged ones masked.
            generator: of noise, times and dropped texts.
        """
        import torch

        texts, tokens, images, elements = [torch.zeros(())], 0, [torch.zeros(())], 0
        for segment in segments:
            if isinstance(segment, ImageSegment) and not segment.given:
                rollout.append(segment)
                error = self._image_errors(rollout, segment, generator)
                images.append(error.sum())
                elements += error.numel()
            else:
                rollout.replay(segment)
                score = rollout.scores[-1]
                if isinstance(segment, TextSegment) and isinstance(score, TextScore):
                    texts.append(-score.log_prob.sum())
                    tokens += int(segment.mask.sum())
        return torch.stack(texts).sum() / max(tokens, 1), torch.stack(images).sum() / max(elements, 1)

    def _image_errors(self, rollout: Rollout, segment: ImageSegment, generator: torch.Generator) -> Tensor:
        if rollout.spec.head.denoises:
            return self._flow_errors(rollout, segment, generator)
        return self._code_errors(rollout, segment, generator)

    def _flow_errors(self, rollout: Rollout, segment: ImageSegment, generator: torch.Generator) -> Tensor:
        """Squared errors of the velocity, [alive rows * noises, C, H, W]."""
        import torch

        rows = segment.alive.nonzero()[:, 0].repeat_interleave(self.noises)
        clean = segment.latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        t = shifted(torch.randn(len(rows), generator=generator).sigmoid(), self.timestep_shift)
        level = t[:, None, None, None]
        x = (1 - level) * clean + level * noise
        errors = []
        for unconditional, chosen in self._dropped(rows, generator):
            context = rollout.contexts[1 if unconditional else 0]
            velocity = rollout.policy.velocity(context.rows(rows[chosen]), x[chosen], t[chosen])
            errors.append((velocity - (noise - clean)[chosen]).square())
        return torch.cat(errors)

    def _code_errors(self, rollout: Rollout, segment: ImageSegment, generator: torch.Generator) -> Tensor:
        """Cross-entropies of the images' codes [alive rows, N], each given those before it."""
        import torch

        from unigrpo.rollout.sampling import log_prob

        policy = cast("_Codes", rollout.policy)
        rows = segment.alive.nonzero()[:, 0]
        codes = policy.codes_of(segment.latents[rows])
        tokens = torch.cat((torch.full_like(codes[:, :1], policy.num_image_codes), codes[:, :-1]), 1)
        errors = []
        for unconditional, chosen in self._dropped(rows, generator):
            context = rollout.contexts[1 if unconditional else 0]
            logits, _ = policy.extend_codes(context.rows(rows[chosen]), tokens[chosen], segment.alive[rows[chosen]])
            errors.append(-log_prob(logits, rollout.spec.temperature, codes[chosen]))
        return torch.cat(errors)

    def _dropped(self, rows: Tensor, generator: torch.Generator) -> Iterator[tuple[bool, Tensor]]:
        """Which of ``rows`` [n] keep their texts and which do not: masks [n], if they have any."""
        import torch

        bare = torch.rand(len(rows), generator=generator) < self.dropout
        for unconditional, chosen in ((False, ~bare), (True, bare)):
            if chosen.any():
                yield unconditional, chosen
