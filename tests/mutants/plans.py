"""Mistakes on the way from a command and a grid file to configurations."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

COMPOSE = "unigrpo/compose.py"

PLAN_BUGS = (
    Bug(
        "a mapping given whole is merged",
        COMPOSE,
        "node[last] = _copy(override.value)  #",
        "node[last] = before | override.value if isinstance(before, dict) else override.value  #",
        nodes("test_compose", "test_a_mapping_given_whole_replaces_the_one_that_is_there"),
    ),
    Bug(
        "another strategy with the fields of the one before",
        COMPOSE,
        'return {"name": cls.name} | defaults(cls)',
        'return {**defaults(cls), **(before or {}), "name": cls.name}',
        nodes("test_compose", "test_another_strategy_starts_from_its_own_defaults"),
    ),
    Bug(
        "a range counted in binary",
        "unigrpo/overrides.py",
        "FloatRange(*(Decimal(str(number))",
        "FloatRange(*(Decimal(number)",
        nodes("test_overrides", "test_a_range_counts_in_the_decimal_places_it_is_written_in"),
    ),
    Bug(
        "of two equal keys the last",
        "unigrpo/strict_yaml.py",
        "if (name := (key.tag, key.value)) in lines:",
        "if (name := (key.tag, key.value)) in ():",
        nodes("test_strict_yaml", "test_what_would_mean_something_else_is_refused_with_its_line"),
    ),
    Bug(
        "a rule that leaves out nothing",
        "ablations/builder.py",
        "if not self._replaced & set(rule):",
        "if rule is None:",
        nodes("ablations/test_plan", "test_a_rule_that_leaves_out_nothing_is_an_error"),
    ),
    Bug(
        "an axis beats the command",
        "ablations/builder.py",
        "axes = {key: axis for key, axis in axes.items() if key not in said}",
        "axes = {key: axis for key, axis in axes.items()}",
        nodes("ablations/test_plan", "test_what_the_command_says_of_a_key_beats_the_axes_of_the_grid"),
    ),
    Bug(
        "one untouched model for all",
        "ablations/builder.py",
        'if _start_of(arm) != _start(shared["model"], shared.get("adapter")):',
        "if not plain:",
        nodes("ablations/test_plan", "test_every_model_that_arms_start_from_has_one_untouched_cell"),
    ),
)
