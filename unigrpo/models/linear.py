"""Every dense product of a policy goes through here, so that nothing but its shape chooses the kernel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` on contiguous rows: one ``mm``, or ``addmm`` with a bias.

    Given more than two dimensions, torch folds them into one product or takes a batched one, by whether the input is
    contiguous and whether the weight wants a gradient.  The two differ in the last bits: a frozen reference, or a
    replay, would not repeat the rollout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = x.reshape(-1, self.in_features).contiguous()
        return F.linear(rows, self.weight, self.bias).view(*x.shape[:-1], self.out_features)


def exact_linears(module: nn.Module) -> nn.Module:
    """Make every :class:`torch.nn.Linear` inside ``module`` a :class:`Linear`; for models that others wrote."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    return module
