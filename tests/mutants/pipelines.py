"""Bugs of pipelines of diffusers and of the language models in front of them."""

from tests.mutants.bug import Bug

_TESTS = "tests/models/pipelines"
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
        "padding moves a word",
        "unigrpo/models/causal_lm.py",
        "places = context.position[:, None] + (order - 1).clamp(min=0)",
        "places = context.valid.shape[1] + (order - 1).clamp(min=0)",
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
)
