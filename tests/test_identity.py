"""What names a run: everything that decides its result, also where the configuration only points to it."""

from __future__ import annotations

import sys

import pytest

from ablations.arms import Cell
from unigrpo import identity
from unigrpo.compose import compose
from unigrpo.identity import differences, identity_of

OWN = '''
from dataclasses import dataclass
from unigrpo.models import Model
from unigrpo.registry import register

@register("metric", "metric_of_identities", source="a user")
@dataclass(frozen=True)
class Metric:
    """Nothing."""

    version = 1
    needs = frozenset()
    quantities = ()

@register("model", "model_of_identities", source="a user")
@dataclass(frozen=True)
class Mine(Model):
    """None."""

    checkpoint: str = ""

def reward(images, prompts, texts, **meta):
    return [0.0] * len(images)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own, with prompts beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_of_identities.py").write_text(OWN)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "adapter" / "lm").mkdir(parents=True)
    (tmp_path / "adapter" / "lm" / "adapter_config.json").write_text("{}")
    yield tmp_path
    sys.modules.pop("own_of_identities", None)


PROMPTS = ["dataset=text_file", "dataset.path=prompts.txt"]
POINTS = [
    (["metrics=[own_of_identities.Metric]"], "own_of_identities.py", "source of metric=own_of_identities.Metric"),
    (["train_metrics=[own_of_identities.Metric]"], "own_of_identities.py", "source of metric=own_of_identities.Metric"),
    (["model=own_of_identities.Mine"], "own_of_identities.py", "source of model=own_of_identities.Mine"),
    (
        ["reward=callable", "reward.path=own_of_identities:reward"],
        "own_of_identities.py",
        "source of reward=callable own_of_identities",
    ),
    (PROMPTS, "prompts.txt", "prompts of dataset"),
    (["adapter=lora", "adapter.start=adapter"], "adapter/lm/adapter_config.json", "weights of adapter.start"),
]


@pytest.mark.parametrize(("overrides", "file", "named"), POINTS, ids=[" ".join(point[0])[:40] for point in POINTS])
def test_what_a_configuration_points_to_is_part_of_a_run_and_of_a_cell(own, overrides, file, named):
    config = compose(overrides)
    before, cell = identity_of(config), Cell("a", config).id
    assert identity_of(config) == before
    (own / file).write_text((own / file).read_text() + "\n#another\n")
    after = identity_of(config)
    assert Cell("a", config).id != cell
    found = differences(before, after)
    old, arrow, new = found.removeprefix(f"{named}: ").split(" ")
    assert arrow == "->"
    assert len(old) == len(new) == 8
    assert old != new


def test_differences_name_keys_old_and_new_and_are_short():
    base = identity_of(compose())
    assert differences(base, base) == ""
    assert differences(base | {"recipe": "label"}, base) == ""
    one = identity_of(compose(["optim.text_lr=1e-3"]))
    assert differences(base, one) == "optim.text_lr: 0.0001 -> 0.001"
    told = differences(base, dict.fromkeys(base.keys() - {"content"}, "x" * 99))
    assert told.count(" -> ") == 6
    assert " more" in told
    assert "x" * 45 not in told


def test_a_salted_run_is_not_taken_for_one_without_salt():
    plain, salted = (identity_of(compose(overrides)) for overrides in ([], ["salt=1"]))
    assert differences(plain, salted) == "salt: nothing -> 1"
    assert differences(salted, plain) == "salt: 1 -> nothing"
    assert compose(["salt=1", "~salt"]) == compose()


def test_what_a_folder_says_of_itself_is_read_as_it_was_written(tmp_path):
    config = compose()
    identity.write(tmp_path, config, identity_of(config))
    assert differences(identity.read(tmp_path), identity_of(config)) == ""
    (tmp_path / "content.json").unlink()
    assert "weights of model: nothing -> " in differences(identity.read(tmp_path), identity_of(config))
