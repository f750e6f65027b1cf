"""The package of `package.py` and, compiled for the kind of machine that `Options.arch` names, if any: its
command, static library and shared library.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...errors import DeviceError
from ...weights.checkpoint import Checkpoint
from ..content import Content, Program, put
from ..cross import ARCHITECTURES, Architecture, Cross
from . import package

SECTION = """
## Compiled for {arch}
It was compiled by zig for {system}, {processor}. {about}

| file | bytes | is |
|---|---|---|
{rows}

{weights}
"""
LINKED = "The weights are in the command and in the libraries; nothing else has to be copied."
BESIDE = "The command looks for `{}.weights` beside itself; nothing else has to be copied."


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The package's files by their place in it; raises `DeviceError` where zig is not there, or fails."""
    made = package.files(checkpoint, options)
    if not options.arch:
        return made
    row = ARCHITECTURES[options.arch]
    try:
        with tempfile.TemporaryDirectory(prefix="minitx-") as folder:
            found = compiled(made, options, row, Path(folder))
    except OSError as e:
        where = e.filename or tempfile.gettempdir()
        raise DeviceError(f"{where}: cannot be used ({e.strerror or e}); free space or set TMPDIR") from None
    first, heading, rest = str(made["README.md"]).partition("\n## ")
    return made | found | {"README.md": first + section(found, options, row) + heading + rest}


def compiled(
    made: Mapping[str, Content], options: package.Options, row: Architecture, folder: Path
) -> dict[str, bytes]:
    """The command, the static library and the shared one by name."""
    system, name, notice = row.system, options.name, options.notice
    texts = {place: content for place, content in made.items() if isinstance(content, str)}
    units, shared = package.units(row.machine, options.threads, options.embed), system.shared.format(name)
    if options.embed:
        weights = f"{name}.weights"
        put({weights: made[weights]}, folder)
        where = f'-DMODEL_FILE="{folder / weights}"'
        units = [dataclasses.replace(u, flags=(*u.flags, where)) if u.name == "linked" else u for u in units]
    library, command = Cross(row, folder / "library"), Cross(row.of_command(), folder / "command")
    objects = dict(zip(units, library.compile(texts, units, notice), strict=True))
    own = [package.command(name)]
    if row.command:  # what looks at libc is compiled for the command's own
        own += [unit for unit in units if not unit.name.startswith(package.FUNCTIONS)]
    program = [*command.compile(texts, own, notice), *(made for unit, made in objects.items() if unit not in own)]
    notice("linking ...")
    return {
        system.command.format(name): Program(command.link(program, "program", system.command_flags)),
        system.static.format(name): library.archive([*objects.values()], "library.a"),
        shared: library.shared([*objects.values()], shared),
    }


def section(found: Mapping[str, bytes], options: package.Options, row: Architecture) -> str:
    """What the package's README.md says of them."""
    is_what = ["the command", "the static library, with its symbols", "the shared library"]
    rows = [
        f"| `{place}` | {len(data):,} | {what} |" for (place, data), what in zip(found.items(), is_what, strict=True)
    ]
    words = {"arch": options.arch, "system": row.system.title, "processor": row.processor, "about": row.system.about}
    weights = LINKED if options.embed else BESIDE.format(options.name)
    return SECTION.format(rows="\n".join(rows), weights=weights, **words)
