"""Checkpoints and logs on disk: whole, or as if they had never been written."""

from __future__ import annotations

import json
import math
import random
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.models.tiny import randn
from tests.training.runs import Fate, in_a_fork, killed
from unigrpo.errors import CheckpointError
from unigrpo.io import append_row, truncate_rows, write_atomic, write_json, write_rows
from unigrpo.training import state
from unigrpo.training.state import State, read_latest


def state_of(update: int) -> State:
    return State({"w": randn(40, seed=update), "step": torch.tensor(float(update))}, {"cost": {"nfe": update}})


def same(one: State | None, other: State) -> bool:
    return one is not None and all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_what_is_written_is_read(tmp_path):
    state.write(tmp_path, 7, state_of(7))
    saved = read_latest(tmp_path)
    assert same(saved, state_of(7))
    assert saved.facts["update"] == 7
    assert saved.facts["cost"] == {"nfe": 7}


def test_without_checkpoints_there_is_none(tmp_path):
    assert read_latest(tmp_path / "nowhere") is None
    (tmp_path / "00000001").mkdir()
    assert read_latest(tmp_path) is None, "a folder without facts was never finished"


def test_the_newest_two_are_kept(tmp_path):
    for update in (9, 10, 11):
        state.write(tmp_path, update, state_of(update))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000011"]
    assert same(read_latest(tmp_path), state_of(11))


def test_bits_survive_whatever_the_dtype_and_layout(tmp_path):
    tensors = {
        "half": randn(3).bfloat16(),
        "long": torch.tensor([2**60 + 1]),
        "turned": randn(3, 4).T,
        "odd": torch.tensor([math.inf, -0.0, math.nan]),
    }
    state.write(tmp_path, 1, State(tensors, {}))
    for name, tensor in read_latest(tmp_path).tensors.items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.contiguous().view(torch.uint8).tolist() == tensors[name].contiguous().view(torch.uint8).tolist()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that uses a GPU cannot be forked")
def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint(tmp_path):
    """At random things that the code does, the old or the new state is there, and the next write succeeds."""
    for update in (1, 2):
        state.write(tmp_path / "counted", update, state_of(update))
    with Fate() as fate:
        state.write(tmp_path / "counted", 3, state_of(3))
    seen = set()
    for moment in sorted(random.Random(0).sample(range(1, fate.count + 1), 12)):
        folder = tmp_path / str(moment)
        for update in (1, 2):
            state.write(folder, update, state_of(update))

        def third(moment: int = moment, folder: Path = folder) -> None:
            with Fate(at=moment):
                state.write(folder, 3, state_of(3))

        assert killed(in_a_fork(third))
        with warnings.catch_warnings(action="error"):
            saved = read_latest(folder)
        update = saved.facts["update"]
        assert same(saved, state_of(update))
        seen.add(update)
        state.write(folder, 3, state_of(3))
        assert same(read_latest(folder), state_of(3))
    assert seen == {2, 3}


def test_what_names_share_is_kept_once_and_restored_to_each(tmp_path):
    """Tied embeddings, and two views of one memory that are not the same."""
    table = randn(64, 8)
    tensors = {"head": table, "embed": table, "turned": table.T, "part": table[:32], "other": table.clone()}
    state.write(tmp_path, 1, State(tensors, {}))
    saved = read_latest(tmp_path)
    assert saved.tensors.keys() == tensors.keys()
    assert same(saved, State(tensors, {}))
    assert saved.tensors["head"] is saved.tensors["embed"]
    size = (tmp_path / "00000001" / "state.safetensors").stat().st_size
    assert size < 4 * table.nbytes, "head and embed once, turned, half, other"


def test_without_sharing_the_bytes_are_those_of_safetensors(tmp_path):
    tensors = {"b": randn(3, 4).T, "a": torch.zeros(0), "empty": torch.zeros(0), "c": randn(2).bfloat16()}
    state.write(tmp_path, 1, State(tensors, {}))
    plain = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert (tmp_path / "00000001" / "state.safetensors").read_bytes() == plain


def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path):
    def start():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)

    def steps(layer, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            layer(randn(4, 3)).square().sum().backward()
            optimizer.step()

    layer, optimizer = start()
    steps(layer, optimizer, 2)
    names = {id(parameter): name for name, parameter in layer.named_parameters()}
    tensors = {f"policy.{n}": t for n, t in layer.state_dict().items()} | state.optimizer_tensors(optimizer, names)
    state.write(tmp_path, 2, State(tensors, {}))
    steps(layer, optimizer, 2)

    other, fresh = start()
    saved = read_latest(tmp_path).tensors
    other.load_state_dict({n.removeprefix("policy."): t for n, t in saved.items() if n.startswith("policy.")})
    state.restore_optimizer(fresh, dict(other.named_parameters()), saved)
    steps(other, fresh, 2)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


def test_all_damaged_is_an_error(tmp_path):
    state.write(tmp_path, 1, state_of(1))
    (tmp_path / "00000001" / "state.safetensors").unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"00000001/state\.safetensors"),
    ):
        read_latest(tmp_path)


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_equal_data_are_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": {"b": 2, "a": 3}})
    write_json(tmp_path / "b", {"y": {"a": 3, "b": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_json_never_holds_what_json_cannot(tmp_path, bad):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": bad})
    append_row(tmp_path / "rows", {"step": 1, "x": bad, "y": 2.0})
    assert json.loads((tmp_path / "rows").read_text()) == {"step": 1, "y": 2.0}


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS, max_size=6), st.integers(0, 7), st.integers(0, 30))
def test_rows_after_the_checkpoint_are_dropped_and_the_rest_keeps_its_bytes(tmp_path_factory, values, before, cut):
    """The kill may have cut off the last line anywhere."""
    folder = tmp_path_factory.mktemp("rows")
    for step, value in enumerate(values):
        append_row(folder / "whole", {"step": step, "x": value})
        if step < before:
            append_row(folder / "kept", {"step": step, "x": value})
    content = (folder / "whole").read_bytes() if values else b""
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    end = max(last, len(content) - cut) if before < len(values) else len(content)
    (folder / "log").write_bytes(content[:end])
    truncate_rows(folder / "log", before)
    kept = folder / "kept"
    assert (folder / "log").read_bytes() == (kept.read_bytes() if kept.exists() else b"")


def test_dropping_rows_of_a_file_that_is_not_there_makes_none(tmp_path):
    truncate_rows(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_rows_replace_what_was_there(tmp_path):
    write_rows(tmp_path / "rows", [{"a": 1}, {"a": 2}])
    write_rows(tmp_path / "rows", [{"a": 3}])
    assert (tmp_path / "rows").read_text() == '{"a": 3}\n'
