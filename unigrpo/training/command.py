"""Train one run: ``python -m unigrpo.train recipe=unigrpo [folder=runs/train/NAME] [key=value ...]``.

The same command again goes on where a stopped or killed run was.  Ctrl-C checkpoints first.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from unigrpo import console, surroundings
from unigrpo.compose import compose
from unigrpo.config import RunConfig
from unigrpo.data.dataset import select
from unigrpo.errors import CheckpointError, ConfigError, NonFiniteLoss, RatioGuardError, RewardError, Stopped
from unigrpo.io import JsonObject, home_expanded
from unigrpo.keys import keys_text

_USAGE, _FAILED, _INTERRUPTED = 2, 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code: 0 done, 1 failed, 2 a faulty configuration, 130 interrupted."""
    console.prepare()
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"{__doc__}\n{keys_text()}")
        return 0
    folders = [word.partition("=")[2] for word in words if word.startswith("folder=")]
    try:
        surroundings.check()
        config = compose([word for word in words if not word.startswith("folder=")]).check()
        folder = _folder(folders[-1] if folders else f"runs/train/{config.recipe}-s{config.seed}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE
    print(f"{config.recipe}, seed {config.seed}, {config.optim.updates} updates -> {folder}")
    print(_sizes(config))
    return _train(config, folder)


def _sizes(config: RunConfig) -> str:
    """On how many prompts a run trains and is measured, in one line."""
    settings, words = config.evaluation, []
    there = config.dataset.prompts(settings.split)
    train = config.dataset.prompts("train") if config.optim.updates else there
    if config.optim.updates:
        tags = f" in {len(train)} tags" if len(train) > 1 else ""
        words.append(f"trains on {sum(map(len, train.values()))}{tags}, {config.rollout.prompts} an update")
    used, whole = len(select(there, settings.prompts_per_tag)), sum(map(len, there.values()))
    words.append(f"measured on {used} of the {whole} of split {settings.split}")
    # Of few prompts a split may lack a tag, which is then in no mean.
    for purpose, one, other in (("train", train, there), ("measure", there, train)):
        if lacking := sorted(other.keys() - one.keys()):
            words.append(f"none to {purpose} on of tag {', '.join(map(repr, lacking))}")
    return f"prompts: {'; '.join(words)}"


def _folder(name: str) -> Path:
    """The run's folder, made if missing.

    Raises:
        ConfigError: no run can be written there.
    """
    folder = Path(home_expanded("folder", name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"folder={name}: cannot be written ({reason}); use another folder") from error


def _train(config: RunConfig, folder: Path) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from unigrpo.training.runner import finished, run

    headline = [quantity.name for metric in config.measured for quantity in metric.quantities if quantity.headline]
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        result = finished(config, folder)
        if result is not None:
            print(f"finished before: nothing is trained, this is what {folder} holds; folder=... trains anew")
        with Progress(*columns, disable=result is not None) as bar:
            task = bar.add_task("training", total=config.optim.updates)

            def show(event: JsonObject) -> None:
                numbers = event["metrics"]
                parts = [
                    f"{name[6:]} {value:.3f}" for name, value in numbers.items() if name.startswith("train/reward")
                ]
                text = ", ".join(part for part in parts if "_std" not in part)
                bar.update(task, completed=event["update"], description=text)

            result = result or run(config, folder, progress=show, stop=lambda: bool(asked))
    except Stopped as error:
        print(f"{error}; the same command goes on from there")
        return _INTERRUPTED
    except (ConfigError, CheckpointError, NonFiniteLoss, RatioGuardError, RewardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE if isinstance(error, ConfigError) else _FAILED
    finally:
        signal.signal(signal.SIGINT, before)
    for name in (*headline, *(f"guided/{name}" for name in headline[:1])):
        print(f"{name} {result['metrics'][name]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
