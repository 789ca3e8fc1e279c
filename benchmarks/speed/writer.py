"""A small Qwen3 that writes replies to prompts and nothing else: plain GRPO on text, as strategies of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from unigrpo.models.autoencoder import TinyAutoencoder
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.model import LoadedModel, Model
from unigrpo.models.mot.context import MoTContext
from unigrpo.models.policy import Modality
from unigrpo.models.processor import LatentGrid, StandardProcessor
from unigrpo.models.tokenizer import Tokenizer
from unigrpo.registry import register
from unigrpo.rewards.reward import RewardOutput
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.rollout.episodes.episode import Episode
from unigrpo.rollout.rollout import Rollout
from unigrpo.rollout.trajectory import Segment

if TYPE_CHECKING:
    from unigrpo.noise import Draw


@cache
def tokenizer() -> Tokenizer:
    """One token for each of 994 words and 6 special ones."""
    return Tokenizer.of_words(f"w{k}" for k in range(994))


def small_qwen3(width: int = 128, layers: int = 4) -> nn.Module:
    """Qwen3 of transformers with random weights, always the same ones."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = tokenizer()
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        max_position_embeddings=4096,
        bos_token_id=words.bos,
        eos_token_id=words.eos,
        pad_token_id=words.pad,
    )
    return Qwen3ForCausalLM(config).eval()


class Writer(nn.Module):
    """A policy of texts alone; implements what a run without images asks of one."""

    def __init__(self, language: CausalLM):
        super().__init__()
        self.language = language

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.language.device

    def start(self, batch: int) -> MoTContext:
        """The empty context of ``batch`` rows."""
        return self.language.start(batch)

    def extend_text(
        self, context: MoTContext, tokens: Tensor, mask: Tensor, *, logits: bool = True
    ) -> tuple[Tensor, MoTContext]:
        """As of any causal language model."""
        return self.language.extend_text(context, tokens, mask, logits=logits)

    def extend_image(self, context: MoTContext, latents: Tensor, alive: Tensor) -> NoReturn:
        """No episode here has images."""
        raise NotImplementedError

    def velocity(self, context: MoTContext, x: Tensor, t: Tensor) -> NoReturn:
        """No episode here has images."""
        raise NotImplementedError

    def parameters_of(self, modality: Modality) -> Iterable[nn.Parameter]:
        """All are of texts."""
        return (p for p in self.parameters() if p.requires_grad and modality == "text")


@register("model", "writer", source="a benchmark")
@dataclass(frozen=True)
class SmallWriter(Model):
    """The small Qwen3."""

    def load(self, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
        """It, and a processor whose autoencoder nothing uses."""
        policy = Writer(CausalLM(small_qwen3(), "small Qwen3")).to(device, dtype)
        unused = TinyAutoencoder(channels=3, width=8).eval().requires_grad_(False)
        processor = StandardProcessor(tokenizer(), unused, LatentGrid(channels=3, height=2, width=2))
        return LoadedModel(policy, processor.to(device))


@register("episode", "reply", source="a benchmark")
@dataclass(frozen=True)
class Reply(Episode):
    """A prompt and one text."""

    reads_images: ClassVar[frozenset[Modality]] = frozenset()

    longest: int = 64
    """Of the text, in tokens."""

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Condition on the prompts, then write."""
        rollout.condition_on(given[0])
        rollout.repeat(group_size)
        rollout.generate_text(self.longest, draw)


def even_words(text: str) -> float:
    """The share of its words whose number is even."""
    numbers = [int(word[1:]) for word in text.split() if word[1:].isdigit()]
    return sum(number % 2 == 0 for number in numbers) / max(len(numbers), 1)


@register("reward", "even_words", source="a benchmark")
@dataclass(frozen=True)
class EvenWords:
    """:func:`even_words` of the reply."""

    needs: ClassVar[frozenset[str]] = frozenset()
    component_names: ClassVar[tuple[str, ...]] = ("even",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """Outcomes alone."""
        (*_, (last, reply)) = decoded.texts
        outcome = torch.tensor([[even_words(text)] for text in reply.texts])
        steps = torch.zeros(len(outcome), len(decoded.parts), 1)
        has_reward = torch.zeros(steps.shape[:2], dtype=torch.bool)
        steps[:, last], has_reward[:, last] = outcome, True
        return RewardOutput(outcome, steps, has_reward)

    def conflicts(self, config: object) -> Iterator[str]:
        """None."""
        yield from ()
