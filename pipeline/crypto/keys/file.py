"""The key set in a file, a mounted secret as a rule.

The file is read anew for each reading: a change is seen however it was made, in place, by a rename,
or, as Kubernetes does it, by a symbolic link that points elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar

from pipeline.config import FileKeys
from pipeline.crypto.keys.kept import WritableKeys
from pipeline.crypto.keyset import LARGEST
from pipeline.crypto.material import KeyBytes
from pipeline.errors import ConfigurationError

T = TypeVar("T")

_BOM = "\ufeff"


class FileKeyProvider(WritableKeys):
    """A key provider that reads a file.

    Args:
        settings: which file.
        timeout: seconds that a reading may take.

    Example:
        >>> import os, tempfile
        >>> from pipeline.crypto.keyset import KeySet
        >>> path = os.path.join(tempfile.mkdtemp(), "keys.json")
        >>> provider = FileKeyProvider(FileKeys(path=path), 10.0)
        >>> await provider.create(KeySet.first("a", 1.7e9))
        >>> await provider.current_key_id()
        EncryptionKeyId('a')
    """

    def __init__(self, settings: FileKeys, timeout: float) -> None:
        super().__init__(f"crypto.keys: file {settings.path}", timeout)
        self._path = Path(settings.path)
        self._under_way: Future[str | None] | None = None

    async def _text(self) -> str | None:
        # One that hangs is waited for again, not added to.
        reading = self._under_way
        if reading is None:
            reading = self._under_way = _in_thread(self._read_file)
            reading.add_done_callback(self._ended)
        return await asyncio.shield(asyncio.wrap_future(reading))

    def _ended(self, _: Future[str | None]) -> None:
        self._under_way = None  # what was read has keys in it, and is nobody's to keep

    async def _write(self, text: str, *, first: bool) -> None:
        await asyncio.wrap_future(_in_thread(lambda: self._write_file(text, first=first)))

    def _read_file(self) -> str | None:
        try:
            # O_NONBLOCK: a pipe that nobody writes to would hold the thread for good.
            file = os.open(self._path.expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError) as error:
            raise self._failed("can't be read", error) from error
        try:
            return self._decoded(file)
        except OSError as error:
            raise self._failed("can't be read", error) from error
        finally:
            os.close(file)

    def _decoded(self, file: int) -> str:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError(f"{self.where} is no file: name one that holds the key set")
        if found.st_size > LARGEST:
            told = f"has {found.st_size} bytes and is no key set: at most {LARGEST} are read"
            raise ConfigurationError(f"{self.where} {told}")
        content = KeyBytes(found.st_size)
        size = os.readv(file, [content])
        try:
            return str(memoryview(content)[:size], "utf-8").removeprefix(_BOM)
        except UnicodeDecodeError as error:
            told = f"is not UTF-8 text (byte {error.start})"
        finally:
            content.wipe()
        # Outside the `except`: the decoder's error has the file's content in it.
        raise ConfigurationError(f"{self.where} {told}")

    def _write_file(self, text: str, *, first: bool) -> None:
        """Write beside the file and rename: whoever reads sees the old one or the new one.

        A symbolic link stays one: what it points to is replaced. A first file is its owner's alone;
        a later one has the owner and the rights of the one it replaces, others' excepted.
        """
        made = ""
        try:
            target = self._path.expanduser().resolve()
            file, made = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # 0600
            with os.fdopen(file, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                if not first:
                    _like(out.fileno(), target.stat())
                os.fsync(out.fileno())
            if first:
                target.hardlink_to(made)  # which refuses when there is one
            else:
                Path(made).replace(target)
            _sync(target.parent)
        except FileExistsError as error:
            raise self._there_is_one() from error
        except (OSError, RuntimeError, ValueError) as error:
            raise self._failed("can't be written", error) from error
        finally:
            if made:
                with contextlib.suppress(FileNotFoundError):
                    Path(made).unlink()

    def _failed(self, what: str, error: Exception) -> ConfigurationError:
        told = error.strerror if isinstance(error, OSError) else str(error)
        return ConfigurationError(f"{self.where} {what}: {told}")


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Do it beside the loop: a network's file system takes its time, or never answers.

    Not in the loop's own threads, which would be used up, and waited for when the process ends.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            done = work()
        except BaseException as error:  # noqa: BLE001 - for who waits
            future.set_exception(error)
        else:
            future.set_result(done)

    Thread(target=run, name="crypto.keys", daemon=True).start()
    return future


def _like(file: int, other: os.stat_result) -> None:
    """Give a file the owner and the rights of another one: who reads that one reads this one."""
    with contextlib.suppress(PermissionError):  # only root may give a file away
        os.fchown(file, other.st_uid, other.st_gid)
    os.fchmod(file, stat.S_IMODE(other.st_mode) & 0o660)


def _sync(directory: Path) -> None:
    """Make the rename itself last, should the machine stop now."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
