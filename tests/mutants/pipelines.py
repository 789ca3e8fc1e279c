"""Bugs of pipelines of diffusers and of the language models in front of them."""

from tests.mutants.bug import Bug

_TESTS = "tests/models/pipelines"
_SHIPPED = "tests/worlds/test_train_pipeline.py"
PIPELINE_BUGS = (
    Bug(
        "noise and data the wrong way round",
        "unigrpo/models/pipelines/policy.py",
        "return family.sign * family.unpack(",
        "return family.unpack(",
        (f"{_TESTS}/test_parity.py::test_steps_end_where_the_pipeline_ends[ZImagePipeline]",),
    ),
    Bug(
        "a reference reads with the trained encoder",
        "unigrpo/models/pipelines/policy.py",
        "if self.encodes and other.language is not None:",
        "if False:",
        (f"{_TESTS}/test_own_thinking.py::test_a_reference_reads_with_an_encoder_of_its_own[Flux2KleinPipeline]",),
    ),
    Bug(
        "what is edited stands in the places of the noise",
        "unigrpo/models/pipelines/rows.py",
        "    places[:, 0] = 1\n",
        "",
        (f"{_TESTS}/test_parity.py::test_steps_end_where_the_pipeline_ends[FluxKontextPipeline]",),
    ),
    Bug(
        "an edit is made by the text of the image before",
        "unigrpo/models/pipelines/policy.py",
        "ended = () if alive.all() else",
        "ended = context.blocks if alive.all() else",
        (f"{_TESTS}/test_editing.py::test_an_edit_is_made_of_the_latest_image_by_the_latest_request",),
    ),
    Bug(
        "rows of one text share the picture that the encoders see",
        "unigrpo/models/pipelines/policy.py",
        "[picture.tobytes() for picture in pictures] or",
        "[b'' for _ in pictures] or",
        (f"{_TESTS}/test_parity.py::test_what_is_edited_matters_and_each_row_edits_its_own[QwenImageEditPipeline]",),
    ),
    Bug(
        "padding moves a word",
        "unigrpo/models/causal_lm.py",
        "places = (context.position[:, None] + order - 1).clamp(min=0)",
        "places = (context.valid.shape[1] + order - 1).clamp(min=0)",
        (f"{_TESTS}/test_policy.py::test_the_language_models_log_probs_are_those_of_transformers",),
    ),
    Bug(
        "a language model's scale of logits is left out",
        "unigrpo/models/causal_lm.py",
        "found = self.model(**given).logits if logits else self.model.get_decoder()(**given).last_hidden_state",
        "found = self.model.get_decoder()(**given).last_hidden_state\n"
        "        found = self.model.get_output_embeddings()(found) if logits else found",
        (f"{_TESTS}/test_policy.py::test_the_language_models_log_probs_are_those_of_transformers",),
    ),
    Bug(
        "a pipeline without a T5 is not loaded",
        "unigrpo/models/pipelines/loading.py",
        "told |= {part: None for part, kind in index.items() if kind == [None, None]}",
        "pass",
        (f"{_SHIPPED}::test_an_untrained_transformer_says_no_velocity",),
    ),
    Bug(
        "the decoder is taught another's latents, the encoder none",
        "unigrpo/worlds/shapes/train_pipeline.py",
        "(encoded + decoded).backward()",
        "decoded.backward()",
        (f"{_SHIPPED}::test_the_autoencoder_is_taught_the_latents_of_another",),
    ),
    Bug(
        "codes of words and places overlap",
        "unigrpo/worlds/shapes/untrained_pipeline.py",
        "part[len(words) : needed]",
        "part[: needed - len(words)]",
        (f"{_SHIPPED}::test_the_transformer_reads_a_code_of_each_word_and_one_of_its_place",),
    ),
)
