"""Fine-tuning on prompts with answers of one's own: what a file says is what is learnt, and what it cannot say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models import tiny
from tests.training import runs
from tests.training.test_sft import BATCHES, RULES
from unigrpo import sft
from unigrpo.algorithms.sft import Sft
from unigrpo.data import Jsonl
from unigrpo.errors import ConfigError
from unigrpo.models.mot import checkpoint
from unigrpo.rollout.rollout import Rollout

#: Words that the tiny model knows.
WORDS = ("a red circle", "a blue square", "a green triangle")


@pytest.fixture
def file(tmp_path):
    """Three prompts with a text and an image as their answer, and one with its own source image."""
    rows = []
    for number, words in enumerate(WORDS):
        level = np.full((32, 32, 3), 80 * number, np.uint8)
        Image.fromarray(level).save(tmp_path / f"{number}.png")
        answer = [{"text": words}, {"image": f"{number}.png"}]
        rows.append({"prompt": words, "answer": answer})
    chain = [{"text": WORDS[0]}, {"image": "1.png"}, {"text": WORDS[1], "given": True}, {"text": "", "end": "image"}]
    rows.append({"prompt": WORDS[2], "images": ["0.png"], "answer": chain})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts_of(file):
    return [prompt for found in Jsonl(str(file.parent)).prompts("train").values() for prompt in found]


def test_examples_are_what_the_file_says(file):
    model = tiny.model()
    forms = sft.by_form([sft.example_of(prompt) for prompt in prompts_of(file)])
    assert sorted(forms) == ["image* text* text image text* text", "text* text image"]
    prompt, answer, image = columns = sft.columns_of(forms["text* text image"], model)
    assert [segment.given for segment in columns] == [True, False, False]
    asked = [block.text for block, *_ in forms["text* text image"]]
    assert model.tokenizer.decode(prompt.tokens, prompt.mask) == asked
    kept = answer.mask & (answer.tokens != model.tokenizer.eos)
    assert model.tokenizer.decode(answer.tokens, kept) == asked
    for row, words in enumerate(asked):
        level = torch.full((1, 3, 32, 32), 80 * WORDS.index(words) / 127.5 - 1)
        torch.testing.assert_close(image.latents[row], model.autoencoder.encode(level)[0])
    chain = sft.columns_of(forms["image* text* text image text* text"], model)
    assert [segment.given for segment in chain] == [True, True, False, False, True, False]
    assert chain[-1].tokens[chain[-1].mask].tolist() == [model.tokenizer.start_of_image], "it asks for an image"


def test_any_file_fine_tunes_any_checkpoint(file, tmp_path, capsys):
    """Both losses fall, and the folder is a checkpoint that says how it was made."""
    words = [f"checkpoint={runs.CHECKPOINT}", "dataset=jsonl", f"dataset.path={file.parent}"]
    more = ["schedule.steps=60", "schedule.batch=6", "schedule.lr=0.01", "loss.timestep_shift=3.0"]
    assert sft.main([str(tmp_path / "tuned"), *words, *more]) == 0
    recipe = json.loads((tmp_path / "tuned" / "recipe.json").read_text())
    assert recipe["recipe"]["loss"]["timestep_shift"] == 3.0
    found = []
    for name in (runs.CHECKPOINT, str(tmp_path / "tuned")):
        model = checkpoint.load(name)
        (columns, *_) = [sft.columns_of(e, model) for e in sft.by_form(map(sft.example_of, prompts_of(file))).values()]
        with torch.no_grad():
            rollout = Rollout(model.policy, sft.spec_of(model), columns[0].rows)
            found.append([loss.item() for loss in Sft(4, 0.0)(rollout, columns, torch.Generator().manual_seed(0))])
    assert found[1][0] < 0.3 * found[0][0]
    assert found[1][1] < 0.8 * found[0][1]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_are_moved_towards_noise(shift, monkeypatch):
    policy, seen = tiny.policy(), []
    velocity = policy.velocity
    monkeypatch.setattr(policy, "velocity", lambda context, x, t: seen.append(t) or velocity(context, x, t))
    Sft(1, 0.0, timestep_shift=shift)(
        Rollout(policy, RULES, 3), BATCHES["stories"][:3], torch.Generator().manual_seed(0)
    )
    drawn = torch.Generator().manual_seed(0)
    torch.randn(3, 3, 2, 2, generator=drawn)
    plain = torch.randn(3, generator=drawn).sigmoid()
    torch.testing.assert_close(seen[0], shift * plain / (1 + (shift - 1) * plain))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([{"words": "a"}], "train.jsonl:1: answer[0]: expected a list of"),
        (["a red circle"], "answer[0]: expected a list of"),
        ([{"text": "a", "image": "0.png"}], "answer[0]: expected a list of"),
        ([{"text": "a"}, {"image": "no.png"}], "answer[1]: there is no file"),
        ([{"text": 3}], "answer[0]: text: expected a text, got 3"),
        ([{"text": "a", "end": "eos"}], "answer[0]: end: 'eos' is not understood"),
        ([{"text": "a", "role": "user"}], "answer[0]: role: 'user' is not understood"),
    ],
)
def test_an_answer_that_is_none_is_refused_with_its_line(answer, told, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "a", "answer": answer}) + "\n")
    with pytest.raises(ConfigError) as error:
        prompts_of(tmp_path / "train.jsonl")
    assert told in str(error.value)


def test_an_answer_that_is_no_list_is_a_rewards(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "a", "answer": "three"}) + "\n")
    (prompt,) = prompts_of(tmp_path / "train.jsonl")
    assert prompt.meta == {"answer": "three"}
    assert prompt.answer == ()


def test_prompts_that_differ_in_their_answers_alone_are_two(tmp_path):
    rows = [{"prompt": "a", "answer": [{"text": text}]} for text in ("a circle", "a square")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = prompts_of(tmp_path / "train.jsonl")
    assert one.key != other.key
    assert one.meaning == other.meaning, "so that no split is trained on what another holds out"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["schedule.step=3"], "unknown key 'schedule.step'; did you mean 'steps'?"),
        (["steps"], "'steps': expected key=value"),
        (["loss.timestep_shift=0.5"], "timestep_shift=0.5"),
        ([], "dataset: expected one whose prompts have answers"),
        (["dataset=shapes"], "training prompts have no answer, a list of texts and images, such as"),
        (["dataset=jsonl", "dataset.path=odd"], "lacks words of the dataset, 1 in all, such as 'zebra'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "train.jsonl").write_text('{"prompt": "a red circle", "answer": [{"text": "a zebra"}]}\n')
    assert sft.main(["tuned", f"checkpoint={runs.CHECKPOINT}", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()
