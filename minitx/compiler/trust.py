"""Whether another user of this machine could have written a file or a folder. Compiled code is only taken if not."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import DeviceError


class UntrustedError(DeviceError):
    """A folder that another user could write to."""


def check_owner(folder: Path) -> None:
    """Raises `UntrustedError` where somebody else could write to a folder, or put another one or a link in its place.

    Raises `OSError` if it is not there. The superuser is trusted; so are folders on the way such as /tmp, in which
    everybody can make files but nobody can replace those of others. Windows is not looked at.
    """
    if not hasattr(os, "geteuid"):
        return
    folder = folder.absolute()
    real = folder.resolve()
    for place in _places(folder):
        link, status = place.lstat(), place.stat()
        last = place.resolve() == real
        owners = _owners() if last else _owners() | _unmapped()
        sticky = status.st_mode & stat.S_ISVTX and not last
        if {link.st_uid, status.st_uid} <= owners and (sticky or not _shared(status)):
            continue
        raise UntrustedError(
            f"{place} belongs to another user or can be written by one, so no compiled code is kept below it; "
            f"chmod go-w it if it is yours, or set MINITX_CACHE to a folder of your own"
        )


def private(status: os.stat_result) -> bool:
    """Whether only this user and the superuser can write what has this status."""
    return not hasattr(os, "geteuid") or (status.st_uid in _owners() and not _shared(status))


def _shared(status: os.stat_result) -> bool:
    by_group = status.st_mode & stat.S_IWGRP and not _own_group(status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or by_group)


def _places(path: Path) -> Iterator[Path]:
    """Every folder and link on the way to a path, and itself. Read them in turn: a loop of links has no end."""
    for place in (*reversed(path.parents), path):
        yield place
        place.stat()  # raises OSError for such a loop
        if place.is_symlink():
            yield from _places(place.parent / os.readlink(place))


def _owners() -> set[int]:
    return {0, os.geteuid()}


@functools.cache
def _own_group(group: int) -> bool:
    """Whether this user is alone in a group, as in many systems' group of the user's own name."""
    with suppress(ImportError, KeyError, OSError):
        import grp
        import pwd

        user, known = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return known.gr_name == user.pw_name and user.pw_gid == group and set(known.gr_mem) <= {user.pw_name}
    return False


@functools.cache
def _unmapped() -> frozenset[int]:
    """Whom files outside of a container seem to belong to in it, if it does not know the machine's users."""
    with suppress(OSError, ValueError, IndexError):
        if Path("/proc/self/uid_map").read_text().split()[2] != "4294967295":
            return frozenset({int(Path("/proc/sys/kernel/overflowuid").read_text())})
    return frozenset()
