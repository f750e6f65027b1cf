"""How large a package is and how much memory it wants: it is made in a temporary folder, and its own library asked."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeviceError, InputError
from ..paths import map_file
from ..weights.checkpoint import Checkpoint
from . import export
from .content import Content, put
from .shared import shared
from .targets import package

CODE = (".so", ".dll", ".dylib", ".wasm")


@dataclass(frozen=True)
class Limits:
    """What a workspace is for: the most tokens of a source and of its translation, the most hypotheses."""

    source: int
    target: int
    beam: int


@dataclass(frozen=True)
class Workspace(Limits):
    """Bytes of it, with one thread."""

    bytes: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of a package: of each file, of the weights, of the code once it is compiled and stripped, of all the rest.

    `machine` says for which machine the code is. Where there is no compiler, `problem` says so, `code` is None and
    there are no workspaces. A workspace is that of this machine's best instruction set, whatever the code is for.
    """

    files: dict[str, int]
    weights: int
    code: int | None
    rest: int
    machine: str
    workspaces: list[Workspace]
    problem: str = ""


def parts(folder: Path, files: Mapping[str, int]) -> dict[str, int]:
    """Bytes of the weights, the code and the rest of what an export wrote, without its list; a wheel is looked into."""
    found = {"weights": 0, "code": 0, "rest": 0}
    for place, size in inside(folder, files).items():
        kind = "weights" if place.endswith(".weights") else "code" if place.endswith(CODE) else "rest"
        found[kind] += size
    return {kind: size for kind, size in found.items() if size}


def inside(folder: Path, files: Mapping[str, int]) -> dict[str, int]:
    """Files and their bytes, with those in a wheel in place of the wheel."""
    found: dict[str, int] = {}
    for place, size in files.items():
        if place.endswith(".whl"):
            with zipfile.ZipFile(folder / place) as wheel:
                found |= {entry.filename: entry.file_size for entry in wheel.infolist()}
        elif place != export.LIST:
            found[place] = size
    return found


def usual(checkpoint: Checkpoint) -> list[Limits]:
    """The limits that are told of unless others are asked for: of a common sentence, and those of `open` by default."""
    longest = checkpoint.config.max_length
    common = min(128, longest)
    return [Limits(common, common, 1), Limits(longest, longest, max(package.DEFAULT_BEAM, checkpoint.generation.beam))]


def measure(checkpoint: Checkpoint, target: str, options: package.Options, limits: Sequence[Limits] = ()) -> Footprint:
    """What an export would write, and the workspaces for these limits (by default the usual ones).

    Raises `InputError` for limits that the model cannot have.
    """
    wanted, longest = [*limits] or usual(checkpoint), checkpoint.config.max_length
    for own in wanted:
        if not (1 <= own.source <= longest and 1 <= own.target <= longest and 1 <= own.beam <= package.MAX_BEAM):
            right = f"must be 1 to {longest} tokens and a beam of 1 to {package.MAX_BEAM}"
            raise InputError(f"limits {own.source} {own.target} {own.beam}: {right}")
    with tempfile.TemporaryDirectory(prefix="minitx-") as temporary:
        folder = Path(temporary)
        files = export.files_of(checkpoint, target, options)
        sizes = export.write(files, folder / "made")
        told = parts(folder / "made", sizes)
        machine = options.arch or f"{platform.system()} {platform.machine()}"
        found = Footprint(sizes, told.get("weights", 0), told.get("code"), told.get("rest", 0), machine, [])
        try:
            packed = None if options.arch else of_wheel(folder)
            library, weights = packed or compiled(checkpoint, options, files, folder)
        except DeviceError as e:
            return dataclasses.replace(found, problem=str(e))
        spaces = workspaces(library, weights, package.identifier(options.name), wanted)
        code = found.code or library.stat().st_size
        return dataclasses.replace(found, weights=weights.stat().st_size, code=code, workspaces=spaces)


def of_wheel(folder: Path) -> tuple[Path, Path] | None:
    """The library and the weight file of a wheel in `folder`/made, if there is one."""
    for path in (folder / "made").glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            places = [name for name in wheel.namelist() if name.endswith((*CODE, ".weights"))]
            library, weights = sorted((Path(wheel.extract(place, folder)) for place in places), key=is_weights)
        return library, weights
    return None


def is_weights(path: Path) -> bool:
    return path.suffix == ".weights"


def compiled(
    checkpoint: Checkpoint, options: package.Options, files: Mapping[str, Content], folder: Path
) -> tuple[Path, Path]:
    """The library of the C package for this machine, and the weight file; `files` may be that package."""
    weights, plain = f"{options.name}.weights", package.Options(options.name, options.threads, options.notice)
    own = {"src/model.c", weights} <= files.keys() and plain == dataclasses.replace(options, arch="")
    made = files if own else package.files(checkpoint, plain)
    texts = {place: content for place, content in made.items() if isinstance(content, str)}
    library = shared(texts, options.threads, "", options.notice)
    put({f"library{library.suffix}": library.data, weights: made[weights]}, folder)
    return folder / f"library{library.suffix}", folder / weights


class CLimits(ctypes.Structure):
    """`limits` of package/interface.h."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("source", "target", "beam", "threads"))


def workspaces(library: Path, weights: Path, prefix: str, wanted: Sequence[Limits]) -> list[Workspace]:
    """What a compiled package says that it needs."""
    functions = ctypes.CDLL(str(library))
    message, ask = functions[f"{prefix}_message"], functions[f"{prefix}_workspace"]
    message.restype = ctypes.c_char_p
    data = np.frombuffer(map_file(weights), np.uint8)
    found = []
    for limits in wanted:
        own, size = CLimits(limits.source, limits.target, limits.beam, 1), ctypes.c_size_t()
        place = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(len(data))
        if error := ask(*place, ctypes.byref(own), ctypes.byref(size)):
            raise DeviceError(f"the compiled package does not say what it needs: {message(error).decode()}")
        found.append(Workspace(limits.source, limits.target, limits.beam, size.value))
    return found
