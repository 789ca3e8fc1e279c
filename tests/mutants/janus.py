"""Bugs of Janus, and of what it needs of guidance and of chat templates."""

from tests.mutants.bug import Bug, nodes

_POLICY, _LOADING = "unigrpo/models/janus/policy.py", "unigrpo/models/janus/loading.py"
_GENERATE = nodes("models/janus/test_policy", "test_guided_codes_are_those_of_transformers_own_generate")
JANUS_BUGS = (
    Bug(
        "an image begins with its first code",
        _POLICY,
        "opens = int(first == 0)",
        "opens = int(first == 1)",
        nodes("models/janus/test_policy", "test_log_probs_are_those_of_transformers_own_modules"),
    ),
    Bug(
        "images alone leave the language model frozen",
        "unigrpo/models/janus/__init__.py",
        '"text" if config.modalities.text else "image"',
        '"text"',
        nodes("models/janus/test_loading", "test_an_update_of_images_alone_trains_the_backbone_too"),
    ),
    Bug(
        "guidance against nothing where the model has learnt padding",
        _LOADING,
        'ClassVar[tuple[Branch, ...]] = ("text-padded",)',
        'ClassVar[tuple[Branch, ...]] = ("text-free",)',
        _GENERATE,
    ),
    Bug(
        "the token that begins a text is padded, too",
        "unigrpo/rollout/rollout.py",
        "tokens.where(tokens == spec.begin, spec.pad)",
        "tokens.where(tokens == spec.eos, spec.pad)",
        (
            *_GENERATE,
            *nodes(
                "rollout/test_rounds",
                "test_a_branch_of_padding_reads_the_pictures_and_of_the_texts_their_number_of_tokens",
            ),
        ),
    ),
    Bug(
        "a request that nobody answers lacks its last token",
        "unigrpo/models/processor.py",
        "row[1 : len(row) - self.answered]",
        "row[1:-1]",
        nodes("models/test_processor", "TestChatTemplate"),
    ),
    Bug(
        "nothing before the request where the tokenizer puts a token",
        _LOADING,
        'roles["bos"] if words("")["input_ids"][:1] == [tokenizer.bos] else ""',
        '""',
        _GENERATE,
    ),
    Bug(
        "a reference trains along",
        _POLICY,
        "other.__dict__ = copy.deepcopy(self.__dict__, memo)",
        "other.__dict__ = copy.copy(self.__dict__)",
        nodes("models/janus/test_policy", "test_a_reference_has_weights_of_its_own_and_shares_what_is_never_trained"),
    ),
)
