from __future__ import annotations

import random

import torch

from tests.episodes import plan, said, shown
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import edit_prompt
from unigrpo.worlds.shapes.edit_judge import judge_edits
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.edits import apply_edit
from unigrpo.worlds.shapes.grammar import Scene
from unigrpo.worlds.shapes.rewards import EditReward


def test_each_edit_earns_at_its_picture():
    """The rows: both edits done; nothing changed; all wiped away."""
    prompt = edits_by_type("test")["recolour"][0]
    rng = random.Random(0)
    one = apply_edit(prompt.edits[0], prompt.source, rng)
    two = apply_edit(prompt.edits[1], one, rng)
    nothing = Scene(())
    parts = (
        shown(*[prompt.source] * 3, given=True),
        said(*[(prompt.instructions[0], "stop")] * 3, given=True),
        said(*[(plan(one), "stop")] * 3),
        shown(one, prompt.source, nothing),
        said(*[(prompt.instructions[1], "stop")] * 3, given=True, turn=1),
        said(*[("", "cut")] * 3, turn=1),
        shown(two, prompt.source, nothing, turn=1),
    )
    decoded = DecodedEpisodes([edit_prompt(prompt)] * 3, parts)
    judged = EditReward()(decoded)
    assert judged.has_reward.tolist() == [[False, False, False, True, False, False, True]] * 3
    assert judged.outcome[0].tolist() == [1, 1]
    assert judged.steps[0, [3, 6]].tolist() == [[1, 1], [1, 1]]
    assert judged.steps[1, 3, 0] < 1
    assert judged.steps[1, 3, 1] == 1, "what is left as it was is preserved"
    assert judged.steps[2, 3].tolist() == [0, 0]
    torch.testing.assert_close(judged.outcome, judged.steps[:, [3, 6]].mean(1))
    verdicts = judge_edits(decoded)
    for turn, k in enumerate((3, 6)):
        expected = [[verdict.success / 10, verdict.preserved / 10] for verdict in verdicts[turn]]
        torch.testing.assert_close(judged.steps[:, k], torch.tensor(expected))
    assert EditReward(following=2.0).component_weights == (2.0, 0.5)
