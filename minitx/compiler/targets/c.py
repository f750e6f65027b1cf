"""A `Plan` as C: one file of functions, compiled once for each instruction set, and one that chooses among the sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..plan import Buffer, Call, Function, Plan

NAMES = {  # arguments that the runtime knows, as they stand in the generated functions
    "sizes": "run->sizes",
    "rows": "rows",
    "scratch": "run->scratch + run->scratch_stride * (size_t)thread",
    "thread": "thread",
    "threads": "run->threads",
    "null": "NULL",
}
TYPEDEF = re.compile(r"^typedef .*;\n", re.M)


# tinygrad writes for clang; what gcc has no name for.
PREAMBLE = """\
#include "kernels/kernels.h"
#include "runtime/runtime.h"
#ifndef __clang__
#define __builtin_bit_cast(T, x) ({ __typeof__(x) from_ = (x); T to_; memcpy(&to_, &from_, sizeof to_); to_; })
#endif
"""


def functions(plan: Plan) -> str:
    """The functions of a plan; `SET(name)` makes a name distinct for the instruction set."""
    typedefs = dict.fromkeys(line for text in plan.sources.values() for line in TYPEDEF.findall(text))
    bodies = [
        f"static {TYPEDEF.sub('', text).strip().replace('KERNEL', name)}\n" for name, text in plan.sources.items()
    ]
    attending = (call for f in plan.functions for call in f.calls if call.kernel.startswith("attend"))
    widths = {call.arguments[-4][1] for call in attending}  # head size stands before scratch, thread, threads
    largest = " ".join(f"bytes = larger(bytes, attend_scratch(keys, {width}));" for width in sorted(widths))
    return "\n".join(
        [
            PREAMBLE,
            *typedefs,
            *bodies,
            *(function(f) for f in plan.functions),
            "static size_t larger(size_t a, size_t b) { return a > b ? a : b; }",
            f"size_t SET(scratch)(int keys) {{ size_t bytes = 0; {largest} return bytes; }}",
            f"const Function SET(functions)[] = {{ {', '.join(f.name for f in plan.functions)} }};",
            "",
        ]
    )


def function(function: Function) -> str:
    """One function of the plan: every thread goes through all calls, with a barrier before each new stage."""
    lines, stage = [], 0
    external = {i: n for n, i in enumerate(externals(function.buffers))}
    for i, call in enumerate(function.calls):
        if call.stage != stage:
            lines.append(f"TIMED(run->times, {len(function.calls)}, team_wait(run->team));")
            stage = call.stage
        lines.append(f"TIMED(run->times, {i}, {statement(call, function.buffers, external)});")
    body = "\n".join(f"    {line}" for line in lines)
    return (
        f"static void {function.name}(const Run *run, int thread) {{\n"
        f"    const size_t rows = (size_t)run->sizes[ROWS];\n    uint8_t *w = (uint8_t *)run->weights;\n{body}\n}}\n"
    )


def externals(buffers: tuple[Buffer, ...]) -> list[int]:
    """The buffers that the caller gives, in the order in which it gives them."""
    return [i for i, b in enumerate(buffers) if b.role in ("input", "output", "state")]


def statement(call: Call, buffers: tuple[Buffer, ...], external: Mapping[int, int]) -> str:
    """A hand-written kernel divides its work among the threads; one of tinygrad's is done by the first."""

    def place(i: int) -> str:
        at: Buffer = buffers[i]
        if i in external:
            return f"run->buffers[{external[i]}]"
        return f"(void *)(w + {at.offset})" if at.role == "weight" else f"(void *)(run->arena + rows * {at.offset})"

    def argument(kind: str, value: Any) -> str:
        if kind == "buffer":
            return place(value)
        if kind == "name":
            return NAMES.get(value, str(value))
        return f"{value!r}f" if isinstance(value, float) else str(value)

    own = not any(value == "threads" for _, value in call.arguments)
    text = f"{call.kernel}({', '.join(argument(*a) for a in call.arguments)})"
    return f"if (thread == 0) {text}" if own else text


def sets(plan: Plan, supported: Mapping[str, str]) -> str:
    """The table of instruction sets, best first: their names, and the C expression that is true where one runs."""
    rows, parts = [], ['#include "runtime/runtime.h"\n']
    for name, expression in supported.items():
        parts.append(f"extern const Function functions_{name}[];\nsize_t scratch_{name}(int keys);")
        parts.append(f"static int supported_{name}(void) {{ return {expression}; }}")
        rows.append(f'    {{"{name}", supported_{name}, functions_{name}, scratch_{name}}},')
    arena = ", ".join(str(f.arena) for f in plan.functions)
    parts += ["const Set minitx_sets[] = {", *rows, "    {NULL, NULL, NULL, NULL}\n};"]
    return "\n".join([*parts, f"const size_t minitx_arena[] = {{ {arena} }};", layout(plan), ""])


def layout(plan: Plan) -> str:
    """Which of the step's buffers are what for a search."""
    _, step = plan.functions
    given = [step.buffers[i] for i in externals(step.buffers)]
    numbers = {b.name: n for n, b in enumerate(given)}
    named = ", ".join(f".{name} = {numbers.get(name, -1)}" for name in ("tokens", "sources", "ids", "scores", "slots"))
    cells = [f"{{{n}, {b.bytes}}}, " for n, b in enumerate(given) if b.role == "state" and b.extent == "rows"]
    return (
        f"static const Cell cells[] = {{ {''.join(cells)}{{-1, 0}} }};\n"
        f"const Layout minitx_layout = {{ {named}, .cells = cells, .vocabulary = {plan.config['target_vocab']} }};"
    )
