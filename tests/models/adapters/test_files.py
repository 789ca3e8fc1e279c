"""Matrices on disk: peft reads them, a later run starts from them, and what does not fit is refused by name."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.models import tiny
from tests.models.adapters.test_layers import adapted, answers, same, shake
from tests.models.composed import Composed
from unigrpo.errors import ConfigError
from unigrpo.models.adapters import Lora, files
from unigrpo.models.adapters.layers import Adapted, layers_of, trained
from unigrpo.models.conformance import assert_model_conforms

CPU = torch.device("cpu")
KEY = (5,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Matrices of rank 3 and scale 2 for the tiny mixture of transformers."""
    place = tmp_path_factory.mktemp("lora") / "adapter"
    files.write(place, adapted().policy, 3, 6)
    return place


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Matrices for a causal LM, a DiT and what connects them, and the model that has them."""
    place = tmp_path_factory.mktemp("parts") / "adapter"
    loaded = Lora(rank=2, alpha=4).attach(Composed(tied=True).load(CPU), KEY)
    shake(loaded.policy)
    files.write(place, loaded.policy, 2, 4)
    return place, loaded.policy


def test_peft_loads_what_is_written_into_the_plain_policy(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = PeftModel.from_pretrained(tiny.model().policy, folder)
    mine, theirs = (layers_of(policy) for policy in (adapted().policy, loaded.base_model.model))
    assert mine.keys() == theirs.keys()
    for name, layer in mine.items():
        x = tiny.randn(5, layer.in_features)
        assert torch.equal(layer(x), theirs[name](x)), name
    for ours, other in zip(answers(adapted().policy), answers(loaded.base_model.model), strict=True):
        torch.testing.assert_close(ours, other)


def test_each_library_loads_its_own_part(parts):
    folder, policy = parts
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")) == [
        "adapter_model.safetensors", "dit/adapter_model.safetensors", "lm/adapter_model.safetensors",
    ]  # fmt: skip
    assert {key.split(".")[2] for key in load_file(folder / "adapter_model.safetensors")} == {"connector"}
    plain = Composed(tied=True).load(CPU).policy
    tokens = torch.arange(6)[None]
    before = plain.lm(tokens).logits
    lm = PeftModel.from_pretrained(plain.lm, folder / "lm")
    assert not torch.allclose(lm(tokens).logits, before)
    # In float64: peft's products may take other kernels than ours.
    mine, theirs = (copy.deepcopy(module).double() for module in (policy.lm, lm))
    torch.testing.assert_close(theirs(tokens).logits, mine(tokens).logits)
    dit = PeftModel.from_pretrained(plain.dit, folder / "dit")
    given = [tiny.randn(*size).double() for size in ((1, 3, 4, 4), (1, 2, 32), (1, 32))]
    mine, theirs = (copy.deepcopy(module).double() for module in (policy.dit, dit))
    time = torch.tensor([500.0], dtype=torch.float64)
    torch.testing.assert_close(theirs(*given, time).sample, mine(*given, time).sample)


def test_a_run_starts_from_what_another_has_trained_and_is_held_to_it(folder):
    base = answers(tiny.model().policy)
    loaded = Lora(rank=3, alpha=6, start=str(folder)).attach(tiny.model(), (9,))
    assert isinstance(loaded, Adapted)
    start = answers(adapted().policy)
    assert not same(start, base)
    assert same(answers(loaded.policy), start)
    wanted = {name for name, parameter in loaded.policy.named_parameters() if parameter.requires_grad}
    assert wanted == {*trained(loaded.policy)}, "not those that are kept for the reference"
    reference = loaded.reference()
    shake(loaded.policy, seed=3)
    assert same(answers(reference), start)
    assert not same(answers(loaded.policy), start)


def test_what_it_started_from_is_not_written_again(folder, tmp_path):
    loaded = Lora(rank=3, alpha=6, start=str(folder)).attach(tiny.model(), (9,))
    files.write(tmp_path / "again", loaded.policy, 3, 6)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_models_conform_with_matrices_that_are_not_0(parts, folder):
    place, _ = parts
    lora = Lora(rank=2, alpha=4, start=str(place))
    assert_model_conforms(Composed(tied=True), ("a red kite", "a boat"), adapter=lora)


def damaged(folder, place, **changes):
    """A copy of an adapter with other settings."""
    place.mkdir()
    told = json.loads((folder / files.CONFIG).read_text())
    (place / files.CONFIG).write_text(json.dumps(told | changes))
    (place / files.WEIGHTS).write_bytes((folder / files.WEIGHTS).read_bytes())
    return place


def start(folder, model=None, **fields):
    return Lora(**{"rank": 3, "alpha": 6, "start": str(folder)} | fields).attach(model or tiny.model(), KEY)


def test_another_rank_or_scale_is_refused(folder):
    with pytest.raises(ConfigError, match=r"adapter\.rank=4: adapter\.start has 3 \(r in .*adapter_config\.json\)"):
        start(folder, rank=4)
    with pytest.raises(ConfigError, match=r"adapter\.alpha=16: adapter\.start has 6 \(lora_alpha"):
        start(folder, alpha=16)


def test_other_layers_are_refused(folder, tmp_path):
    with pytest.raises(
        ConfigError, match=r"has base_model\.model\.language_model\..*\(\d+ names differ\); give the ada"
    ):
        start(folder, text_targets=("q_proj",))
    place = damaged(folder, tmp_path / "fewer")
    tensors = load_file(folder / files.WEIGHTS)
    save_file({key: value for key, value in tensors.items() if "lm_head" not in key}, place / files.WEIGHTS)
    with pytest.raises(ConfigError, match=r"lacks base_model\.model\.language_model\.lm_head\.lora_A\.weight"):
        start(place)


def test_the_adapter_of_another_model_is_refused(folder):
    with pytest.raises(ConfigError, match=r"gate_proj: expected sizes .*, got .*; it is of another model"):
        start(folder, tiny.model(intermediate_size=40))


def test_a_damaged_file_is_named(folder, tmp_path):
    place = damaged(folder, tmp_path / "damaged")
    (place / files.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=r"adapter\.start: .*damaged cannot be read"):
        start(place)
