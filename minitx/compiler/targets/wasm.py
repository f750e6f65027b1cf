"""A model as a folder for browsers and Node: the C package's sources compiled to WebAssembly, a JavaScript module over
them, a page, and the C package's file of weights.

The .wasm imports nothing: it has no allocator and no callback of its own. The module in package/web lays out its memory
and calls the functions of the C interface.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ...version import __version__
from ...weights.checkpoint import Checkpoint
from .. import entry
from ..content import Content
from ..cross import Architecture, Cross, System
from ..plan import plan
from . import package

WEB = entry.HERE / "package/web"
LINK: tuple[str, ...] = ("-mexec-model=reactor", "-s", "-rdynamic")
LINK += ("-Wl,--export=__heap_base", "-Wl,--export-table", "-Wl,--growable-table", "-Wl,-z,stack-size=131072")
SYSTEM = System("WebAssembly", "It imports nothing.", "", "", "{}.wasm", (), LINK)
# wasi's libc has pow and memcpy; nothing of it asks for a system
MACHINE = Architecture("wasm32-wasi", "wasm32", SYSTEM, "WebAssembly")
SMALL = ("-Os",)  # what is not hot
CHECKSUM = 3  # among the fields of a weight file's head
PAGE = ("index.html", "page.css", "page.js", "worker.js", "offline.js")  # the texts of package/web that have their name


@dataclass(frozen=True)
class Module:
    """A .wasm: what its file's name ends in, and flags for its kernels. package/web/module.js chooses among them."""

    what: str
    suffix: str
    flags: tuple[str, ...] = ()


MODULES = (Module("SIMD", ".wasm", ("-msimd128",)), Module("PLAIN", ".plain.wasm"))


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The package's files by their place in it. The weights have to be written first: texts name their checksum."""
    name, notice = options.name, options.notice
    notice("planning the model ...")
    planned = plan(checkpoint.config)
    words = package.words(checkpoint, replace(options, threads=1)) | {"MODEL_BYTES": f"{planned.weight_bytes:,}"}
    sources = {place: package.fill(text, words) for place, text in package.sources(planned, name, 1).items()}
    modules = compiled({**sources, "src/prefix.h": package.renames(package.identifier(name))}, notice)
    for row, module in zip(MODULES, modules.values(), strict=True):
        words |= {f"SIZE_{row.what}_GZIP": f"{len(gzip.compress(module)):,}", f"SIZE_{row.what}": f"{len(module):,}"}
    texts = {place: package.read(WEB / place) for place in PAGE}
    texts |= {f"{name}{suffix}": package.read(WEB / f"module{suffix}") for suffix in (".js", ".d.ts")}
    texts |= {"README.md": package.read(WEB / "README.in")}
    modules = {f"{name}{suffix}": module for suffix, module in modules.items()}
    described = description(name, words["MODEL_TITLE"], [f"{name}.weights", *modules, *texts])

    def weights(file: IO[bytes]) -> None:
        package.write_weights(planned, checkpoint, name, file)
        file.seek(0)
        words["MODEL_CHECKSUM"] = f"{package.HEAD.unpack(file.read(package.HEAD.size))[CHECKSUM]:016x}"

    def text(place: str) -> Callable[[IO[bytes]], object]:
        return lambda file: file.write(package.fill(texts[place], words).encode())

    return {f"{name}.weights": weights, **modules, **{place: text(place) for place in texts}, "package.json": described}


def compiled(sources: dict[str, str], notice: Callable[[str], object]) -> dict[str, bytes]:
    """A WebAssembly module of these sources for each row of MODULES."""
    units = [unit for unit in package.units(MACHINE.machine, 1) if unit.name not in ("file", "system")]
    (hot,) = (unit for unit in units if unit.name.startswith(package.FUNCTIONS))
    cold = [replace(unit, flags=(*unit.flags, *SMALL)) for unit in units if unit is not hot]
    each = [replace(hot, name=row.what, flags=(*hot.flags, *row.flags)) for row in MODULES]
    with tempfile.TemporaryDirectory(prefix="minitx-") as folder:
        cross = Cross(MACHINE, Path(folder))
        objects = cross.compile(sources, [*each, *cold], notice)
        own, common = objects[: len(each)], objects[len(each) :]
        return {row.suffix: cross.shared([o, *common], f"{row.what}.wasm") for row, o in zip(MODULES, own, strict=True)}


def description(name: str, title: str, files: list[str]) -> str:
    """package.json, for npm and bundlers."""
    module = {"types": f"./{name}.d.ts", "default": f"./{name}.js"}
    return json.dumps(
        {
            "name": re.sub(r"^[._]+", "", name.lower()),
            "version": __version__,
            "description": title,
            "type": "module",
            "exports": {".": module, f"./{name}.js": module, f"./{name}.weights": f"./{name}.weights"},
            "types": f"./{name}.d.ts",
            "files": files,
            "sideEffects": False,
        },
        indent=2,
    )
