"""From a checkpoint to what the native engine opens: the compiled library, the packed weights, their description.

The description is the part of a model that is read at every start, and has all but the weights: JSON with `config`,
`generation`, `tokenizer`, `provenance` and perhaps `shortlist` as in the model's own file, and for each function of the
plan the buffers that its caller gives, in order. A shortlist's tables are a file of their own, read as it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..weights.checkpoint import Checkpoint, metadata
from . import weights
from .build import InstructionSet, Unit, build, instruction_sets, usable
from .packing import padded
from .sealed import Content, Files
from .store import DESCRIPTION, LIBRARY, SHORTLIST, WEIGHTS

if TYPE_CHECKING:
    from .plan import Plan

HERE = Path(__file__).parent
Notice = Callable[[str], object]


def files(checkpoint: Checkpoint, notice: Notice = lambda message: None) -> Files:
    """The files of an entry, by name; raises `DeviceError` where the compiler fails."""
    from .plan import plan

    notice("planning the model ...")
    planned = plan(checkpoint.config)
    made: dict[str, Content] = {
        LIBRARY: library(planned, notice),
        DESCRIPTION: json.dumps(describe(planned, checkpoint), ensure_ascii=False).encode(),
        WEIGHTS: lambda file: write_weights(planned, checkpoint, file),
    }
    return made | ({SHORTLIST: checkpoint.shortlist.to_bytes()} if checkpoint.shortlist else {})


def library(plan: Plan, notice: Notice = lambda message: None, sets: Sequence[InstructionSet] = ()) -> bytes:
    """The shared library of a plan, for these instruction sets: by default all that the compiler knows here."""
    return build(units(plan, sets or usable()), HERE, notice)


def units(plan: Plan, sets: Sequence[InstructionSet] = ()) -> list[Unit]:
    """The translation units of that library."""
    from .targets import c

    text, rows = c.functions(plan), sets or instruction_sets()
    made = [Unit(row.name, f"#define SET(name) name##_{row.name}\n{text}", row.flags) for row in rows]
    made.append(Unit("sets", c.sets(plan, {row.name: row.supported for row in rows}), ()))
    return [*made, *(Unit(f.stem, f.read_text(encoding="utf-8")) for f in sorted((HERE / "runtime").glob("*.c")))]


def write_weights(plan: Plan, checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """The packed weights, each at its place; one at a time, so that no second copy of all is ever in memory."""
    start = file.tell()
    for weight, offset in plan.weights:
        file.write(b"\0" * (start + offset - file.tell()))
        data = weights.pack(weight, checkpoint)
        assert data.nbytes == weight.bytes, (weight, data.nbytes)
        file.write(np.ascontiguousarray(data).data)
    file.write(b"\0" * (start + padded(plan.weight_bytes, 64) - file.tell()))


def describe(plan: Plan, checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a start needs to know, as JSON."""
    return {**metadata(checkpoint), "functions": interfaces(plan)}


def interfaces(plan: Plan) -> dict[str, dict[str, dict[str, Any]]]:
    """The buffers that the caller of each function gives, by name, in order."""
    from .targets.c import externals

    return {
        f.name: {
            b.name: {"role": b.role, "bytes": b.bytes, "extent": b.extent}
            for b in (f.buffers[i] for i in externals(f.buffers))
        }
        for f in plan.functions
    }
