"""A process that searches its own memory for key bytes; `test_memory.py` starts it.

It never has a pattern in the form that a key has: patterns are kept with each byte turned over, and
what is read of the memory is turned over before it is searched. What is read at one time lies in
one buffer, which is wiped at the end and whose place is not counted. It prints a JSON object: for
each moment how many copies there are of the key, and of the keys that were derived from it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.crypto import key as key_module
from pipeline.crypto.key import EncryptionKey, EpochLimits
from pipeline.crypto.material import KeyBytes

CHUNK = 1 << 20

patterns: dict[str, list[bytes]] = {"key": [], "derived": []}
buffer = bytearray(CHUNK + 32)
octets = np.frombuffer(buffer, np.uint8)


def note(kind: str, secret: bytearray) -> None:
    """Keep a pattern, turned over byte by byte."""
    patterns[kind].append(bytes(secret[at] ^ 0x5A for at in range(len(secret))))


def copies() -> dict[str, int]:
    """How often the patterns of each kind are in what this process may write."""
    gc.collect()
    counts = dict.fromkeys(patterns, 0)
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found:
                search(memory, int(found[1], 16), int(found[2], 16), counts)
    return counts


def search(memory: FileIO, begin: int, end: int, counts: dict[str, int]) -> None:
    """One mapping, in pieces that overlap by a key's length less one."""
    own = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    for start in range(begin, end, CHUNK):
        memory.seek(start)
        size = memory.readinto(memoryview(buffer)[: min(CHUNK + 31, end - start)])
        # In place: a copy on the way would lie about and be found.
        octets[:size] ^= 0x5A
        for kind, wanted in patterns.items():
            for pattern in wanted:
                for found in re.finditer(re.escape(pattern), memoryview(buffer)[:size]):
                    place = start + found.start()
                    inside = own <= place < own + len(buffer)
                    counts[kind] += found.start() < CHUNK and not inside
        ctypes.memset(own, 0, len(buffer))


def a_key(key_id: str, seed: int) -> EncryptionKey:
    """A key whose bytes were made one by one, and exist in its own buffer alone."""
    material = KeyBytes(32)
    for at in range(32):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        material[at] = seed >> 56
    note("key", material)
    key = EncryptionKey(key_id, material, limits=EpochLimits(messages=10), ciphers=4)
    material.wipe()
    return key


def use(key: EncryptionKey) -> None:
    """Seal and open under more salts than are kept."""
    for _ in range(20):
        salt, cipher = key.for_sealing(5, 100)
        sealed = cipher.encrypt(bytes(12), b"hello", None)
        assert key.for_opening(salt).decrypt(bytes(12), sealed, None) == b"hello"


def watch_derived(keep: bool) -> None:
    """Note each derived key when it is made; `keep`: as it would be if nobody wiped it."""
    real = key_module.AESGCM

    def noting(derived: bytearray) -> object:
        note("derived", derived)
        if keep:
            leaked.append(bytearray(derived))
        return real(derived)

    key_module.AESGCM = noting  # type: ignore[assignment,misc]


leaked: list[bytearray] = []


def main(how: str) -> dict[str, dict[str, int]]:
    """The moments of a key's life, by the way it ends."""
    watch_derived(keep=how == "leaked")
    moments = {"before": copies()}
    key = a_key("a", 1)
    moments["made"] = copies()
    use(key)
    moments["used"] = copies()
    if how == "rotated":
        key, former = a_key("b", 2), key
        use(key)
        former.close()
        del former
        patterns["key"] = patterns["key"][:1]
        patterns["derived"] = patterns["derived"][:10]
    elif how in ("closed", "leaked"):
        key.close()
    else:
        del key
    moments["ended"] = copies()
    return moments


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
