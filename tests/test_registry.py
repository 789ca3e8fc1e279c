"""Slots and strategies: what can be registered, how it is found, what the listing says."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.shipped import shipped
from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.registry import find, listing, register, slots, strategies


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    # It registers when it is first imported, which must not be within a registry that is thrown away.
    importlib.import_module("tests.ablations.user_strategy")
    for slot in slots():
        strategies(slot)
    monkeypatch.setattr(registry, "_strategies", {slot: dict(found) for slot, found in registry._strategies.items()})
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))


def test_a_registered_class_is_found_and_knows_its_name():
    @register("guidance", "sometimes", source="this test")
    @dataclass(frozen=True)
    class Sometimes:
        """Now and then."""

        share: float = 0.5

    assert find("guidance", "sometimes") is Sometimes
    assert strategies("guidance")["sometimes"] is Sometimes
    assert (Sometimes.slot, Sometimes.name, Sometimes.source) == ("guidance", "sometimes", "this test")
    config = RunConfig.from_dict({"guidance": {"name": "sometimes", "share": 0.25}})
    assert config.guidance == Sometimes(0.25)
    assert config.to_dict()["guidance"] == {"name": "sometimes", "share": 0.25}


def test_a_new_slot_comes_into_being_with_its_first_strategy():
    register("sorting", "bubble", source="this test")(dataclasses.make_dataclass("Bubble", [], frozen=True))
    assert "sorting" in slots()
    assert list(strategies("sorting")) == ["bubble"]


@pytest.mark.parametrize("frozen", [None, False])
def test_only_frozen_dataclasses_are_strategies(frozen):
    plain = type("Plain", (), {})
    cls = plain if frozen is None else dataclass(frozen=frozen)(plain)
    with pytest.raises(TypeError, match=r"guidance=plain: a strategy is a frozen dataclass, .*Plain is not"):
        register("guidance", "plain", source="")(cls)
    assert "plain" not in strategies("guidance")


def test_a_taken_name_is_refused_and_says_by_whom():
    with pytest.raises(
        ConfigError, match=r"Other registers guidance=cfg, which is already unigrpo\.flow\.guidance\.Cfg;"
    ):
        register("guidance", "cfg", source="")(dataclasses.make_dataclass("Other", [], frozen=True))


def test_the_same_class_may_be_registered_again():
    """As when its module is reloaded."""
    cls = find("guidance", "cfg")
    assert register("guidance", "cfg", source=cls.source)(cls) is cls


@pytest.mark.parametrize(
    ("slot", "name", "said"),
    [
        ("guidance", "cfg_fre", "unknown guidance 'cfg_fre'; did you mean 'cfg_free'?"),
        ("guidance", "zzz", "unknown guidance 'zzz'; choose one of: cfg, cfg_free"),
        ("guidence", "cfg", "unknown slot 'guidence'; did you mean 'guidance'?"),
        ("guidance", "nowhere.at.All", "guidance=nowhere.at.All: cannot import it (No module named 'nowhere')"),
        ("guidance", "unigrpo.flow.guidance.Cgf", "cannot import it (module 'unigrpo.flow.guidance' has no attribute"),
        ("guidance", "unigrpo.config.slot", "guidance=unigrpo.config.slot: expected a registered dataclass"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest_that_is(slot, name, said):
    with pytest.raises(ConfigError) as caught:
        find(slot, name)
    assert said in str(caught.value)


def test_a_dotted_path_finds_a_class():
    assert find("guidance", "unigrpo.flow.guidance.Cfg") is find("guidance", "cfg")


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A folder on the path; what is imported from it is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("users_own"):
            del sys.modules[name]


MODULE = '''
from dataclasses import dataclass
from unigrpo.registry import register
from unigrpo.flow.guidance import Cfg

@register("guidance", "users_own", source="a paper")
@dataclass(frozen=True)
class Own:
    """What the user needs."""
    scale: float = 3.0

@dataclass(frozen=True)
class Unregistered(Cfg):
    """Has the name and slot of its base class, but not its formula."""
'''


def test_a_dotted_path_imports_its_module(importable):
    (importable / "users_own_path.py").write_text(MODULE)
    config = RunConfig.from_dict({"guidance": {"name": "users_own_path.Own", "scale": 2.0}})
    assert config.guidance.scale == 2.0
    assert type(config.guidance) is find("guidance", "users_own")


def test_a_class_that_only_inherits_a_registration_is_refused(importable):
    """It would be recorded under its base class's name, and taken for it afterwards."""
    (importable / "users_own_base.py").write_text(MODULE)
    with pytest.raises(ConfigError, match="expected a registered dataclass"):
        find("guidance", "users_own_base.Unregistered")


def test_a_strategy_of_another_slot_is_refused():
    with pytest.raises(ConfigError, match="expected a registered dataclass"):
        find("guidance", "unigrpo.flow.dynamics.Ode")


def test_entry_points_of_other_packages_are_loaded(importable):
    (importable / "users_own_package.py").write_text(MODULE)
    info = importable / "users_own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[unigrpo.strategies]\nguidance.users_own = users_own_package:Own\ndynamics.broken = nowhere:Broken\n"
    )
    registry._loaded.discard("guidance")
    assert find("guidance", "users_own").__module__ == "users_own_package"
    row = next(row for row in listing() if row["name"] == "users_own")
    assert row["summary"] == "What the user needs."


def test_the_listing_covers_every_strategy_and_says_what_it_is():
    rows = listing()
    assert {(row["slot"], row["name"]) for row in rows} == {(s, name) for s in slots() for name in strategies(s)}
    assert {row["slot"] for row in rows} >= set(registry.SLOTS)
    for row in rows:
        if row["name"] not in shipped(row["slot"]):
            continue
        assert len(row["summary"]) > 10, row
        assert row["source"], row
        cls = find(row["slot"], row["name"])
        assert set(row["fields"]) == {f.name for f in dataclasses.fields(cls)}
        required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
        assert required in ([], ["path"]), "every field has a default, but for a path of the user's"
        assert required or cls().__class__ is cls


def test_the_listing_shows_fields_with_types_and_defaults():
    row = next(row for row in listing() if (row["slot"], row["name"]) == ("window", "random_window"))
    assert row["fields"] == {"size": ("int", 2), "low": ("int", 0), "high": ("int", 4)}


def test_the_command_lists_everything_and_a_plan_needs_no_torch():
    script = (
        "import runpy, sys; runpy.run_module('unigrpo.registry', run_name='__main__');"
        "from unigrpo.config import RunConfig; RunConfig().check();"
        "print('heavy:', sorted({'torch', 'mlflow', 'scipy', 'pandas', 'matplotlib', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "40"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "heavy: []" in done.stdout
    for row in listing():
        if row["name"] not in shipped(row["slot"]):
            continue
        assert row["name"] in done.stdout
        for field in row["fields"]:
            kind, default = row["fields"][field]
            assert f"{field}: {kind} = {default!r}" in done.stdout, "whole, however narrow what it is piped to"


class TestSources:
    """A cell is its content: the source of a user's strategy is part of it."""

    @staticmethod
    def load(folder, monkeypatch, name="my_strategy"):
        monkeypatch.syspath_prepend(str(folder))
        for module in [name.partition(".")[0], name, "helper", "deeper", "deeper.util"]:
            monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name).Mine()

    @staticmethod
    def write(folder, **files):
        for name, text in files.items():
            path = folder / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    MINE = (
        "import helper\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n"
        "    slot, name = 's', 'mine'\n"
    )

    def test_they_are_those_of_its_module_and_of_what_that_imports_beside_it(self, tmp_path, monkeypatch):
        files = {"helper": "from deeper import util", "deeper__util": "x = 1", "other": "y = 1"}
        digests = []
        for k, changes in enumerate(
            ({}, {"other": "y = 2"}, {"deeper__util": "x = 2"}, {"helper": "from deeper.util import x"})
        ):
            self.write(tmp_path / str(k), my_strategy=self.MINE, **files | changes)
            digests.append(registry.source_digest(self.load(tmp_path / str(k), monkeypatch)))
        plain, beside, deep, helper = digests
        assert plain == beside, "what it does not import, and where it lies, is no part of it"
        assert len({plain, deep, helper}) == 3

    @pytest.mark.parametrize("marked", [True, False])
    def test_of_a_package_they_are_all_of_it(self, tmp_path, monkeypatch, marked):
        digests = []
        for k, util in enumerate(("x = 1", "x = 2", "x = 1")):
            files = {"pack__sub__mine": self.MINE.partition("\n")[2], "pack__other__util": util}
            self.write(tmp_path / str(k), **files | ({"pack____init": ""} if marked else {}))
            if marked:
                (tmp_path / str(k) / "pack" / "__init__.py").write_text("")
            for module in ("pack", "pack.sub"):
                monkeypatch.delitem(sys.modules, module, raising=False)
            digests.append(registry.source_digest(self.load(tmp_path / str(k), monkeypatch, "pack.sub.mine")))
        assert digests[0] == digests[2] != digests[1]

    def test_a_configuration_names_those_that_are_not_shipped(self):
        config = RunConfig.from_dict({"regularizer": {"name": "tests.ablations.user_strategy.Doubled"}})
        assert list(registry.user_sources(config)) == ["regularizer=tests.ablations.user_strategy.Doubled"]
        assert registry.user_sources(RunConfig()) == {}

    def test_a_class_without_a_file_is_refused(self):
        made = type("Typed", (), {"__module__": "nowhere"})
        with pytest.raises(ConfigError, match=r"nowhere\.Typed: its source is not to be found"):
            registry.source_digest(made())


def test_the_strategies_of_plugins_are_found_with_their_slot():
    """Of the shipped worlds, none of which the core imports."""
    from unigrpo import worlds

    for slot, modules in worlds.STRATEGIES.items():
        homes = {cls.__module__ for cls in shipped(slot).values()}
        assert all(any(home.startswith(module) for home in homes) for module in modules), slot
    assert {"shapes", "jsonl", "text_file"} <= set(strategies("dataset"))


def test_another_plugin_is_loaded_with_the_slot_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text('STRATEGIES = {"dataset": ("my_plugin_data",)}\n')
    (tmp_path / "my_plugin_data.py").write_text(
        "from dataclasses import dataclass\n"
        "from unigrpo.registry import register\n"
        "@register('dataset', 'mine', source='this test')\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "PLUGINS", (*registry.PLUGINS, "my_plugin"))
    monkeypatch.setattr(registry, "_loaded", registry._loaded - {"dataset", "guidance"})
    assert "mine" not in strategies("guidance")
    assert "my_plugin_data" not in sys.modules, "a slot that it does not name costs nothing"
    assert find("dataset", "mine").__module__ == "my_plugin_data"
    for name in ("my_plugin", "my_plugin_data"):
        monkeypatch.delitem(sys.modules, name)
