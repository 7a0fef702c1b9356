"""Random numbers that are a pure function of their purpose, the same on every machine.

NumPy's and torch's generators may change their streams between versions and have a state to carry
along. Here a number follows from its purpose ("seed 3, source pets, epoch 2, row 17") alone, so the order
of rows, their augmentation and the quickstart's pictures can be computed anywhere, in any order.

SplitMix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def fold(*parts: str | int | NDArray[np.integer]) -> Hashes:
    """One hash per element from names, numbers and arrays of numbers, broadcast against each other.

    Returns:
        uint64 array of the broadcast shape; shape [1] when every part is a name or a number.
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = splitmix64(state ^ _as_uint64(part))
    return state


def draws(keys: Hashes, count: int, first: int = 0) -> Hashes:
    """uint64 [..., count]: numbers of the SplitMix64 generators seeded with `keys` [...], from the `first` one on."""
    with np.errstate(over="ignore"):
        return splitmix64(keys[..., None] + np.arange(first, first + count, dtype=np.uint64) * _GAMMA)


def uniforms(keys: Hashes, count: int) -> NDArray[np.float64]:
    """float64 [..., count] in [0, 1), from the upper 53 bits of `draws`."""
    return (draws(keys, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def splitmix64(states: Hashes) -> Hashes:
    """The generator's next output for each state: a bijection that scrambles every bit."""
    with np.errstate(over="ignore"):
        mixed: Hashes = states + _GAMMA
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b, as a number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _as_uint64(part: str | int | NDArray[np.integer]) -> Hashes:
    if isinstance(part, str):
        part = text_hash(part)
    return np.atleast_1d(np.asarray(part, dtype=np.uint64))
