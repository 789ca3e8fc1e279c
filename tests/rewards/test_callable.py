"""A function of one's own as the reward: what it is given, what is refused, and that its source names the run."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from unigrpo.config import RunConfig
from unigrpo.data.prompt import Prompt
from unigrpo.errors import ConfigError, RewardError
from unigrpo.identity import identity_of
from unigrpo.rewards import CallableReward
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart

SOURCE = """
import json, math
SEEN = []
def score(images, prompts, texts, **meta):
    SEEN.append((images, prompts, texts, meta))
    return [len(text) for text in texts]
def short(images, prompts, texts, **meta):
    return [1.0]
def odd(images, prompts, texts, **meta):
    return [1.0, math.nan]
def words(images, prompts, texts, **meta):
    return ["good", "bad"]
def nothing(images, prompts, texts, **meta):
    return None
def broken(images, prompts, texts, **meta):
    raise KeyError("key")
def helper(text):
    return int(text)
def deep(images, prompts, texts, **meta):
    return [helper(text) for text in texts]
def elsewhere(images, prompts, texts, **meta):
    return json.loads("{")
def huge(images, prompts, texts, **meta):
    return [1.0, 1e39]
def leaves(images, prompts, texts, **meta):
    raise SystemExit(0)
def offset(images, prompts, texts, **meta):
    return [1e9 + 0.1 * row for row in range(len(images))]
def part_offset(images, prompts, texts, **meta):
    return [1e9 + row * {"a cat": 0.1, "a dog": 1000.0}[prompt] for row, prompt in enumerate(prompts)]
def few(images):
    return [0.0] * len(images)
def no_meta(images, prompts, texts):
    return [0.0] * len(images)
def asks(images, prompts, texts, colour, **meta):
    SEEN.append(colour)
    return [0.0] * len(images)
def asks_more(images, prompts, texts, include, *, includ, **meta):
    return [0.0] * len(images)
constant = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's in the present folder."""
    (tmp_path / "my_rewards.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    yield tmp_path
    sys.modules.pop("my_rewards", None)


def episodes() -> DecodedEpisodes:
    """Two rows: a thought, an image, a second thought of the first row alone, and an image after it."""
    prompts = [Prompt("a", "a cat", meta={"colour": "red"}), Prompt("b", "a dog", meta={"size": 2})]
    pixels = torch.tensor([-1.0, 0.0, 1.0, 5.0])[torch.randint(4, (2, 3, 4, 4), generator=torch.manual_seed(0))]
    return DecodedEpisodes(
        prompts,
        (
            TextPart(["a cat", "a dog"], ["stop", "stop"], [3, 3], given=True, turn=0),
            TextPart(["hm", "well"], ["stop", "stop"], [2, 2], given=False, turn=0),
            ImagePart(pixels, [True, True], given=False, turn=0),
            TextPart(["again", ""], ["image", None], [2, 0], given=False, turn=1),
            ImagePart(pixels / 2, [True, False], given=False, turn=1),
        ),
    )


def groups(size: int) -> DecodedEpisodes:
    """Groups of two prompts, an image each."""
    prompts = [Prompt("a", "a cat")] * size + [Prompt("b", "a dog")] * size
    image = ImagePart(torch.zeros(2 * size, 3, 4, 4), [True] * 2 * size, given=False, turn=0)
    return DecodedEpisodes(prompts, (image,))


def test_rewards_that_differ_only_beyond_fp32_are_said_to_teach_nothing(mine):
    said = r"reward\.path=my_rewards:offset: .* differ, but not in fp32.* subtract what they have in common"
    with pytest.warns(RuntimeWarning, match=said):
        found = CallableReward("my_rewards:offset")(groups(2))
    assert len(found.outcome.unique()) == 1


@pytest.mark.parametrize(("name", "size"), [("part_offset", 2), ("offset", 1), ("score", 2)])
def test_nothing_is_said_where_some_group_differs_or_none_does(mine, name, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CallableReward(f"my_rewards:{name}")(groups(size))


def test_it_sees_images_prompts_texts_and_what_else_is_known(mine):
    reward = CallableReward("my_rewards:score")
    found = reward(told := episodes())
    assert reward.component_names == ("score",)
    assert found.steps[:, :, 0].tolist() == [[0, 0, 2, 0, 5], [0, 0, 4, 0, 0]]
    assert found.outcome.tolist() == [[5.0], [4.0]], "the last image that a row has"
    import my_rewards

    images, prompts, texts, meta = my_rewards.SEEN[0]
    assert torch.equal(images, (told.image(2).pixels.clamp(-1, 1) + 1) / 2)
    assert (prompts, texts) == (["a cat", "a dog"], ["hm", "well"])
    known = {"key": ["a", "b"], "tag": ["all", "all"]}
    assert meta == {"colour": ["red", None], "size": [None, 2]} | known
    assert my_rewards.SEEN[1][2] == ["again", ""]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", r"expected 2 numbers, one an image, got \[1.0\]"),
        ("odd", "expected finite numbers that fp32 can hold, got nan in row 1, of the prompt 'a dog'"),
        ("words", "expected finite numbers that fp32 can hold, got 'good' in row 0, of the prompt 'a cat'"),
        ("huge", r"expected finite numbers that fp32 can hold, got 1e\+39 in row 1"),
        ("leaves", r"raised SystemExit: 0 \(my_rewards.py:26\)"),
        ("nothing", "expected 2 numbers, one an image, got None"),
        ("broken", r"raised KeyError: 'key' \(my_rewards.py:16\)"),
        ("deep", r"raised ValueError: invalid literal .* \(my_rewards.py:18\)"),
        ("elsewhere", r"raised JSONDecodeError: .* \(my_rewards.py:22\)"),
    ],
)
def test_nothing_is_guessed_where_it_gives_no_numbers(mine, name, said):
    with pytest.raises(RewardError, match=f"reward.path=my_rewards:{name}: {said}"):
        CallableReward(f"my_rewards:{name}")(episodes())


def test_it_may_ask_for_fields_by_name(mine):
    """Of a line that has none it gets None, also where no line of a batch has it."""
    told = episodes()
    CallableReward("my_rewards:asks")(told)
    CallableReward("my_rewards:asks")(DecodedEpisodes([Prompt("a", "a cat"), Prompt("b", "a dog")], told.parts))
    import my_rewards

    assert my_rewards.SEEN[::2] == [["red", None], [None, None]]
    (reason,) = RunConfig.from_dict({"reward": {"name": "callable", "path": "my_rewards:asks_more"}}).conflicts()
    said = "path=my_rewards:asks_more: asks for includ, which no prompt of dataset=shapes has; did you mean 'include'?"
    assert reason == f"reward=callable: {said}"


@pytest.mark.parametrize("path", ["", "my_rewards", "my_rewards:", ":score", "my rewards:score", "my_rewards:1"])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(ConfigError, match=r"reward: path=.*: expected package.module:function"):
        RunConfig.from_dict({"reward": {"name": "callable", "path": path}})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "nowhere_at_all:score",
            "cannot be imported (ModuleNotFoundError: No module named 'nowhere_at_all'); looked for",
        ),
        ("my_rewards:scores", "cannot be imported"),
        ("my_rewards:constant", "expected a function, got 3"),
        ("my_rewards:few", r"expected few(images, prompts, texts, **meta), got few(images); **meta takes"),
        ("my_rewards:no_meta", "expected no_meta(images, prompts, texts, **meta), got no_meta(images, prompts, texts)"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_starts(mine, path, said):
    (reason,) = RunConfig.from_dict({"reward": {"name": "callable", "path": path}}).conflicts()
    assert reason.startswith(f"reward=callable: path={path}: {said}")


def test_a_changed_function_is_another_reward(mine):
    config = RunConfig.from_dict({"reward": {"name": "callable", "path": "my_rewards:score"}})
    before = identity_of(config)
    assert identity_of(config) == before
    (mine / "my_rewards.py").write_text(SOURCE.replace("len(text)", "-len(text)"))
    assert identity_of(config) != before
