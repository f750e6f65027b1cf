"""`minitx cache`: the compiled models that are kept, what else the cache holds, and clearing it."""

from __future__ import annotations

import argparse
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..paths import cache_dir
from . import common

EXAMPLES = """examples:
  minitx cache
  minitx cache --json
  minitx cache --limit 500M       remove what was not used for longest, until the compiled models have at most 500 MB
  minitx cache --clear            remove all, also what other engines and compilers keep

A model is compiled once for each way of storing its matrices, and again when minitx or the compiler changes. What was
not used for longest goes when all together have more than 4 GB, or what $MINITX_CACHE_LIMIT says, such as 500M. It is
safe to clear at any time: what a running program has in use stays, and what is missing is compiled again. The folder
is $MINITX_CACHE, or the system's folder for caches.
"""

OTHERS = {  # what else is below the cache's folder: its name here, and its files
    "kernels of the tinygrad engine": "tinygrad-*.db*",
    "files of the compiler zig": "zig",
}
COLUMNS = ("model", "quantization", "instruction sets", "compiler")  # of what an entry says of itself


def arguments(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--clear", action="store_true", help="remove everything that is not in use")
    action.add_argument(
        "--limit", type=limit, metavar="SIZE", help="remove what was used last longest ago, down to SIZE"
    )
    common.json_argument(parser)


def limit(text: str) -> int:
    """An argument that is a size: bytes, or with a K, M or G."""
    from ..compiler.store import parse_size

    try:
        return parse_size(text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def run(args: argparse.Namespace) -> None:
    from ..compiler import store

    if args.clear or args.limit is not None:
        freed = store.clear() + clear_others() if args.clear else store.evict(args.limit)
        left = store.entries()
        if args.json:
            common.print_json({"freed": freed, "left": len(left)})
        else:
            kept = (
                f"; {len(left)} in use or within the limit {'was' if len(left) == 1 else 'were'} kept" if left else ""
            )
            print(f"{common.size(freed)} freed{kept}")
        return
    others = {name: sum(map(store.total, paths)) for name, paths in found_others().items()}
    if args.json:
        entries = [
            {"key": e.path.name, **vars(e), "path": str(e.path), "in_use": store.in_use(e.path)}
            for e in store.entries()
        ]
        common.print_json({"folder": str(store.folder()), "limit": store.limit(), "entries": entries, "others": others})
        return
    print(shown(store.entries(), others))


def shown(entries: list[Any], others: dict[str, int]) -> str:
    """What `minitx cache` prints: a table of the entries, the sizes of the rest, and the sum."""
    from ..compiler import store

    rows = [
        {column: entry.meta.get(column, "") for column in COLUMNS}
        | {"size": common.size(entry.bytes), "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))}
        for entry in entries
    ]
    total = sum(entry.bytes for entry in entries)
    summary = [
        {"": "compiled models", "size": f"{common.size(total)} of at most {common.size(store.limit())}"},
        *({"": name, "size": common.size(size)} for name, size in others.items()),
    ]
    lines = common.table(summary).split("\n")[1:]
    return "\n".join([*([common.table(rows), ""] if rows else []), f"{cache_dir()}:", *lines])


def found_others() -> dict[str, list[Path]]:
    """The files and folders of each row of `OTHERS`; a database comes after the journals that belong to it."""
    return {name: sorted(cache_dir().glob(pattern), reverse=True) for name, pattern in OTHERS.items()}


def clear_others() -> int:
    """Removes them; the bytes that were freed. What cannot be removed stays."""
    from ..compiler import store

    freed = 0
    for path in (path for paths in found_others().values() for path in paths):
        before = store.total(path)
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        freed += before - store.total(path)
    return freed
