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
        stops: the tokens that end a reply.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    conditioning: Conditioning = "reply"
    behind: str = ""
    negative: str = ""
    stops: tuple[int, ...] = ()

    def __call__(self, blocks: tuple[Block, ...], rows: int) -> list[str]:
        """One text for each of ``rows`` episodes; a reply that is empty leaves the prompt."""
        said: list[list[list[int]]] = [[] for _ in range(rows)]
        for tokens, mask in blocks:
            for row, (ids, kept) in enumerate(zip(tokens.tolist(), mask.tolist(), strict=True)):
                if any(kept):
                    said[row].append([token for token, there in zip(ids, kept, strict=True) if there])
        return [self._text(texts) for texts in said]

    def _text(self, said: list[list[int]]) -> str:
        """What one episode's image is conditioned on, given its texts since the image before."""
        if not said:
            return self.negative
        prompt = self._request(said[0])
        if len(said) == 1 or self.conditioning == "prompt":
            return prompt
        reply = self._final(said[-1])
        return f"{prompt} {reply}".strip() if self.conditioning == "both" else reply or prompt

    def _request(self, ids: list[int]) -> str:
        """The words inside of the frame, which is cut off as a whole: special tokens among them are the user's."""
        before, after = self._frame
        return self._words(ids).removeprefix(before).removesuffix(after).strip()

    def _words(self, ids: list[int]) -> str:
        return self.tokenizer.inner.decode(ids, skip_special_tokens=False)

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What stands before a request, and behind it but for the token that begins the reply."""
        if self.template is None:
            return self._words([self.tokenizer.bos]), self._words([self.tokenizer.eos])
        before, _, after = self.template.render(_MARK).partition(_MARK)
        last = self.tokenizer.ids_of([after])[0][-1]
        return before, after.removesuffix(self._words([last]))

    def _final(self, ids: list[int]) -> str:
        kept = [token for token in ids if token not in self.stops]
        reply: str = self.tokenizer.inner.decode(kept, skip_special_tokens=True)
        return (reply.rpartition(self.behind)[2] if self.behind and self.behind in reply else reply).strip()
