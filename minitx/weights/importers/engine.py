"""What every family needs: a YAML text read with care, and tensors renamed and compared by a table, both ways."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import FileError, differences
from ...paths import map_file
from ..checkpoint import damaged

Array = np.ndarray[Any, Any]
YAML_CAP = 1 << 16  # bytes; the configurations of real models have one or two thousand


@dataclass(frozen=True)
class Layout:
    """How a source stores a weight: its shape there from the shape here, and the array here from the one there."""

    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    array: Callable[[Array], Array]


LAYOUTS = {
    "same": Layout(lambda s: s, lambda a: a),  # (out, in), and embeddings (V, C)
    "transposed": Layout(lambda s: s[::-1], lambda a: a.T),  # (in, out)
    "row": Layout(lambda s: (1, *s), lambda a: a[0]),  # a vector as a matrix of one row
}


class PlainLoader(yaml.SafeLoader):
    """YAML's plain data without aliases, which could stand for exponentially much."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def read_yaml(data: bytes, where: str) -> dict[Any, Any]:
    """The mapping that a YAML text is; raises `FileError` for anything else."""
    if len(data) > YAML_CAP:
        raise FileError(f"{where}: {len(data)} bytes are too many for a configuration; is it the right file?")
    try:
        values = yaml.load(data.decode(), PlainLoader)
    except Exception as e:  # PyYAML lets a dozen kinds through: an `!!int ""` is an IndexError
        raise damaged(where, f"is not plain YAML ({' '.join(str(e).split())[:80]})") from None
    if not isinstance(values, dict):
        raise damaged(where, "is not a mapping of options")
    return values


def show(value: Any) -> str:
    """A short text for any value of a YAML file, even an integer of ten thousand digits."""
    try:
        return repr(value)[:60]
    except ValueError:
        return "a number too long to show"


Supported = Mapping[str, tuple[Any, tuple[Any, ...]]]  # an option: its default, and the values that minitx computes


def beyond(options: Mapping[Any, Any], supported: Supported) -> list[str]:
    """Every option whose value minitx does not compute."""
    found = []
    for name, (default, values) in supported.items():
        value = options.get(name, default)
        if not any(type(value) is type(v) and value == v for v in values):
            found.append(f"{name} {show(value)} (only {' or '.join(map(repr, values))})")
    return found


def convert(
    expected: Mapping[str, tuple[int, ...]],
    rename: Mapping[str, tuple[str, str]],
    found: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Array],
    where: str,
) -> dict[str, Array]:
    """The weights under minitx's names: `rename` says for each of `expected` its name there and its layout.

    `found` are the shapes in the source, less what is dropped on purpose. Raises one `FileError` that names what is
    missing, what nobody asked for, and what has another shape.
    """
    theirs = {name: (rename[name][0], LAYOUTS[rename[name][1]]) for name in expected}
    wanted = {name: layout.shape(expected[ours]) for ours, (name, layout) in theirs.items()}
    if problems := differences("tensors", wanted, found):
        raise FileError(f"{where}: {'; '.join(problems)}; the file and its own configuration disagree")
    weights = {}
    for ours, (name, layout) in theirs.items():
        weights[ours] = np.ascontiguousarray(layout.array(read(name)), np.float32)
        weights[ours].flags.writeable = False
    return weights


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, for the provenance."""
    data = map_file(path)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def plain(path: Path) -> str:
    """The last part of a path, as text that JSON can hold whatever its bytes are."""
    return os.fsencode(path.name).decode(errors="replace")
