"""The judge's verdict as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from unigrpo.registry import register
from unigrpo.rewards.reward import ImageReward

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.data.prompt import Prompt
    from unigrpo.rollout.decoded import DecodedEpisodes
    from unigrpo.worlds.shapes.judge import Verdict


@register("reward", "geneval", source="GenEval (arXiv 2310.11513); mixed with its soft score as in Flow-GRPO's setting")
@dataclass(frozen=True)
class GenEvalReward(ImageReward):
    """The exact judge: its verdict, its soft score, or the mean of both."""

    needs: ClassVar[frozenset[str]] = frozenset({"include"})
    exact: ClassVar[bool] = True

    verdict: Literal["strict", "official"] = "strict"
    """``official`` is GenEval's own rule, which a text policy games by adding objects; ``strict`` forbids them."""
    kind: Literal["binary", "soft", "mixed"] = "mixed"
    """``mixed`` has both as components of weight 0.5."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Fields of the verdict, in the order of the components."""
        binary, soft = self.verdict, f"{self.verdict}_soft"
        return {"binary": (binary,), "soft": (soft,), "mixed": (binary, soft)}[self.kind]

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Equal weights that sum to 1."""
        return tuple(1 / len(self.component_names) for _ in self.component_names)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Components [B, K] fp32 in [0, 1] of images [B, 3, H, W] in [-1, 1]."""
        from unigrpo.worlds.shapes.judge import judge_images

        return self._components(judge_images(images, prompts)).to(images.device)

    def scores_of(self, segment: int, decoded: DecodedEpisodes) -> Tensor:
        """Components of one segment's images, by verdicts that the measures read too."""
        from unigrpo.worlds.shapes.judge import judge_images

        return self._components(decoded.verdicts(judge_images, segment))

    def _components(self, verdicts: Sequence[Verdict]) -> Tensor:
        import torch

        rows = [[float(getattr(verdict, name)) for name in self.component_names] for verdict in verdicts]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(self.component_names))
