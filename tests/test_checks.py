import subprocess
import sys

import pytest
import torch

from unigrpo import registry
from unigrpo.checks import ShapeError, check_mask, over_elements, per_row, same_shape, upcast


def test_p50_shapes_that_would_broadcast_are_refused_by_name():
    with pytest.raises(ShapeError, match=r"left \[3\], right \[3, 1\]"):
        same_shape(left=torch.zeros(3), right=torch.zeros(3, 1))
    same_shape(left=torch.zeros(3, 2), right=torch.ones(3, 2))


def test_p49_half_precision_is_raised_and_better_kept():
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        first, second = upcast(a=torch.ones(2, dtype=dtype), b=torch.zeros(1, dtype=dtype))
        assert first.dtype == second.dtype == expected
        assert (first.tolist(), second.tolist()) == ([1, 1], [0])


@pytest.mark.parametrize("other", [torch.int64, torch.bool, torch.float64])
def test_p49_integers_and_mixed_dtypes_are_refused_by_name(other):
    with pytest.raises(TypeError, match=rf"a torch.float32, b {other}"):
        upcast(a=torch.ones(2), b=torch.ones(2, dtype=other))
    if other != torch.float64:
        with pytest.raises(TypeError, match="floating"):
            upcast(a=torch.ones(2, dtype=other))


def test_a_mask_is_boolean_and_has_the_shape_of_its_values():
    with pytest.raises(TypeError, match="boolean"):
        check_mask(torch.ones(2, 3), values=torch.ones(2, 3))
    with pytest.raises(ShapeError, match=r"mask \[2, 3\], values \[2\]"):
        check_mask(torch.ones(2, 3, dtype=torch.bool), values=torch.ones(2))


def test_per_row_reaches_rows_and_never_columns():
    rows = torch.ones(2, 2, 2, dtype=torch.float64)
    scaled = per_row(torch.tensor([2.0, 3.0]), rows) * rows
    assert scaled[0].unique().tolist() == [2]
    assert scaled[1].unique().tolist() == [3]
    assert scaled.dtype == torch.float64
    assert torch.equal(per_row(5.0, rows) * rows, per_row(torch.tensor(5.0), rows) * rows)
    for wrong in (torch.ones(1), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ShapeError, match="one number per row"):
            per_row(wrong, rows)


def test_over_elements_reduces_each_row():
    values = torch.arange(12.0).reshape(2, 3, 2)
    assert over_elements(values, "sum").tolist() == [15, 51]
    assert over_elements(values, "mean").tolist() == [2.5, 8.5]
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        over_elements(values, "max")


def test_planning_with_every_strategy_imports_no_heavy_package():
    slots = [
        slot for slot, module in registry.SLOTS.items() if module.startswith(("unigrpo.flow", "unigrpo.objective"))
    ]
    program = (
        "import sys; from unigrpo import registry\n"
        f"assert all(registry.strategies(slot) for slot in {slots})\n"
        "import unigrpo.flow.schedule, unigrpo.objective.loss\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
