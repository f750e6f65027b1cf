"""From a checkpoint to what the native engine opens: the compiled library, the packed weights, their description.

The description is the part of a model that is read at every start, and has all but the weights: JSON with `config`,
`generation`, `tokenizer` and `provenance` as in the model's own file, and for each function of the plan the buffers
that its caller gives, in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..weights.checkpoint import Checkpoint, metadata
from ..nn.matrix import scheme
from . import weights
from .build import Unit, build, instruction_sets
from .packing import padded

if TYPE_CHECKING:
    from .plan import Plan

HERE = Path(__file__).parent
LIBRARY, WEIGHTS, DESCRIPTION = "library.so", "weights.bin", "model.json"
Notice = Callable[[str], object]


def files(checkpoint: Checkpoint, notice: Notice = lambda message: None) -> dict[str, bytes | Callable[[IO[bytes]], None]]:
    """The files of an entry, by name; raises `DeviceError` where the compiler fails."""
    from .plan import plan

    notice("planning the model ...")
    config = checkpoint.config
    planned = plan(config, lambda name, shape: scheme(name, shape, config))
    return {
        LIBRARY: library(planned, notice),
        DESCRIPTION: json.dumps(describe(planned, checkpoint), ensure_ascii=False).encode(),
        WEIGHTS: lambda file: write_weights(planned, checkpoint, file),
    }


def library(plan: Plan, notice: Notice = lambda message: None) -> bytes:
    """The shared library of a plan, with its code for every instruction set of this kind of machine."""
    from .targets import c

    text, rows = c.functions(plan), instruction_sets()
    units = [Unit(row.name, f"#define SET(name) name##_{row.name}\n{text}", row.flags) for row in rows]
    units.append(Unit("sets", c.sets(plan, {row.name: row.supported for row in rows}), ()))
    units.append(Unit("runtime", (HERE / "runtime" / "runtime.c").read_text(encoding="utf-8"), ()))
    return build(units, HERE, notice)


def write_weights(plan: Plan, checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """The packed weights, each at its place; one at a time, so that no second copy of all is ever in memory."""
    for weight, offset in plan.weights:
        file.write(b"\0" * (offset - file.tell()))
        data = weights.pack(weight, checkpoint)
        assert data.nbytes == weight.bytes, (weight, data.nbytes)
        file.write(np.ascontiguousarray(data).data)
    file.write(b"\0" * (padded(plan.weight_bytes, 64) - file.tell()))


def describe(plan: Plan, checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a start needs to know, as JSON."""
    from .targets.c import externals

    functions = {
        f.name: {
            b.name: {"role": b.role, "bytes": b.bytes, "extent": b.extent}
            for b in (f.buffers[i] for i in externals(f.buffers))
        }
        for f in plan.functions
    }
    return {**metadata(checkpoint), "functions": functions}
