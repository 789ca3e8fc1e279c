"""Mistakes on the way through an episode, and from what it showed to rewards and measures."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

WALK = "unigrpo/rollout/rollout.py"
FLOW = "unigrpo/rollout/heads/flow.py"
TOKENS = "unigrpo/rollout/heads/tokens.py"
JUDGING = "unigrpo/training/advantages.py"
PROCESSOR = "unigrpo/models/processor.py"
HYBRID = "unigrpo/worlds/shapes/rewards/hybrid.py"
STORY_JUDGE = "unigrpo/worlds/shapes/story_judge.py"
IMAGES = "unigrpo/worlds/shapes/metrics/images.py"
NOISE = "unigrpo/noise.py"
TRAJECTORY = "unigrpo/rollout/trajectory.py"
CONTEXT = "unigrpo/models/mot/context.py"
CHECKPOINT = "unigrpo/models/mot/checkpoint.py"
TRAINER = "unigrpo/training/trainer.py"
FEATURES = "rollout/test_features"
CONFORMANCE = nodes("models/test_conformance", "test_the_shipped_architecture_conforms")

EPISODE_BUGS = (
    Bug(
        "texts learn nothing from the texts after a picture",
        WALK,
        "contexts = (before[0].followed_by(contexts[0]), *contexts[1:])",
        "pass",
        nodes("rollout/test_rounds", "test_texts_train_the_texts_before_them_and_pictures_only_where_the_rules_say_so"),
    ),
    Bug(
        "a picture passes gradients whatever the spec say",
        WALK,
        "torch.is_grad_enabled() and self.spec.context_grad):",
        "torch.is_grad_enabled()):",
        nodes("rollout/test_rounds", "test_a_looked_at_picture_passes_gradients_only_where_the_rules_say_so"),
    ),
    Bug(
        "a group that parts does not look at its shared picture",
        WALK,
        "        self._encode_pending_image()\n        self.contexts = tuple(context.repeat(times) for",
        "        self.contexts = tuple(context.repeat(times) for",
        ("tests/rollout/test_rounds.py::TestTree",),
    ),
    Bug(
        "shared segments drawn for the last member",
        WALK,
        "return draws[:: len(draws) // self.rows]",
        "return draws[len(draws) // self.rows - 1 :: len(draws) // self.rows]",
        ("tests/rollout/test_rounds.py::TestTree",),
    ),
    Bug(
        "episodes that were cut off go on",
        WALK,
        "self.alive = ((text.tokens == self.spec.image) & text.mask).any(1)",
        "self.alive = ((text.tokens != self.spec.eos) & text.mask).any(1)",
        nodes("rollout/test_rounds", "test_the_form_of_a_story_under_any_stream_of_tokens"),
    ),
    Bug(
        "ended rows looked at",
        FLOW,
        "latents = _blank(segment.latents, segment.alive)",
        "latents = segment.latents",
        nodes("rollout/test_rounds", "test_what_stands_in_the_rows_of_ended_episodes_does_not_matter"),
    ),
    Bug(
        "codes scored one place late",
        TOKENS,
        "log_prob(logits[:, :-1], spec.temperature, segment.tokens)",
        "log_prob(logits[:, 1:], spec.temperature, segment.tokens)",
        nodes("rollout/heads/test_tokens", "test_scores_by_hand"),
    ),
    Bug(
        "codes of ended rows scored",
        TOKENS,
        "ImageScore(log_prob=scores.where(segment.alive[:, None], 0.0))",
        "ImageScore(log_prob=scores)",
        nodes("rollout/heads/test_tokens", "test_p33_replay_by_the_same_weights_is_bit_identical"),
    ),
    Bug(
        "credit for what a group shares",
        JUDGING,
        "s.given or s.rows != rows",
        "s.given",
        nodes("training/test_advantages", "test_what_a_group_shares_was_made_by_none_of_its_members"),
    ),
    Bug(
        "the end of a text read as a word",
        PROCESSOR,
        "kept[row, length - 1] = False",
        "pass",
        nodes("models/test_processor", "test_what_was_said_is_read_word_for_word_and_so_is_its_end"),
    ),
    Bug(
        "process rewards of another scale than the outcome",
        HYBRID,
        "torch.stack((text / asked, visual / asked, structure), -1), has_reward",
        "torch.stack((text, visual, structure), -1), has_reward",
        ("tests/worlds/rewards/test_hybrid.py::TestHybrid",),
    ),
    Bug(
        "structure has_reward where the episode ends",
        STORY_JUDGE,
        "tuple(after - before for before, after in pairwise(running))",
        "(*[0.0] * (len(events) - 1), running[-1])",
        ("tests/worlds/rewards/test_hybrid.py::TestHybrid",),
    ),
    Bug(
        "a reflection that was cut off taken for a verdict",
        IMAGES,
        'row["stopped"] if row["first"] else row["rounds"] > 1',
        'row["stopped"] == row["first"]',
        ("tests/worlds/metrics/test_images.py::TestImages",),
    ),
    Bug(
        "the members of a group share all of their noise",
        NOISE,
        "together=self.shared_noise and shareable",
        "together=self.shared_noise",
        ("tests/test_noise.py::TestEpisodeDraws",),
    ),
    Bug(
        "given pictures counted as painted",
        TRAJECTORY,
        "if isinstance(s, ImageSegment) and not s.given]",
        "if isinstance(s, ImageSegment)]",
        nodes("training/test_rounds", "test_every_painted_picture_is_counted_once"),
    ),
    Bug(
        "a branch of the guidance sees what another one should",
        "unigrpo/rollout/coverage.py",
        '"text-free": Coverage(given=False, generated=False, images=True)',
        '"text-free": Coverage(given=True, generated=True, images=False)',
        nodes("rollout/test_rounds", "test_a_guidance_gets_the_velocities_of_the_branches_that_it_declares"),
    ),
    Bug(
        "a group's contexts in another order than its episodes",
        CONTEXT,
        "tuple(k.repeat_interleave(times, 0) for k in self.keys)",
        "tuple(k.repeat(times, 1, 1, 1) for k in self.keys)",
        CONFORMANCE,
    ),
    Bug(
        "a context that follows another one lets all gradients through",
        CONTEXT,
        "b[:, :, start:].detach()",
        "b[:, :, start:]",
        CONFORMANCE,
    ),
    Bug(
        "a request that begins as replies do, whatever the chat template says",
        WALK,
        "spec.begin if segment.given else spec.bos",
        "spec.bos",
        nodes("rollout/test_rollout", "test_a_given_text_begins_as_prompts_do_and_builds_no_logits"),
    ),
    Bug(
        "random weights made before those of the file",
        CHECKPOINT,
        'torch.device("meta")',
        'torch.device("cpu")',
        nodes("models/test_checkpoint", "test_loading_holds_the_weights_once"),
    ),
    Bug(
        "a copy of the policy that nobody asks for",
        TRAINER,
        "if not (self.config.evaluation.drift or self.is_penalised):",
        "if False:",
        nodes("models/test_composed", "test_a_reference_is_kept_only_where_it_is_wanted"),
    ),
    Bug(
        "features that are not repeated with their group",
        WALK,
        "features=None if segment.features is None else segment.features.repeat_interleave(times, 0)",
        "features=segment.features",
        nodes(FEATURES, "test_given_features_are_repeated_with_their_image"),
    ),
    Bug(
        "features that are read and not recorded",
        WALK,
        "            self.segments[-1] = image\n",
        "",
        nodes(FEATURES, "test_a_replay_reads_what_was_recorded_and_repeats_every_bit"),
    ),
    Bug(
        "a replay that looks at images anew",
        WALK,
        "Rollout(policy, replace(spec, see=None), len",
        "Rollout(policy, spec, len",
        nodes(FEATURES, "test_a_replay_reads_what_was_recorded_and_repeats_every_bit"),
    ),
    Bug(
        "a connector that learns only where images pass gradients",
        WALK,
        "self.train_text):\n            longer = [",
        "self.spec.context_grad):\n            longer = [",
        nodes(FEATURES, "test_the_connector_learns_from_texts_and_from_images_only_through_contexts_with_gradients"),
    ),
    Bug(
        "given images seen as the autoencoder shows them",
        PROCESSOR,
        "features = self.vision(pixels) if",
        "features = self.vision(self.autoencoder.decode(self.autoencoder.encode(pixels))) if",
        nodes("models/test_processor", "test_given_images_are_seen_by_their_pixels_and_generated_ones_as_decoded"),
    ),
    Bug(
        "features of the neighbour's image",
        PROCESSOR,
        "vision(self.autoencoder.decode(latents).float())",
        "vision(self.autoencoder.decode(latents).float().roll(1, 0))",
        nodes("models/test_processor", "test_given_images_are_seen_by_their_pixels_and_generated_ones_as_decoded"),
    ),
)
