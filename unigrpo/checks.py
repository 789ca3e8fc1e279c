"""What every formula asks of its tensors: one shape, floating numbers, one precision, rows that stay rows.

Imports no torch, as the strategies that use it must not: methods of the tensors do all the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "sum"]


class ShapeError(ValueError):
    """Tensors of which one does not fit the others in shape; the message names each with its shape."""


def same_shape(**tensors: Tensor) -> None:
    """Refuse to broadcast: [B] with [B, 1] would silently give [B, B] and mix the samples of a batch.

    Raises:
        ShapeError: they differ in shape.
    """
    sizes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    first, *others = sizes.values()
    if any(shape != first for shape in others):
        raise ShapeError("expected equal sizes, got " + ", ".join(f"{name} {shape}" for name, shape in sizes.items()))


def upcast(**tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in fp32, or in fp64 if that is what they are; in the order given.

    Raises:
        TypeError: a tensor of integers or booleans, or tensors of different dtypes.
    """
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(dtypes.values())) > 1 or not all(tensor.is_floating_point() for tensor in tensors.values()):
        listed = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"expected floating tensors of one dtype, got {listed}")
    return tuple(tensor.float() if tensor.element_size() < 4 else tensor for tensor in tensors.values())


def check_mask(mask: Tensor, **values: Tensor) -> None:
    """Require a boolean mask of the shape of ``values``.

    Raises:
        TypeError: the mask is not boolean.
        ShapeError: they differ in shape.
    """
    if str(mask.dtype) != "torch.bool":
        raise TypeError(f"expected a boolean mask, got {mask.dtype}")
    same_shape(mask=mask, **values)


def per_row(value: Tensor | float, rows: Tensor) -> Tensor:
    """``value`` (a scalar, or one number per row: [B]) shaped to meet ``rows`` [B, ...], in their dtype and device.

    Raises:
        ShapeError: ``value`` is neither a scalar nor [B].
    """
    if isinstance(value, int | float):
        return rows.new_tensor(value)
    if value.dim() > 0 and value.shape != rows.shape[:1]:
        raise ShapeError(f"expected a scalar or one number per row, got {list(value.shape)} for {list(rows.shape)}")
    return value.reshape(value.shape + (1,) * (rows.dim() - value.dim())).to(rows)


def over_elements(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum over the D elements of each row: [B, ...] -> [B].

    Raises:
        ValueError: another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    flat = values.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)
