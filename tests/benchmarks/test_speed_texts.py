"""All ways to sample a text sample the same text; how long they take is not asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.texts import Texts, main


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
