"""Mistakes that let something besides the shape choose a kernel."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

KERNELS = nodes("exactness/test_kernels", "test_replay_takes_the_kernels_of_sampling[adaln-single_round-True]")

KERNEL_BUGS = (
    Bug(
        "dense product of a strided slice",
        "unigrpo/models/linear.py",
        "rows = x.reshape(-1, self.in_features).contiguous()",
        "rows = x",
        KERNELS,
    ),
    Bug(
        "one kernel for weights that want a gradient, another for the others",
        "unigrpo/models/linear.py",
        "return F.linear(rows, self.weight, self.bias)",
        "return (F.linear(rows, self.weight, self.bias) if self.weight.requires_grad else"
        " F.linear(rows[None], self.weight, self.bias))",
        KERNELS,
    ),
    Bug(
        "a picture's context is copied only where gradients are wanted",
        "unigrpo/rollout/rollout.py",
        "        if not self.spec.context_grad:\n            # The image",
        "        if torch.is_grad_enabled() and not self.spec.context_grad:\n            # The image",
        nodes("exactness/test_kernels", "test_replay_takes_the_kernels_of_sampling[adaln-editing-True]"),
    ),
)
