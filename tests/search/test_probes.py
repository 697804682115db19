"""Groups that all probes give one width cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.plan_latency import _alike


@pytest.mark.parametrize(("widths", "count"), [
    ([[6, 8], [3, 2], [2, 6]], 0), ([[6, 12], [3, 6], [2, 4]], 1), ([[6, 8], [3, 8], [2, 8]], 1),
    ([[6, 6, 6], [4, 4, 4]], 2), ([[6, 6, 5], [4, 4, 5]], 2)])
def test_columns_that_are_alike_or_never_change(widths: list[list[int]], count: int) -> None:
    assert _alike(np.array(widths)) == count
