"""Keyed randomness: the scheme never changes, every part of a key counts, nothing else does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unigrpo.noise import EpisodeDraws, generator, normal, seed_of, uniform

PARTS = st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=5))
KEYS = st.lists(PARTS, min_size=1, max_size=5).map(tuple)


def test_golden_values():
    """Runs of today must be repeatable tomorrow: if this fails, every recorded run has lost its randomness."""
    assert seed_of((0, "rollout", 3, "colors-1a2b3c4d", 5, 1, "step", 2)) == 429641976226561779
    drawn = normal([(0, "a")], (3,))
    torch.testing.assert_close(drawn, torch.tensor([[-0.5842990, 1.0600065, -0.5140173]]), atol=1e-6, rtol=0)
    drawn = uniform([(0, "a")], (3,))
    torch.testing.assert_close(drawn, torch.tensor([[0.1662724, 0.2190949, 0.8149123]]), atol=1e-6, rtol=0)


@given(KEYS)
def test_equal_keys_give_equal_draws(key):
    assert torch.equal(normal([key], (4,)), normal([key], (4,)))
    assert 0 <= seed_of(key) < 2**63


@given(KEYS, st.data())
def test_any_other_part_gives_other_draws(key, data):
    place = data.draw(st.integers(0, len(key) - 1))
    part = data.draw(PARTS.filter(lambda part: (type(part), part) != (type(key[place]), key[place])))
    other = (*key[:place], part, *key[place + 1 :])
    assert seed_of(key) != seed_of(other)
    assert not torch.equal(normal([key], (4,)), normal([other], (4,)))


def test_a_number_is_not_its_spelling_and_order_and_length_count():
    keys = [(1, 2), ("1", 2), (2, 1), (12,), (1, 2, 0), ("1", "2"), ("12",), (1, "")]
    assert len({seed_of(key) for key in keys}) == len(keys)


def test_the_global_stream_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before, drawn = torch.get_rng_state(), normal([(7,)], (3,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(normal([(7,)], (3,)), drawn)


def test_rows_are_independent_of_their_neighbours():
    rows = [(0, "x"), (0, "y"), (1, "x")]
    for draw in (normal, uniform):
        together = draw(rows, (2, 3))
        assert together.shape == (3, 2, 3)
        assert together.dtype == torch.float32
        assert all(torch.equal(together[i], draw([row], (2, 3))[0]) for i, row in enumerate(rows))


def test_moments():
    drawn = normal([(k,) for k in range(200)], (50,))
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05
    even = uniform([(k,) for k in range(200)], (50,))
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) < 0.02


def test_a_generator_is_fresh_every_time():
    first = torch.randn(2, generator=generator((5,)))
    assert torch.equal(torch.randn(2, generator=generator((5,))), first)


class TestEpisodeDraws:
    KEY = (3, "rollout", 9)

    def test_rows_are_prompt_major_with_the_prompt_and_member_in_the_key(self):
        drawn = EpisodeDraws(self.KEY, ("p", "q"), 2).normal((1, "step", 4), (3,))
        expected = normal([(*self.KEY, prompt, member, 1, "step", 4) for prompt in "pq" for member in (0, 1)], (3,))
        assert torch.equal(drawn, expected)

    def test_shared_noise_is_the_groups_initial_noise_and_no_other(self):
        draws = EpisodeDraws(self.KEY, ("p", "q"), 2, shared_noise=True)
        initial = draws.normal((1, "initial"), (3,), shareable=True)
        assert torch.equal(initial[0], initial[1])
        assert torch.equal(initial[2], initial[3])
        assert not torch.equal(initial[0], initial[2])
        for drawn in (draws.normal((1, "initial"), (3,)), draws.uniform((1, "text"), (3,))):
            assert not torch.equal(drawn[0], drawn[1])

    def test_independent_noise_differs_between_members(self):
        initial = EpisodeDraws(self.KEY, ("p",), 3).normal((1, "initial"), (3,), shareable=True)
        assert len({tuple(row) for row in initial.tolist()}) == 3

    def test_draws_are_uniform_or_normal_as_asked(self):
        draws = EpisodeDraws(self.KEY, ("p",), 50)
        assert torch.equal(draws.uniform((0, "text"), (40,))[:1], uniform([(*self.KEY, "p", 0, 0, "text")], (40,)))
        assert draws.uniform((0, "text"), (40,)).min() >= 0
        assert draws.normal((0, "step", 1), (40,)).min() < 0

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_a_larger_group_keeps_the_draws_of_the_smaller(self, size):
        small, large = (EpisodeDraws(self.KEY, ("p",), n).normal((1, "step", 0), (2,)) for n in (size, 6))
        assert torch.equal(large[:size], small)
