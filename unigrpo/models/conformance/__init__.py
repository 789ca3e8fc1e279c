"""Whether a model keeps what a run relies on: for the author of an adapter, in one line.

``assert_model_conforms(MyModel(), ("a red circle", "a kite"))`` says what is broken, and what that would do to a run.

What no check can see without data: the sign of the velocity (``data - noise`` conforms too), whether t = 1 is noise,
and whether weights are in their right places.  A trained model tells, on an image that it should know:
``policy.velocity(context, (1 - t) * data + t * noise, t)`` is nearer to ``noise - data`` than 0 is.  Nor is it seen
that a kernel may depend on contiguity (:func:`~unigrpo.models.linear.exact_linears`) where it does not on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from unigrpo.models.adapters.adapter import MODEL, Adapter
from unigrpo.models.adapters.full import Full
from unigrpo.models.conformance import context, training
from unigrpo.models.conformance.expect import demand
from unigrpo.models.conformance.probe import MODALITIES, Probe
from unigrpo.models.model import LoadedModel, Model
from unigrpo.models.policy import Modality, Policy
from unigrpo.models.processor import Processor

__all__ = ["assert_model_conforms", "assert_policy_conforms"]

_FULL = Full()
_CHECKS = (
    training.parameters,
    context.vocabulary,
    context.sizes,
    context.contexts_stay,
    context.laws_of_contexts,
    context.masked_rows,
    context.features,
    context.rows_alone,
    context.blocks,
    training.modes,
    training.replay_repeats,
    training.gradients,
    training.references,
    training.weights_are_whole,
    training.processor_agrees,
)


def assert_model_conforms(
    model: Model,
    prompts: tuple[str, str],
    *,
    modalities: Sequence[Modality] | None = None,
    device: torch.device | str = "cpu",
    adapter: Adapter = _FULL,
    size: tuple[int, int] = (0, 0),
) -> None:
    """Load a model and check all of it: policy, processor, reference, and that ``save`` writes it.

    What it says that it cannot do is not asked for: texts, and whatever follows an image.

    Args:
        model: the strategy.
        prompts: as of :func:`assert_policy_conforms`.
        modalities: those that are trained; by default all that it makes.
        device: where to load it; a fault of the vocabulary has its message on a CPU alone.
        adapter: what is trained of it; a LoRA hides its faults unless it starts from one whose B is not 0.
        size: (height, width) in pixels of the images, which may be smaller than the model's own; 0 and 0 for those.

    Raises:
        AssertionError: as :func:`assert_policy_conforms`.
    """
    loaded = adapter.attach(model.load(torch.device(device)), ("conformance",))
    made = MODALITIES if model.writes_texts else ("image",)
    _assert_loaded(loaded, prompts, modalities or made, model, size)
    with TemporaryDirectory() as name:
        adapter.save(Path(name), model, loaded)
        demand(any(Path(name, MODEL).iterdir()), "save: wrote no file; what has been trained would be lost")


def assert_policy_conforms(
    policy: Policy, processor: Processor, prompts: tuple[str, str], *, modalities: Sequence[Modality] = MODALITIES
) -> None:
    """Check a policy that makes images by denoising; gradients that it has are lost, nothing else of it changes.

    Args:
        policy: no weight that matters may be 0, or what it does goes unseen.
        processor: of the policy.
        prompts: two texts that the tokenizer can spell, of different lengths.
        modalities: those that are trained; one that is wholly frozen is left out.

    Raises:
        AssertionError: the first fault: what was expected, what was found, and why a run needs it.
    """
    _assert_loaded(LoadedModel(policy, processor), prompts, modalities, Model(), (0, 0))


def _assert_loaded(
    loaded: LoadedModel,
    prompts: tuple[str, str],
    modalities: Sequence[Modality],
    model: Model,
    size: tuple[int, int],
) -> None:
    policy = loaded.policy
    wanted = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    mode = policy.training
    try:
        probe = Probe(loaded, prompts, modalities, model, size)
        for check in _CHECKS:
            policy.eval()
            check(probe)
    finally:
        policy.train(mode)
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None
