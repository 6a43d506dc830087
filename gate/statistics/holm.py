"""Holm's step-down adjustment, so that one of many budgets is rarely accused falsely.

Sorted p(1) ≤ … ≤ p(K): adjusted p(i) = max over j ≤ i of min(1, (K − j + 1) · p(j)).

S. Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def adjusted(p: Sequence[float]) -> NDArray[np.float64]:
    """Adjusted p-values (K,), in the order given; none for none.

    Raises:
        ValueError: one of them is not between 0 and 1, or NaN.
    """
    values = np.asarray(p, dtype=np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    steps = np.maximum.accumulate(np.minimum(1.0, factors * values[order]))
    result = np.empty(len(values))
    result[order] = steps
    return result
