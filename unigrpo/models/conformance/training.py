"""What training asks: whose parameters are whose, replay, gradients, the reference, weights written and read."""

from __future__ import annotations

import torch
from torch import Tensor

from unigrpo.models import weights
from unigrpo.models.conformance.expect import demand, equal, same, some
from unigrpo.models.conformance.probe import MODALITIES, Probe, backward, clear, moved, reached
from unigrpo.models.policy import Modality
from unigrpo.rollout.decoded import ImagePart
from unigrpo.rollout.rollout import Rollout, replay
from unigrpo.rollout.trajectory import ImageScore, TextScore, Trajectory


def parameters(probe: Probe) -> None:
    """Names, and whose they are."""
    policy = probe.policy
    names = [name for name, _ in policy.named_parameters()]
    demand(len(set(names)) == len(names), "named_parameters: names come twice; a checkpoint would lose weights")
    trained = {id(p): name for name, p in policy.named_parameters() if p.requires_grad}
    owned = {modality: {id(p) for p in policy.parameters_of(modality)} for modality in MODALITIES}
    text, image = owned["text"], owned["image"]
    shared = [trained[i] for i in text & image if i in trained]
    demand(not shared, f"parameters_of: {some(shared)} in text and in image; each modality has its own learning rate")
    left = [name for i, name in trained.items() if i not in text | image]
    demand(not left, f"parameters_of: {some(left)} in neither text nor image, but trainable; freeze it or say so")
    strange = [i for i in text | image if i not in trained]
    demand(not strange, "parameters_of: gives frozen parameters, or some that named_parameters does not have")
    for modality, other in zip(MODALITIES, reversed(MODALITIES), strict=True):
        if modality in probe.modalities:
            demand(
                bool(owned[modality]),
                f"parameters_of({modality!r}): no trainable parameter; if it is frozen on purpose, check it with"
                f" modalities=({other!r},) and train it with modalities={other}_only",
            )
        else:
            own = [trained[i] for i in trained if i in owned[modality]]
            demand(
                not own,
                f"parameters_of({modality!r}): {some(own)} trainable, but modalities={tuple(probe.modalities)} leaves"
                f" {modality}s out",
            )


@torch.no_grad()
def modes(probe: Probe) -> None:
    """Training mode computes the same."""
    before = probe.answers(probe.read()[1])
    probe.policy.train()
    why = "rollouts are made in training mode and compared with the reference's: switch dropout off"
    equal("train()", before, probe.answers(probe.read()[1]), why)


def replay_repeats(probe: Probe) -> None:
    """Replay repeats sampling bit for bit, with and without gradients."""
    spec, trajectory = probe.rollout()
    why = (
        "the ratio before the first update is then not 1; a kernel may have been chosen by contiguity or by"
        " requires_grad (unigrpo.models.linear.Linear is one that is not), or cached state is in play"
    )
    for trained in (True, False):
        probe.policy.requires_grad_(trained)
        found = _scores(replay(probe.policy, spec, trajectory))
        equal(f"replay of a rollout, requires_grad={trained}", _scores(trajectory), found, why)
    probe.policy.requires_grad_(False)
    probe.thaw()


def gradients(probe: Probe) -> None:
    """Each modality's loss reaches its own parameters; the other's only through a context with gradients."""
    policy = probe.policy
    spec, trajectory = probe.rollout()
    for modality in probe.modalities:
        clear(policy)
        backward(_loss(replay(policy, spec, trajectory), modality))
        found = {own: reached(policy.parameters_of(own)) for own in MODALITIES}
        demand(found[modality] > 0, f"the loss of {modality}s reaches none of parameters_of({modality!r})")
        if modality == "text":
            same("parameters of images that the loss of texts reaches without context_grad", found["image"], 0)
    clear(policy)
    _, context = probe.read()
    backward(policy.velocity(context.detach(), probe.x, probe.t).square().sum())
    detached = reached(policy.parameters_of("text"))
    clear(policy)
    backward(policy.velocity(probe.read()[1], probe.x, probe.t).square().sum())
    through = reached(policy.parameters_of("text"))
    demand(
        through >= detached,
        f"the loss of images reaches {through} parameters of texts through a context, {detached} through a detached"
        " one; detach() must be what stops it",
    )
    clear(policy)


@torch.no_grad()
def references(probe: Probe) -> None:
    """A reference computes the same, and stays when the policy moves."""
    wanted = [parameter.requires_grad for _, parameter in probe.policy.named_parameters()]
    frozen = probe.loaded.reference()
    found = [parameter.requires_grad for _, parameter in probe.policy.named_parameters()]
    demand(found == wanted, "reference(): it freezes the policy or thaws some of it; nothing would be trained")
    expected = probe.answers(probe.read()[1])
    why = "its distance to the policy would not start at 0"
    equal("reference()", expected, probe.answers(probe.read(frozen)[1], frozen), why)
    with moved(probe.policy):
        again = probe.answers(probe.read(frozen)[1], frozen)
    equal("reference() after the policy has moved", expected, again, "it shares weights that are trained")


@torch.no_grad()
def weights_are_whole(probe: Probe) -> None:
    """``state_dict`` holds all that changes the results, and comes back from a file."""
    policy = probe.policy
    expected = probe.answers(probe.read()[1])
    saved = weights.to_bytes(policy.state_dict())
    with moved(policy):
        other = probe.answers(probe.read()[1])
        policy.load_state_dict(weights.from_bytes(saved))
        again = probe.answers(probe.read()[1])
    demand(not all(map(torch.equal, other, expected)), "a change of all trainable weights changes no result of it")
    equal("load_state_dict(state_dict())", expected, again, "a resumed run would go on from other weights")


@torch.no_grad()
def processor_agrees(probe: Probe) -> None:
    """Images have the size that is said, and the processor reads what the policy makes."""
    _, trajectory = probe.rollout()
    decoded = probe.processor.decode(trajectory)
    size = probe.processor.image_size(*probe.size)
    for part in decoded.parts:
        if isinstance(part, ImagePart):
            same("decode: shape of the images", tuple(part.pixels.shape[1:]), (3, *size))
            same("decode: device of the images", part.pixels.device, torch.device("cpu"))
            demand(bool(part.pixels.abs().max() <= 1), "decode: images beyond [-1, 1]")
    texts = [part.texts for _, part in decoded.texts]
    turns = (2 if probe.reads else 1) * probe.writes
    same("decode: texts of the policy, in turns and rows", [len(found) for found in texts], [4] * turns)


def _scores(walked: Trajectory | Rollout) -> list[Tensor]:
    found: list[Tensor] = []
    for score in walked.scores:
        if isinstance(score, TextScore):
            found.append(score.log_prob.detach())
        if isinstance(score, ImageScore):
            found += [t.detach() for step in score.steps for t in (step.velocity, step.mean, step.log_prob)]
    return found


def _loss(rollout: Rollout, modality: Modality) -> Tensor:
    """A number that hangs on all actions of a modality."""
    if modality == "text":
        return torch.stack([s.log_prob.sum() for s in rollout.scores if isinstance(s, TextScore)]).sum()
    images = [score for score in rollout.scores if isinstance(score, ImageScore)]
    return torch.stack([step.mean.square().sum() for score in images for step in score.steps]).sum()
