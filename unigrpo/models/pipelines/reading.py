"""What conditions an image: the texts of an episode, as strings for the pipeline's own encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from unigrpo.models.pipelines.policy import Block
from unigrpo.models.template import ChatTemplate
from unigrpo.models.tokenizer import Tokenizer

#: What conditions an image: the prompt, what was written last, or both, one after the other.
Conditioning = Literal["prompt", "reply", "both"]

_MARK = "\u2402"


@dataclass(frozen=True)
class Reading:
    """Takes prompts and replies out of blocks.

    Attributes:
        tokenizer: of the texts.
        template: that prompts are framed by, if any.
        conditioning: what is read.
        behind: of a reply only what stands behind the last of these words is read; all of it where they are empty.
        negative: the text of an episode without any, which guidance asks for.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    conditioning: Conditioning = "reply"
    behind: str = ""
    negative: str = ""

    def __call__(self, blocks: tuple[Block, ...], rows: int) -> list[str]:
        """One text for each of ``rows`` episodes; a reply that is empty leaves the prompt."""
        if not blocks:
            return [self.negative] * rows
        prompts = [self._request(text) for text in self._texts(blocks[0])]
        if len(blocks) == 1 or self.conditioning == "prompt":
            return prompts
        replies = [self._final(text) for text in self._texts(blocks[-1], special=False)]
        if self.conditioning == "both":
            return [f"{prompt} {reply}".strip() for prompt, reply in zip(prompts, replies, strict=True)]
        return [reply or prompt for prompt, reply in zip(prompts, replies, strict=True)]

    def _texts(self, block: Block, *, special: bool = True) -> list[str]:
        """Those of a block; with the special tokens of a template's frame, which is cut off as a whole."""
        tokens, mask = block
        if self.template is None or not special:
            return self.tokenizer.decode(tokens, mask)
        rows = zip(tokens.tolist(), mask.tolist(), strict=True)
        kept = [[token for token, said in zip(*row, strict=True) if said] for row in rows]
        return [self.tokenizer.inner.decode(row, skip_special_tokens=False) for row in kept]

    def _request(self, text: str) -> str:
        if self.template is None:
            return text.strip()
        before, after = self._frame
        return text.removeprefix(before).removesuffix(after).strip()

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What a template puts before a request, and behind it but for the last token, which begins the reply."""
        assert self.template is not None
        before, _, after = self.template.render(_MARK).partition(_MARK)
        last = self.tokenizer.ids_of([after])[0][-1]
        return before, after.removesuffix(self.tokenizer.inner.decode([last], skip_special_tokens=False))

    def _final(self, reply: str) -> str:
        return (reply.rpartition(self.behind)[2] if self.behind and self.behind in reply else reply).strip()
