"""``python -m benchmarks.speed.texts``: what sampling long texts costs, in the ways that it may be done, paired.

A small Qwen3 of transformers with random weights continues prompts; the lengths of its replies are drawn beforehand,
evenly from 1 to the longest, so that all ways have the same work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed.timing import ratio, take_turns
from benchmarks.speed.writer import small_qwen3
from unigrpo import console
from unigrpo.models.causal_lm import CausalLM
from unigrpo.models.mot.context import MoTContext
from unigrpo.rollout.sampling import choose


@dataclass(frozen=True)
class Texts:
    """Replies to be sampled behind prompts.

    Attributes:
        policy: what writes.
        prompts: [P, L] int64.
        group: replies per prompt.
        lengths: [P * group] int64, tokens of each reply.
        uniform: [P * group, longest] draws in [0, 1).
    """

    policy: CausalLM
    prompts: Tensor
    group: int
    lengths: Tensor
    uniform: Tensor

    @classmethod
    def draw(cls, prompts: int, group: int, prompt_length: int, longest: int) -> Texts:
        """Of these sizes, from a fixed seed."""
        policy = CausalLM(small_qwen3().requires_grad_(False), "small Qwen3")
        drawn = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, 1000, (prompts, prompt_length), generator=drawn)
        lengths = torch.randint(1, longest + 1, (prompts * group,), generator=drawn)
        lengths[0] = longest
        return cls(policy, tokens, group, lengths, torch.rand(prompts * group, longest, generator=drawn))

    @torch.no_grad()
    def read_once(self) -> MoTContext:
        """Each prompt once for its group."""
        return self._read(self.prompts).repeat(self.group)

    @torch.no_grad()
    def read_apart(self) -> MoTContext:
        """The prompt of every reply."""
        return self._read(self.prompts.repeat_interleave(self.group, 0))

    def _read(self, tokens: Tensor) -> MoTContext:
        start = self.policy.start(len(tokens))
        return self.policy.extend_text(start, tokens, torch.ones_like(tokens, dtype=torch.bool), logits=False)[1]

    def sample(self, context: MoTContext, *, in_place: bool = True, leave_out: bool = True) -> Tensor:
        """Tokens [P * group, longest] as the rollout samples them, 0 behind the end of a reply.

        Args:
            context: behind the prompts.
            in_place: whether keys and values are appended in place; else all are copied at every token.
            leave_out: whether finished rows are left out once they are half; else all are computed to the end.
        """
        tokens = torch.zeros_like(self.uniform, dtype=torch.int64)
        token, rows = torch.zeros(len(tokens), dtype=torch.int64), torch.arange(len(tokens))
        # The weights are frozen: grad mode makes no graph here, and has the context copied.
        with torch.set_grad_enabled(not in_place):
            for k in range(tokens.shape[1]):
                unfinished = k < self.lengths
                if leave_out and 2 * int(unfinished[rows].sum()) <= len(rows):
                    going = unfinished[rows]
                    rows, context = rows[going], context.rows(going.nonzero()[:, 0])
                logits, context = self.policy.extend_text(context, token[rows, None], unfinished[rows, None])
                token[rows] = choose(logits[:, 0], 1.0, self.uniform[rows, k]) * unfinished[rows]
                tokens[:, k] = token
                token = token.where(k + 1 < self.lengths, 0)
        return tokens


def comparisons(texts: Texts) -> dict[str, dict[str, Callable[[], object]]]:
    """Work -> the thrifty way and the other."""
    behind = texts.read_once()
    whole: dict[str, Callable[[], object]] = {
        "read once per group": lambda: texts.sample(texts.read_once()),
        "read for every member": lambda: texts.sample(texts.read_apart()),
    }
    return {
        "sampling": {
            "keys in place": lambda: texts.sample(behind),
            "copied at every token": lambda: texts.sample(behind, in_place=False),
        },
        "sampling ": {
            "finished rows left out": lambda: texts.sample(behind),
            "computed": lambda: texts.sample(behind, leave_out=False),
        },
        "prompts": {"once per group": texts.read_once, "for every member": texts.read_apart},
        "prompts and sampling": whole,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.texts", description=__doc__)
    for name, number in (("prompts", 4), ("group", 8), ("prompt-length", 256), ("longest", 128), ("repeats", 9)):
        parser.add_argument(f"--{name}", type=int, default=number, help=f"default: {number}")
    given = parser.parse_args(arguments)
    if given.repeats < 2:
        parser.error(f"--repeats {given.repeats}: quartiles need at least 2 rounds")
    texts = Texts.draw(given.prompts, given.group, given.prompt_length, given.longest)
    for work, variants in comparisons(texts).items():
        thrifty, other = variants
        spent = take_turns(variants, given.repeats)
        print(f"{work.strip()}: {thrifty} / {other}: {ratio(spent[thrifty], spent[other], 'cpu')} of CPU time")


if __name__ == "__main__":
    main()
