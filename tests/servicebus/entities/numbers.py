"""What may be given as a number: True, infinity and "30" may not."""

from __future__ import annotations

import sys
from typing import TypeGuard


def finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that can be reckoned with."""
    # A comparison, because `isfinite` raises for whole numbers that no float can hold.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
