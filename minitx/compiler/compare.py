"""How two plans differ, one of which comes from a file that may hold anything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import FileError, several
from ..paths import map_file
from .plan import Plan

LARGEST = 1 << 26  # bytes; the plan of a model of 100 layers has 3 MB
Data = dict[str, Any]


def read(path: str) -> Data:
    """The plan that `Plan.to_json` wrote to a file, as JSON holds it; raises `FileError` for anything else."""
    with contextlib.closing(map_file(path)) as file:
        data: Any = None
        if len(file) <= LARGEST:
            with contextlib.suppress(ValueError, RecursionError):
                data = json.loads(file[:])
    if not fits(data, Plan):
        raise FileError(f"{path}: is not a plan of this minitx; write one with minitx plan MODEL --out FILE")
    return dict(data)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is what `dataclasses.asdict` makes of a `kind`."""
    origin, of = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return isinstance(value, dict) and value.keys() == hints.keys() and all(fits(value[n], hints[n]) for n in hints)
    if origin is tuple and of[-1] is ...:
        return isinstance(value, list) and all(fits(item, of[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(of) and all(map(fits, value, of))
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, of[1]) for item in value.values())
    return kind is Any or type(value) is kind


def differences(old: Data, new: Data) -> list[str]:
    """What is different in the second of two plans, in a few lines of ASCII; none if they are equal."""
    told = [("config", changed(old["config"], new["config"]))]
    told.append(("kernels of tinygrad", changed(old["sources"], new["sources"], values=False)))
    functions = [{f["name"]: f for f in plan["functions"]} for plan in (old, new)]
    for name in dict.fromkeys([*functions[0], *functions[1]]):
        both = (f.get(name, {"buffers": [], "calls": [], "arena": 0}) for f in functions)
        told += [(name, what) for what in function_differences(*both)]
    told.append(("weights", number("bytes", old["weight_bytes"], new["weight_bytes"])))
    told.append(("weights", listed("places", old["weights"], new["weights"], lambda pair: pair[0]["name"])))
    lines = [f"{where}: {what}".encode("unicode_escape").decode() for where, what in told if what]
    return lines or (["something else"] if old != new else [])


def function_differences(old: Data, new: Data) -> list[str]:
    """Of one function: the kernels that it calls, how, its buffers and its arena; nothing for what is equal."""
    kernels = [Counter(call["kernel"] for call in f["calls"]) for f in (old, new)]
    counts = [{kernel: counted[kernel] for kernel in sorted(kernels[0] | kernels[1])} for counted in kernels]
    return [
        changed(counts[0], counts[1]),
        listed("calls", old["calls"], new["calls"], lambda call: call["kernel"]),
        listed("buffers", old["buffers"], new["buffers"], lambda buffer: buffer["name"]),
        number("arena bytes for each row", old["arena"], new["arena"]),
    ]


def changed(old: Mapping[str, Any], new: Mapping[str, Any], values: bool = True) -> str:
    """The keys whose values differ, and the values."""
    keys = [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]

    def value(of: Mapping[str, Any], key: str) -> str:
        return json.dumps(of[key])[:40] if key in of else "nothing"

    return several(f"{key[:40]} {value(old, key)} -> {value(new, key)}" if values else key[:40] for key in keys)


def number(what: str, old: int, new: int) -> str:
    return f"{what} {old:,} -> {new:,}" if old != new else ""


def listed(what: str, old: list[Any], new: list[Any], name: Callable[[Any], str]) -> str:
    """How many there are of what or, if as many, how many differ, and the first that does."""
    if len(old) != len(new):
        return f"{len(old)} -> {len(new)} {what}"
    differ = [i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    return f"{len(differ)} of {len(new)} {what}, the first {name(new[differ[0]])[:60]}" if differ else ""
