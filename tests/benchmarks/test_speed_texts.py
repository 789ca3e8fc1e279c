"""All ways to sample a text sample the same text; how long they take is not asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.against_trl import Work, measure
from benchmarks.speed.texts import Texts, main
from benchmarks.speed.writer import even_words


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts.draw(prompts=2, group=3, prompt_length=5, longest=40)


def test_all_ways_sample_the_same_texts(texts):
    behind = texts.read_once()
    found = texts.sample(behind)
    assert ((found != 0).sum(1) <= texts.lengths).all()
    assert found[0, -1] != 0
    for context, ways in (
        (behind, {"in_place": False}),
        (behind, {"leave_out": False}),
        (texts.read_apart(), {}),
    ):
        assert torch.equal(found, texts.sample(context, **ways))


def test_the_command_prints_a_ratio_for_each_pair(capsys):
    main(["--prompts", "1", "--group", "2", "--prompt-length", "4", "--longest", "3", "--repeats", "2"])
    assert capsys.readouterr().out.count("of CPU time") == 4


def test_what_cannot_be_measured_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--repeats", "1"])
    assert "at least 2" in capsys.readouterr().err


def test_an_update_of_replies_alone_trains_on_what_it_sampled(tmp_path):
    """As much work as it says, with first ratios of exactly 1."""
    work = Work(prompts=2, group=3, prompt_length=5, longest=6)
    trainer = work.ours(tmp_path, lr=1e-3)
    before = [parameter.clone() for parameter in trainer.parameters["text"]]
    metrics = trainer.update(0)
    assert metrics["guard/text"] == 0.0
    assert 0 < metrics["train/reward"] < 1
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.parameters["text"], strict=True))
    (trajectory,) = trainer.rollout(1, trainer.rollout_spec(1))
    prompt, reply = trajectory.segments
    assert prompt.mask.sum(1).tolist() == [6, 6]  # its end included
    assert reply.tokens.shape == (6, 6)


def test_steps_of_trl_and_updates_of_ours_take_turns():
    pytest.importorskip("trl", reason="needs the extra trl")
    theirs, ours, last = measure(Work(prompts=2, group=2, prompt_length=4, longest=3), repeats=2)
    assert len(theirs) == len(ours) == 2
    assert last["grad/text"] > 0


def test_even_words_are_counted():
    assert even_words("w2 w3 w10 red") == pytest.approx(2 / 3)
    assert even_words("") == 0.0
