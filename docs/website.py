"""Builds the documentation site into ``site/``: ``python docs/website.py``.

Pages stay where they are, beside the code that they are about.  They are gathered in ``build/site`` in the same
folders, so that links between them hold there too; a link to another file leads to a view of it.  What the code knows
best is made from it: keys, strategies, equations with their lines, and the reference of modules from their docstrings.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
CONFIG, STYLE = ROOT / "docs" / "mkdocs.yml", ROOT / "docs" / "site.css"
#: Where pages are gathered, and where the site is built.
STAGE, SITE = ROOT / "build" / "site", ROOT / "site"
FOLDERS = ("unigrpo", "ablations", "benchmarks", "reports", "tests", "docs", "examples")
PICTURES = (".png", ".svg")

#: A page of the reference -> its title, what it is, and the objects that it documents.
MODULES: dict[str, tuple[str, str, Sequence[str]]] = {
    "python": (
        "From Python",
        "What `import unigrpo` offers, and the configuration that goes through it.",
        (
            "unigrpo.compose.compose", "unigrpo.train", "unigrpo.load_model", "unigrpo.registry.register",
            "unigrpo.config.RunConfig", "unigrpo.config.RolloutConfig", "unigrpo.config.SamplerConfig",
            "unigrpo.config.OptimConfig", "unigrpo.config.EvaluationConfig", "unigrpo.errors",
        ),
    ),
    "protocols": (
        "Protocols",
        "What a strategy of each slot, a model, a launcher and a tracker have to offer.",
        (
            "unigrpo.data.prompt", "unigrpo.data.dataset.Dataset", "unigrpo.models.model", "unigrpo.models.policy",
            "unigrpo.models.processor.Processor", "unigrpo.models.vision.VisionEncoder",
            "unigrpo.models.autoencoder.Autoencoder", "unigrpo.rewards.reward", "unigrpo.metrics.metric",
            "unigrpo.rollout.episodes.episode", "unigrpo.rollout.heads.head", "unigrpo.algorithms.algorithm",
            "unigrpo.objective.slots", "ablations.launchers.Launcher", "ablations.launchers.Session",
            "ablations.trackers.Tracker", "ablations.trackers.Mirror",
        ),
    ),
    "formulas": (
        "Formulas",
        "The mathematics of flow matching and of the objective: pure functions and frozen dataclasses on tensors.",
        (
            "unigrpo.flow.schedule", "unigrpo.flow.dynamics", "unigrpo.flow.guidance", "unigrpo.flow.window",
            "unigrpo.objective.advantage", "unigrpo.objective.credit", "unigrpo.objective.text_ratio",
            "unigrpo.objective.image_ratio", "unigrpo.objective.trust_region", "unigrpo.objective.aggregation",
            "unigrpo.objective.regularizer", "unigrpo.objective.text_kl", "unigrpo.objective.modalities",
            "unigrpo.objective.loss",
        ),
    ),
    "statistics": (
        "Statistics",
        "What reports compute with; [which test, which interval, and why](../docs/statistics.md).",
        tuple(
            f"reports.statistics.{name}"
            for name in (
                "comparison", "tests", "intervals", "corrections", "power", "sequential", "variance", "noise",
                "prompts", "ladders", "quantiles",
            )
        ),
    ),
}  # fmt: skip


def pages() -> list[Path]:
    """The pages of the repository."""
    found = (page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))
    return [*sorted(ROOT.glob("*.md")), *sorted(found)]


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """``text`` with ``change`` made to all that is in no fenced block."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def links(text: str) -> Iterator[str]:
    """The targets of a page's links and pictures."""
    found: list[str] = []
    outside_code(text, lambda part: found.extend(re.findall(r"\]\(([^)\s]+)[^)]*\)", part)) or part)
    yield from found


class Stage:
    """The folder in which pages are gathered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Gather all pages, and views of the files that they link to; what was there is removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        texts = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in pages()}
        texts[Path("docs", "equations.md")] = _equations()
        texts |= {Path("reference", f"{name}.md"): text for name, text in _reference()}
        self._write(STYLE.relative_to(ROOT), STYLE.read_text(encoding="utf-8"))
        for page, text in texts.items():
            self._write(page, outside_code(text, lambda part, page=page: self._part(page, part)))

    def _part(self, page: Path, text: str) -> str:
        """A part of a page with links to views of files, and with blank lines before blocks, which GitHub can spare."""
        text = re.sub(r"\]\(([^)\s]+)", lambda found: f"]({self._target(page, found[1])}", text)
        lines: list[str] = []
        for line in text.split("\n"):
            starts = [kind for kind in (r"\|", r"[-*] |\d+\. ") if re.match(kind, line)]
            if starts and lines and lines[-1].strip() and not re.match(rf"{starts[0]}| ", lines[-1]):
                lines.append("")
            lines.append(line)
        return "\n".join(lines)

    def _target(self, page: Path, link: str) -> str:
        """Where a page's link leads on the site; the file behind it is gathered, too."""
        target, hash_sign, anchor = link.partition("#")
        file = (ROOT / page.parent / target).resolve()
        if "://" in link or not target or target.endswith(".md") or not file.is_file():
            return link
        inside = file.relative_to(ROOT)
        if file.suffix in PICTURES:
            (self.folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, self.folder / inside)
            return link
        view = inside.with_name(f"{inside.name}.md")
        if not (self.folder / view).exists():
            language = {".py": "python", ".yaml": "yaml", ".cff": "yaml"}.get(file.suffix, "text")
            head = f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {inside.as_posix()}\n\n"
            self._write(view, f"{head}````{language}\n{file.read_text(encoding='utf-8')}````\n")
        line = re.sub(r"^L(\d+)$", r"L-0-\1", anchor)
        return f"{target}.md{hash_sign}{line}"

    def _write(self, page: Path, text: str) -> None:
        (self.folder / page).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / page).write_text(text, encoding="utf-8")


def _equations() -> str:
    import equations

    return str(equations.page(lines=True))


def _reference() -> Iterator[tuple[str, str]]:
    """(name, text) of the pages that are made from the code."""
    yield "keys", _keys()
    yield "strategies", _strategies()
    for name, (title, what, objects) in MODULES.items():
        yield name, "\n\n".join((f"# {title}", what, *(f"::: {path}" for path in objects))) + "\n"


def _keys() -> str:
    from unigrpo.keys import rows

    head = (
        "# Keys\n\nEvery key of a run (`key=value` on the command line), its value in `recipe=unigrpo`, its meaning."
        " Fields of [strategies](strategies.md) are given as `key.field=value`.\n\n"
        "| key | value | meaning |\n|---|---|---|\n"
    )
    return head + "".join(f"| `{key}` | `{value}` | {_cell(meaning)} |\n" for key, value, meaning in rows())


def _strategies() -> str:
    from unigrpo.registry import SLOTS, listing

    text = ["# Strategies\n\nWhat can be chosen for each slot, with its fields and their defaults.\n"]
    last = ""
    for row in (row for row in listing() if row["slot"] in SLOTS):
        if row["slot"] != last:
            text.append(f"\n## {row['slot']}\n\n| strategy | what | fields | source |\n|---|---|---|---|\n")
        fields = "<br>".join(f"`{_cell(f'{k}: {kind} = {value!r}')}`" for k, (kind, value) in row["fields"].items())
        words = re.sub(r"``([^`]*)``", r"`\1`", row["summary"])
        text.append(f"| `{row['name']}` | {_cell(words)} | {fields} | {_cell(row['source'])} |\n")
        last = row["slot"]
    return "".join(text)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def build(stage: Path = STAGE, site: Path = SITE) -> Path:
    """Build the site; returns its front page.

    Raises:
        mkdocs.exceptions.Abort: a link leads nowhere, or an object of the reference is not there.
    """
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    Stage(stage).fill()
    mkdocs_build(load_config(str(CONFIG), strict=True, docs_dir=str(stage), site_dir=str(site)))
    return site / "index.html"


if __name__ == "__main__":
    try:
        print(build())
    except ImportError as error:
        sys.exit(f"{error}: pip install -c constraints.txt -e '.[docs]'")
