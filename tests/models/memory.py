"""What recipes of published models need, as docs/models.md has it: ``python -m tests.models.memory [RECIPE ...]``.

Two episodes go through an update, so that the memory of one can be told from what stays.  Minutes for each recipe.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.models.sizes import FOLDERS
from unigrpo.compose import compose
from unigrpo.training.estimate.needs import Estimate, estimate

#: Two episodes, as short an evaluation as there is.
FEW = [
    "engine=ddp", "rollout.prompts=1", "rollout.minibatches=1", "rollout.group_size=2", "evaluation.prompts_per_tag=1",
    "evaluation.images_per_prompt=1", "evaluation.guided_images_per_prompt=1",
]  # fmt: skip
REWARD = "reward.path=tests.training.runs:brightness"


def needs(name: str, folder: Path) -> Estimate:
    """Of two episodes of a recipe, with the published sizes of its model."""
    (folder / "prompts.txt").write_text("".join(f"{n} red cubes beside a blue ball\n" for n in range(100)))
    key = "folder" if "bagel" in name else "path"
    model = f"model.{key}='{FOLDERS[name](folder / 'model')}'"
    data = ["dataset=text_file", f"dataset.path='{folder / 'prompts.txt'}'"]
    return estimate(compose([f"recipe={name}", model, *data, REWARD, *FEW]))


def row(name: str, found: Estimate) -> str:
    """Of the page's table: billions, millions, and GiB of what stays, of one episode and of two at once."""
    counts = found.parameters
    trained = sum(count for part, count in counts.items() if part != "policy")
    sizes = [size / 2**30 for size in (found.fixed, found.activations / 2, found.peak)]
    cells = [f"`{name}`", f"{counts['policy'] / 1e9:.2f}", f"{trained / 1e6:,.0f}", *(f"{size:.1f}" for size in sizes)]
    return f"| {' | '.join(cells)} |"


def main(names: list[str]) -> None:
    """Print the rows."""
    for name in names or FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, needs(name, Path(folder))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
