"""Chance that belongs to a place: the n-th number of a stream is the same whatever else happens.

A run with one fault less then differs only where that fault made a difference, so that a failing
schedule can be shrunk.
"""

from __future__ import annotations

from zlib import crc32

_MASK = 2**64 - 1


def stream(name: str) -> int:
    """What a stream is called in `chance`."""
    return crc32(name.encode()) * 0xD6E8FEB86659FD93


def chance(seed: int, of: int, number: int) -> float:
    """A stream's n-th number in [0, 1)."""
    x = (seed * 0x9E3779B97F4A7C15 + of + number * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return (x ^ x >> 31) / 2**64
