"""The cache of compiled models: a folder for each, which is whole or not there.

Nothing is taken from a folder that another user of the machine could write to, since a library is code, nor from an
entry that is not as it was written (see `sealed`). It imports nothing that would slow a start down.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeviceError, FileError, InputError
from ..paths import cache_dir
from .locks import flock
from .sealed import IN_USE, Files, manifest, whole, write
from .trust import UntrustedError, check_owner

LIBRARY, WEIGHTS, DESCRIPTION = "library.so", "weights.bin", "model.json"  # the files of a model's entry
SHORTLIST = "shortlist.bin"  # one more, if the model has one
LIMIT = 4_000_000_000  # bytes of all entries together, unless $MINITX_CACHE_LIMIT says otherwise
ATTEMPTS = 5  # at finding an entry that others remove
LEFT = 86_400.0  # seconds after which what a process was writing is taken to be left over
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
Notice = Callable[[str], object]


@dataclass(frozen=True)
class Entry:
    """A compiled model in the cache."""

    path: Path
    bytes: int
    used: float  # seconds since 1970
    meta: dict[str, str]
    version: str  # of minitx, when it was made


def folder() -> Path:
    return cache_dir() / "native"


def key(*parts: str | bytes) -> str:
    """A name for what these parts say together: 32 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:32]


def parse_size(text: str) -> int:
    """Bytes, of a number with K, M, G or T behind it or nothing; raises `InputError`."""
    number = text.strip().upper().removesuffix("B").rstrip()
    suffix = number[-1:] if number[-1:] in SUFFIXES else ""
    with suppress(ValueError, OverflowError):
        if (value := float(number.removesuffix(suffix))) >= 0:
            return int(value * SUFFIXES[suffix])
    raise InputError(f"{text!r} is not a size; give bytes, or a number with K, M or G, such as 500M")


def limit() -> int:
    """How many bytes all entries together may have; raises `InputError` for a $MINITX_CACHE_LIMIT that is no size."""
    text = os.environ.get("MINITX_CACHE_LIMIT", "")
    try:
        return parse_size(text) if text.strip() else LIMIT
    except InputError as e:
        raise InputError(f"MINITX_CACHE_LIMIT: {e}") from None


def get(named: str, check: Collection[str] = ()) -> Path | None:
    """The entry of that name, seen to be whole; None if there is none. A damaged one is removed.

    Files of up to 4 MB and those in `check` are read in full, of others 64 blocks. Raises `DeviceError` where another
    user of the machine could have written the cache.
    """
    path = folder() / named
    if not os.path.lexists(path):
        return None
    guard()
    if not whole(path, check):
        remove(path)
        return None
    with suppress(OSError):
        os.utime(path)
    return path


def find(**meta: str) -> Path | None:
    """The last used whole entry that says this of itself, as when there is no compiler to be asked for its key."""
    for entry in entries():
        if meta.items() <= entry.meta.items() and (found := get(entry.path.name)):
            return found
    return None


def guard() -> None:
    """Raises `DeviceError` where another user could have put something into the cache."""
    with suppress(FileNotFoundError, NotADirectoryError):
        check_owner(folder())


def put(named: str, files: Files, meta: Mapping[str, str]) -> Path:
    """Keeps an entry, which is there whole or not at all; of two processes that do, the second gets the first's.

    Then entries that were not used for longest are removed until all are within the limit. Raises `FileError` where
    the cache cannot be written, and `DeviceError` where another user of the machine could write to it.
    """
    allowed = limit()
    temporary, path = None, folder() / named
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        check_owner(folder())
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder()))
        write(temporary, files, meta)
        try:
            temporary.rename(path)
        except OSError:
            if not get(named):  # nobody was faster: what stood there was damaged, and is gone now
                temporary.rename(path)
    except OSError as e:
        raise FileError(f"{folder()}: cannot be written ({e.strerror or e}); free space or set MINITX_CACHE") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    evict(allowed, path)
    return path


def scratch(files: Files, meta: Mapping[str, str]) -> Path:
    """An entry outside of the cache, for this process alone, which removes it at its end; raises `FileError`."""
    path = None
    try:
        path = Path(tempfile.mkdtemp(prefix="minitx-"))
        atexit.register(_forget, path, os.getpid())
        write(path, files, meta)
        return path
    except OSError as e:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        where = tempfile.gettempdir()
        raise FileError(f"{where}: cannot be written ({e.strerror or e}); free space or set TMPDIR") from None


def _forget(path: Path, process: int) -> None:
    if os.getpid() == process:  # not in a child that was forked
        shutil.rmtree(path, ignore_errors=True)


_scratch: dict[str, Path] = {}


def ensure(
    named: str,
    make: Callable[[], tuple[Files, Mapping[str, str]]],
    check: Collection[str] = (),
    notice: Notice = lambda message: None,
    warn: Notice = lambda message: None,
) -> Path:
    """The entry of that name, its files and meta made if it is not there: by one process while others wait for it.

    Where the cache cannot be used `warn` is told why, in one line, and the entry is this process's own. Raises what
    `make` raises, `InputError` for a bad limit, and `FileError` if there is no room for temporary files either.
    """
    limit()
    if (made := _scratch.get(named)) and whole(made, check):
        return made
    problem: DeviceError | FileError
    try:
        if found := get(named, check):
            return found
        with lock(named, notice):
            if found := get(named, check):
                return found
            guard()
            files, meta = make()
            try:
                return put(named, files, meta)
            except (DeviceError, FileError) as e:
                problem = e
    except UntrustedError as e:
        problem = e
        files, meta = make()
    warn(f"the compiled model is not kept: {problem}")
    _scratch[named] = scratch(files, meta)
    return _scratch[named]


def entries() -> list[Entry]:
    """All entries, the last used first."""
    found = []
    for path in listed():
        with suppress(OSError, ValueError):
            told = manifest(path)
            found.append(Entry(path, total(path), path.stat().st_mtime, told["meta"], str(told.get("version"))))
    return sorted(found, key=lambda entry: -entry.used)


def listed() -> list[Path]:
    """All that is in the cache's folder: entries, locks (.lock-), what is being written or removed (.new-, .old-)."""
    with suppress(OSError):
        return list(folder().iterdir())
    return []


def total(path: Path) -> int:
    """The bytes of the files in a folder and in those below it, or of a file."""
    found = 0
    with suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        for child in path.iterdir():
            found += total(child)
    return found


def clear(older_than: float | None = None) -> int:
    """Removes every entry that no process has in use, and what was left half-written; the bytes that were freed.

    With `older_than` only what was not used for so many seconds.
    """
    freed, now = sweep(), time.time()
    for entry in entries():
        if (older_than is None or now - entry.used > older_than) and remove(entry.path, spare=True):
            freed += entry.bytes
    known = {entry.path for entry in entries()}
    for path in listed() if older_than is None else ():
        if not path.name.startswith(".") and path not in known:  # what no manifest describes
            size = total(path)
            freed += size if remove(path) else 0
    return freed


def evict(allowed: int, kept: Path | None = None) -> int:
    """Removes what was not used for longest, but nothing in use, until all is within the limit; the bytes freed."""
    freed, found = sweep(), entries()
    over = sum(entry.bytes for entry in found) - allowed
    for entry in reversed(found):
        if over > 0 and entry.path != kept and remove(entry.path, spare=True):
            over, freed = over - entry.bytes, freed + entry.bytes
    return freed


def sweep() -> int:
    """Removes what a process left that was stopped as it wrote or removed an entry; the bytes that were freed."""
    freed = 0
    for path in listed():
        with suppress(OSError):
            if path.name.startswith((".new-", ".old-")) and time.time() - path.lstat().st_mtime > LEFT:
                size = total(path)
                shutil.rmtree(path)
                freed += size
    return freed


def remove(path: Path, spare: bool = False) -> bool:
    """Removes an entry at once, so that nobody sees half of it, or with `spare` not if it is in use; True if gone.

    What a process has mapped of it stays there for that process.
    """
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return True
        with flock(path / IN_USE, "LOCK_EX", wait=False) as free:
            if spare and free is False:
                return False
            aside = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
            path.rename(aside / path.name)
            shutil.rmtree(aside, ignore_errors=True)
            return True
    return False


class Use:
    """Says that an entry is in use, until it is closed or forgotten or the process ends; `there` is whether it was."""

    def __init__(self, path: Path):
        self._stack = contextlib.ExitStack()
        before = _inode(path / IN_USE)
        self._stack.enter_context(flock(path / IN_USE, "LOCK_SH", wait=True))
        self.there = before is not None and before == _inode(path / IN_USE)  # and not removed while we waited

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Use:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    __del__ = close


def use(path: Path) -> Use:
    """Keeps an entry from being removed to make room, for as long as the result is held. It never fails."""
    return Use(path)


def _inode(path: Path) -> int | None:
    with suppress(OSError):
        return path.lstat().st_ino
    return None


def hold(find: Callable[[], Path]) -> tuple[Path, Use]:
    """The entry that `find` gives, in use; `find` is called again where another process removed it in between.

    Raises `FileError` where that goes on.
    """
    for _ in range(ATTEMPTS):
        path = find()
        held = use(path)
        if held.there:
            return path, held
    raise FileError(f"{folder()}: is cleared all the time by another process; stop it or set MINITX_CACHE")


def in_use(path: Path) -> bool:
    """Whether a process says so."""
    with flock(path / IN_USE, "LOCK_EX", wait=False) as free:
        return free is False


@contextmanager
def lock(named: str, notice: Notice = lambda message: None) -> Iterator[None]:
    """Only one process is in here for a name; the others wait. Where files cannot be locked, all are.

    `notice` is told when another process is in here.
    """
    place = folder() / f".lock-{named[:2]}"
    with suppress(OSError, DeviceError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_owner(place.parent)
        with suppress(FileExistsError):
            os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.ExitStack() as stack:
        if stack.enter_context(flock(place, "LOCK_EX", wait=False)) is False:
            notice("waiting for another process that compiles ...")
            stack.enter_context(flock(place, "LOCK_EX", wait=True))
        yield
