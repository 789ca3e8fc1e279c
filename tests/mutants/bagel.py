"""Mistakes in reading BAGEL's folder, and in its guidance."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

LAYOUT, VISION = "unigrpo/models/bagel/layout.py", "unigrpo/models/bagel/vision.py"
CHECKPOINT, FOLDER = "unigrpo/models/bagel/checkpoint.py", "unigrpo/models/bagel/folder.py"
GUIDANCE, ROLLOUT = "unigrpo/flow/guidance.py", "unigrpo/rollout/rollout.py"
FORMULA = nodes("flow/test_text_image_guidance", "test_it_is_the_published_formula")
BRANCHES = nodes("rollout/test_branches", "test_an_edit_with_thinking")
SIGLIP = nodes("models/bagel/test_parity", "test_the_vision_encoder_is_siglip_in_the_corner_of_its_table")

BAGEL_BUGS = (
    Bug(
        "the autoencoder's two middle blocks change places",
        LAYOUT,
        "resnets.{number - 1}",
        "resnets.{2 - number}",
        nodes("models/bagel/test_parity", "test_the_autoencoder_is_fluxs"),
    ),
    Bug(
        "27 layers of the vision encoder",
        FOLDER,
        '_size(file, vit, "num_hidden_layers") - 1',
        '_size(file, vit, "num_hidden_layers")',
        nodes("models/bagel/test_folder", "test_sizes_are_those_of_the_files_with_what_the_official_code_overwrites"),
    ),
    Bug(
        "places of an image in a table as wide as itself",
        VISION,
        "rows[:, None] * self.config.side + columns",
        "rows[:, None] * len(columns) + columns",
        SIGLIP,
    ),
    Bug(
        "special tokens of the language model's configuration",
        CHECKPOINT,
        "bos_token_id=tokenizer.bos,",
        "bos_token_id=config.bos_token_id,",
        nodes("models/bagel/test_checkpoint", "test_special_tokens_are_the_tokenizers_by_role"),
    ),
    Bug(
        "what was trained is not written",
        CHECKPOINT,
        "state[ours(name)] if ours(name) in state else files",
        "state[ours(name)] if False else files",
        nodes("models/bagel/test_checkpoint", "test_it_is_written_as_it_was_published_with_what_was_trained"),
    ),
    Bug(
        "a file that was cut off is taken for whole",
        "unigrpo/models/bagel/headers.py",
        "if size != end:",
        "if size > end:",
        nodes("models/bagel/test_folder", "test_a_damaged_or_incomplete_folder_names_the_file"),
    ),
    Bug(
        "what is seen in an image has no markers",
        "unigrpo/models/mot/policy.py",
        "tokens = torch.cat((self._markers(len(read)), read), 1)",
        "tokens = read",
        nodes("models/test_parity", "test_what_is_seen_in_a_picture_is_a_block_between_two_markers"),
    ),
    Bug(
        "image guidance is renormed once more",
        GUIDANCE,
        'if self.renorm == "none" or self.renorm == "text_channel":',
        'if self.renorm == "none":',
        nodes("flow/test_text_image_guidance", "test_it_is_the_published_formula"),
    ),
    Bug("one norm for a row of tokens", GUIDANCE, ".sum((1, 3, 5)).sqrt()", ".sum((1, 3, 4, 5)).sqrt()", FORMULA),
    Bug(
        "text guidance does not see a later image",
        ROLLOUT,
        "else whole if coverage.renewed else context",
        "else context",
        BRANCHES,
    ),
    Bug(
        "text guidance knows the thought",
        ROLLOUT,
        "if coverage.renewed and segment.given",
        "if coverage.renewed",
        BRANCHES,
    ),
    Bug(
        "image guidance knows the thought",
        "unigrpo/rollout/coverage.py",
        '"requests": Coverage(given=True, generated=False, images=False)',
        '"requests": Coverage(given=True, generated=True, images=False)',
        BRANCHES,
    ),
    Bug(
        "a system prompt in the conditional context alone",
        ROLLOUT,
        "(self._start(),) * len(self._coverages)",
        "(self._start(), *(policy.start(batch) for _ in self._coverages[1:]))",
        nodes("rollout/test_system", "test_it_is_a_text_block_before_the_others_in_every_context"),
    ),
)
