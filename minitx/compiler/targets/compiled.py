"""The package of `package.py` and, compiled for the kind of machine that `Options.arch` names, if any: its
command, static library and shared library.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...errors import DeviceError
from ...weights.checkpoint import Checkpoint
from ..content import Content, Program
from ..cross import ARCHITECTURES, Architecture, Cross
from . import package

SECTION = """
## Compiled for {arch}
It was compiled by zig for {system}, {processor}. {about}

| file | bytes | is |
|---|---|---|
{rows}

The command looks for `{name}.weights` beside itself; nothing else has to be copied.
"""


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The package's files by their place in it; raises `DeviceError` where zig is not there, or fails."""
    made = package.files(checkpoint, options)
    if not options.arch:
        return made
    row = ARCHITECTURES[options.arch]
    texts = {place: content for place, content in made.items() if isinstance(content, str)}
    try:
        with tempfile.TemporaryDirectory(prefix="minitx-") as folder:
            found = compiled(texts, options, row, Path(folder))
    except OSError as e:
        where = e.filename or tempfile.gettempdir()
        raise DeviceError(f"{where}: cannot be used ({e.strerror or e}); free space or set TMPDIR") from None
    first, heading, rest = texts["README.md"].partition("\n## ")
    return made | found | {"README.md": first + section(found, options, row) + heading + rest}


def compiled(texts: Mapping[str, str], options: package.Options, row: Architecture, folder: Path) -> dict[str, bytes]:
    """The command, the static library and the shared one by name."""
    system, name, notice = row.system, options.name, options.notice
    units, shared = package.units(row.machine, options.threads), system.shared.format(name)
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
    words = {"arch": options.arch, "system": row.system.title, "processor": row.processor, "name": options.name}
    return SECTION.format(rows="\n".join(rows), about=row.system.about, **words)
