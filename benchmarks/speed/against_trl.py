"""``python -m benchmarks.speed.against_trl``: an update of GRPO on text, here and in TRL, side by side in one process.

Both start from the same small Qwen3 and answer the same number of prompts, in groups and up to a length that are the
same, with one optimiser step per rollout, no penalty, fp32, AdamW and no gradient checkpointing.  Every step of TRL's
trainer is followed by an update of ours: a busy machine slows both alike.  Needs the extra ``trl``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.speed.timing import Clock, Quartiles, Spent, ratio, spent_by, stopwatch
from benchmarks.speed.writer import even_words, small_qwen3, tokenizer
from unigrpo import console
from unigrpo.compose import compose
from unigrpo.models.libraries import Foreign
from unigrpo.training.trainer import Trainer

HERE = "benchmarks.speed.writer"


@dataclass(frozen=True)
class Work:
    """What an update does.

    Attributes:
        prompts: of an update, different ones.
        group: replies per prompt.
        prompt_length: in tokens.
        longest: reply, in tokens.
    """

    prompts: int = 4
    group: int = 8
    prompt_length: int = 64
    longest: int = 64

    def texts(self, number: int) -> list[str]:
        """So many prompts of random words."""
        drawn = torch.Generator().manual_seed(0)
        words = torch.randint(0, 994, (number, self.prompt_length), generator=drawn)
        return [" ".join(f"w{word}" for word in row) for row in words.tolist()]

    def ours(self, folder: Path, lr: float) -> Trainer:
        """Our trainer; prompts are left in ``folder``."""
        texts = self.texts(44)
        for split, prompts in (("train", texts[:40]), ("validation", texts[40:42]), ("test", texts[42:])):
            (folder / f"{split}.txt").write_text("\n".join(prompts))
        settings = {
            "recipe": "text_grpo",
            "model": f"{HERE}.SmallWriter",
            "episode": f"{HERE}.Reply",
            "episode.longest": self.longest,
            "reward": f"{HERE}.EvenWords",
            "dataset": "text_file",
            "dataset.path": folder,
            "rollout.prompts": self.prompts,
            "rollout.group_size": self.group,
            "rollout.minibatches": 1,
            "text_kl": "none",
            "evaluation.drift": "false",
            "optim.text_lr": lr,
        }
        return Trainer(compose([f"{name}={value}" for name, value in settings.items()]))


@dataclass
class InTurn:
    """Times a step of TRL and an update of ours, one after the other.

    Attributes:
        trainer: ours.
        theirs: seconds of TRL's steps.
        ours: seconds of our updates.
    """

    trainer: Trainer
    theirs: list[Spent] = field(default_factory=list)
    ours: list[Spent] = field(default_factory=list)

    def callback(self) -> Foreign:
        """For a trainer of transformers."""
        from transformers import TrainerCallback

        times = self

        class Callback(TrainerCallback):
            def on_step_begin(self, *_: object, **__: object) -> None:
                self.stop = stopwatch()

            def on_step_end(self, *_: object, **__: object) -> None:
                times.theirs.append(self.stop())
                times.ours.append(spent_by(lambda: times.trainer.update(len(times.ours))))

        return Callback()


def measure(work: Work, repeats: int, lr: float = 1e-6) -> tuple[list[Spent], list[Spent], dict[str, float]]:
    """Seconds of TRL's steps and of our updates, after one of each that does not count; our last metrics."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    roles = tokenizer().roles
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().inner,
        pad_token=roles["pad"],
        eos_token=roles["eos"],
        bos_token=roles["bos"],
        unk_token=roles["unknown"],
    )
    with tempfile.TemporaryDirectory() as folder:
        times = InTurn(work.ours(Path(folder), lr))
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=work.prompts * work.group,
            num_generations=work.group,
            gradient_accumulation_steps=1,
            max_completion_length=work.longest,
            max_steps=repeats + 1,
            learning_rate=lr,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            temperature=1.0,
            top_k=0,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            GRPOTrainer(
                model=small_qwen3(),
                reward_funcs=lambda completions, **_: [even_words(text) for text in completions],
                args=settings,
                train_dataset=Dataset.from_dict({"prompt": work.texts(40)}),
                processing_class=words,
                callbacks=[times.callback()],
            ).train()
        last = times.trainer.update(repeats + 1)
    return times.theirs[1:], times.ours[1:], last


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.against_trl", description=__doc__)
    plain = Work()
    for name in ("prompts", "group", "prompt_length", "longest"):
        number = getattr(plain, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number, help=f"default: {number}")
    parser.add_argument("--repeats", type=int, default=9, help="timed updates of each, at least 2 (default: 9)")
    given = parser.parse_args(arguments)
    if given.repeats < 2:
        parser.error(f"--repeats {given.repeats}: quartiles need at least 2 rounds")
    work = Work(given.prompts, given.group, given.prompt_length, given.longest)
    theirs, ours, _ = measure(work, given.repeats)
    clocks: tuple[Clock, ...] = ("cpu", "wall")
    for clock in clocks:
        seconds = [str(Quartiles.of([getattr(one, clock) for one in spent])) for spent in (ours, theirs)]
        print(f"{clock} seconds of an update: {seconds[0]} / TRL {seconds[1]}; ratio {ratio(ours, theirs, clock)}")


if __name__ == "__main__":
    main()
