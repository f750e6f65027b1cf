"""The engines of minitx as a worker holds them, and which of them a run measures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .turns import Tokens, most_memory

NEVER = 1 << 24  # an end that no vocabulary has: a search goes on until it has made all the steps that are asked for
SLOW = ("PYTHON",)  # backends that are measured only where they are named
PLAIN = ("none", "int8", "int4")  # what a model stored in float32 is measured at


@dataclass(frozen=True)
class Asked:
    """What a worker loads: a model as `minitx.load` takes it, and the instruction set, "" for the best one."""

    model: str
    engine: str
    device: str
    quantize: str | None
    threads: int
    instruction_set: str = ""
    shortlist: bool = True

    @property
    def name(self) -> str:
        """What a row of the report is called, without its precision."""
        if self.engine != "native":
            return f"tinygrad {self.device}"
        return f"native {self.instruction_set}".strip()

    @property
    def environment(self) -> dict[str, str]:
        return {"MINITX_INSTRUCTION_SET": self.instruction_set} if self.instruction_set else {}


class EnginePeer:
    """A model on one of minitx's engines. Nothing of it is imported before it is built: that is a part of the load."""

    def __init__(self, asked: Asked):
        from ..model import load

        self.model = load(
            asked.model,
            device=asked.device,
            engine=asked.engine,
            threads=asked.threads if asked.engine == "native" else None,
            quantize=asked.quantize,
            shortlist=asked.shortlist,
            warn=lambda message: None,
        )
        self.model.generation = dataclasses.replace(self.model.generation, end=NEVER)

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        found = self.model.generate(sources, beam=beam, max_length=steps, batch_size=len(sources))
        return [list(best[0].tokens) for best in found]

    def memory(self) -> int:
        return most_memory()

    def facts(self) -> dict[str, Any]:
        """The precision, the bytes of the weights, and for the native engine its instruction set and their digest."""
        from ..engines.native import NativeEngine

        engine, checkpoint = self.model.engine, self.model.checkpoint
        told: dict[str, Any] = {"precision": precision(checkpoint.config.quantization)}
        if isinstance(engine, NativeEngine):
            library = engine.library
            return told | {
                "weights": library.weight_bytes,
                "instruction_set": library.instruction_set,
                "digest": hashlib.sha256(library.weights).hexdigest(),
            }
        return told | {"weights": sum(w.nbytes for w in checkpoint.weights.values())}


def precision(quantization: str) -> str:
    """A row of QUANTIZATIONS as a report names it."""
    return "f32" if quantization == "none" else quantization


def precisions(stored: str, named: Sequence[str]) -> list[str]:
    """The rows of QUANTIZATIONS that are measured of a model that is stored by one of them."""
    return list(named) or (list(PLAIN) if stored == "none" else [stored])


def choose(
    common: Asked,
    stored: str,
    quantize: Sequence[str],
    engines: Sequence[str],
    devices: Sequence[str],
    sets: Sequence[str],
) -> list[Asked]:
    """What is measured: the native engine at each precision and instruction set, the tinygrad engine on each device.

    The latter at the precision that the model is stored at, unless others are named: it is far slower.
    """
    found = []
    if "native" in engines:
        for quantization in precisions(stored, quantize):
            for name in sets or [""]:
                found.append(dataclasses.replace(common, quantize=quantization, instruction_set=name))
    if "jit" in engines:
        for device in devices:
            for quantization in quantize or [stored]:
                found.append(dataclasses.replace(common, engine="jit", device=device, quantize=quantization))
    return found
