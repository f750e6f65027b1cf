"""A model as a `Plan`: what is computed, in which order, in which memory; plain data that every target renders.

Each function of the model (`encode`, `step`) is scheduled by tinygrad once, on its device NULL, for any number of
rows: nothing runs, no weight is read and no compiler is needed. Axes: C channels.

| function | rows are                        | given                                      | gives                    |
|----------|---------------------------------|--------------------------------------------|--------------------------|
| encode   | tokens of all sentences, packed | tokens, positions, starts of the sentences | keys, values by layer    |
| step     | hypotheses, one token each      | tokens, sources, starts, slots, the state  | ids, scores, the state   |

With a shortlist both are also given `candidates`, the target tokens that any of the sentences allows; `encode` gives
the rows of the output matrix that these are, `step` reads them, and is given by sentence which are `allowed`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen import to_program
from tinygrad.engine.realize import get_call_arg_uops
from tinygrad.uop.ops import Ops

from ..config import Config
from ..nn.transformer import Transformer
from .forms import MAX_ROWS, Graph, Packed, Sources, swap
from .packing import padded
from .render import kernels, launch_size, renderer
from .weights import PLAIN, Weight

ALIGNMENT = 64  # bytes, of everything in memory


@dataclass(frozen=True)
class Buffer:
    """A piece of memory that calls read and write.

    | role   | where it is, and how large                                                           |
    |--------|--------------------------------------------------------------------------------------|
    | weight | at `offset` of the weights                                                           |
    | arena  | at rows * `offset` of the arena, rows * `bytes` large                                |
    | input  | the caller's: integers, as many as there are tokens, rows or sentences               |
    | output | the caller's: `bytes` for each row, or for each candidate (chosen)                   |
    | state  | the caller's, kept from step to step: `bytes` for each of what `extent` names: rows, |
    |        | source tokens (source), rows at each time (cache), or candidates (chosen)            |
    """

    name: str
    role: str
    bytes: int
    offset: int = 0
    extent: str = "rows"


@dataclass(frozen=True)
class Call:
    """One kernel: a name of `Function.sources` or a hand-written one, and its arguments.

    An argument is the number of a buffer (`["buffer", 3]`), a constant (`["value", 512]`), or a name that the runtime
    knows (`["name", "sizes"]`). Calls of one `stage` may run beside each other. On a GPU the kernel is launched as
    `groups` of its own size in three dimensions: numbers, names of variables, or `[operation, a, b]` of such.
    """

    kernel: str
    arguments: tuple[tuple[str, Any], ...]
    stage: int
    writes: tuple[int, ...]
    groups: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Function:
    """A function of the model: its calls in order, in their buffers. `arena` is in bytes for each row."""

    name: str
    buffers: tuple[Buffer, ...]
    calls: tuple[Call, ...]
    arena: int


@dataclass(frozen=True)
class Plan:
    """All that a target needs to know of a model but the bytes of its weights."""

    config: dict[str, Any]
    functions: tuple[Function, ...]
    sources: dict[str, str]  # of tinygrad's kernels, in C or WGSL, by the name that calls have for them
    weights: tuple[tuple[Weight, int], ...]  # and where each lies
    weight_bytes: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def plan(config: Config) -> Plan:
    """The plan of a model, its matrices stored as the config says."""
    planned = [planner(config) for planner in (plan_encode, plan_step)]
    weights = sorted({w for graph, *_ in planned for w in graph.weights}, key=lambda w: (w.kind, w.name))
    places, size = {}, 0
    for weight in weights:
        places[weight] = size
        size += padded(weight.bytes, ALIGNMENT)
    sources: dict[str, str] = {}
    functions = [
        assemble(graph.weights, name, outputs, named, places, sources) for graph, name, outputs, named in planned
    ]
    return Plan(config.to_dict(), tuple(functions), sources, tuple(places.items()), size)


Named = dict[str, tuple[Tensor, str, str]]  # a buffer by its name: its tensor, role and extent


def plan_encode(config: Config) -> tuple[Graph, str, list[Tensor], Named]:
    """The encoder over packed sentences, and the keys and values that the decoder makes of what it gives."""
    integers = {name: table() for name in ("tokens", "positions", "starts", "candidates")}
    graph = Graph(config, integers)
    model = swap(Transformer(config, "NULL", seed=None), graph)
    memory = model.encode(integers["tokens"], Packed(graph, integers["starts"]))
    given: Named = {name: (tensor, "input", "rows") for name, tensor in integers.items()}
    outputs: Named = {}
    for i, layer in enumerate(model.decoder.layers):
        for part, tensor in zip("kv", layer.cross.keys_values(memory), strict=True):
            outputs[f"{i}.cross.{part}"] = graph.whole(tensor), "output", "rows"
    output: Any = model.output
    outputs |= {name: (tensor, "output", "chosen") for name, tensor in output.chosen().items()}
    plain(graph, model)
    return graph, "encode", [tensor for tensor, *_ in outputs.values()], given | outputs


def plan_step(config: Config) -> tuple[Graph, str, list[Tensor], Named]:
    """One token of every hypothesis, to the likeliest next ones."""
    integers = {name: table() for name in ("tokens", "sources", "starts", "slots", "candidates")}
    integers["allowed"] = table(dtypes.uint16)
    graph = Graph(config, integers)
    model = Transformer(config, "NULL", seed=None)
    shapes = model.decoder.shapes(1, 1, 1)
    model = swap(model, graph)
    given: Named = {name: (tensor, "input", "rows") for name, tensor in integers.items()}
    cache: dict[str, Any] = {"slots": integers["slots"]}
    cache["mask"] = Sources(graph, integers["sources"], integers["starts"])
    for name, shape in shapes.items():
        if name == "mask":
            continue
        extent = "source" if ".cross." in name else "cache" if ".self." in name else "rows"
        width = shape[-1] * (shape[1] if len(shape) == 4 else 1)  # heads * head size, or channels
        whole = graph.buffer(width)
        given[name] = whole, "state", extent
        if extent == "rows":
            rows = graph.take(whole)
            cache[name] = rows.squeeze(1)
        else:
            cache[name] = whole if extent == "cache" else graph.take(whole)
    _, after = model.decode_step(integers["tokens"], cache, 0)
    changed = [t for name, t in after.items() if name in given and t is not cache[name]]
    plain(graph, model)
    given |= {name: (tensor, "output", "rows") for name, tensor in graph.outputs.items()}
    given |= {name: (tensor, "state", "chosen") for name, tensor in graph.shortlist.items()}
    return graph, "step", [*graph.outputs.values(), *changed], given


def table(dtype: Any = dtypes.int32) -> Tensor:
    """A buffer of integers that the caller gives."""
    return Tensor.empty(MAX_ROWS, dtype=dtype, device="NULL")


def plain(graph: Graph, model: Transformer) -> None:
    """Registers the weights that are left to tinygrad's own kernels."""
    for name, tensor in model.parameters().items():
        rows, *rest = (int(n) for n in tensor.shape)
        graph.weights.setdefault(Weight(name, PLAIN, "none", rows, rest[0] if rest else 1), tensor)


def root(uop: UOp) -> UOp:
    """The buffer that an argument of a call is."""
    while uop.op is not Ops.BUFFER:
        uop = uop.src[0]
    return uop


@dataclass(frozen=True)
class Renderer:
    """How `assemble` writes kernels: a row of `render.TARGETS`, and how it counts memory."""

    target: str
    rows: int  # those that a buffer has in the graph: its size is given for one of so many
    alignment: int  # bytes, of the buffers in the arena
    buffers: int = 0  # that one kernel may have; 0: no limit
    tune: Callable[[UOp, Any], UOp] = lambda kernel, renderer: kernel  # gives a kernel the opts it is written with


C = Renderer("clang", MAX_ROWS, ALIGNMENT)


def assemble(
    weights: Mapping[Weight, Tensor],
    name: str,
    outputs: list[Tensor],
    named: Named,
    places: Mapping[Weight, int],
    sources: dict[str, str],
    by: Renderer = C,
) -> Function:
    """The function whose outputs these are; tinygrad's kernels are added to `sources`."""
    known = {root(t.uop): (n, role, extent) for n, (t, role, extent) in named.items()}
    packed = {root(t.uop): w for w, t in weights.items()}
    to = renderer(by.target)
    buffers: list[Buffer] = []
    numbers: dict[UOp, int] = {}
    calls: list[Call] = []

    def number(uop: UOp) -> int:
        base = root(uop)
        if base not in numbers:
            numbers[base] = len(buffers)
            size = int(base.max_numel()) * base.dtype.itemsize
            if base in packed:
                buffers.append(Buffer(packed[base].name, "weight", packed[base].bytes, places[packed[base]]))
            elif base in known:
                label, role, extent = known[base]
                buffers.append(Buffer(label, role, size // by.rows, extent=extent))
            else:
                buffers.append(Buffer(f"arena{len(buffers)}", "arena", padded(size // by.rows, by.alignment)))
        return numbers[base]

    for call in kernels(*outputs, buffers=by.buffers):
        arguments = [number(u) for u in get_call_arg_uops(call)]
        if call.src[0].op is Ops.PROGRAM:
            calls.append(handwritten(call.src[0], arguments))
        else:
            calls.append(rendered(to_program(by.tune(call.src[0], to), to), arguments, sources))
    staged = stages(calls)
    arena, offsets = allocate(buffers, staged)
    placed = [dataclasses.replace(b, offset=offsets.get(i, b.offset)) for i, b in enumerate(buffers)]
    return Function(name, tuple(placed), tuple(staged), arena)


def handwritten(program: UOp, arguments: list[int]) -> Call:
    """The call of a hand-written kernel, from what `Graph.call` noted."""
    kernel, outputs, given = json.loads(program.src[2].arg)

    def argument(value: Any) -> tuple[str, Any]:
        if isinstance(value, dict):
            return "buffer", arguments[value["buffer"]]
        return ("name", value) if isinstance(value, str) else ("value", value)

    both = [*map(argument, given), ("name", "thread"), ("name", "threads")]
    return Call(kernel, tuple(both), 0, tuple(arguments[:outputs]))


def rendered(program: UOp, arguments: list[int], sources: dict[str, str]) -> Call:
    """The call of a kernel that tinygrad wrote. One source is one kernel, whatever its name."""
    text, info = program.src[2].arg, program.arg
    groups = tuple(launch_size(size) for size in info.global_size) if info.local_size else ()
    source = text.replace(info.function_name, "KERNEL")
    kernel = next((k for k, s in sources.items() if s == source), f"fused{len(sources)}")
    sources[kernel] = source
    given = {slot: ("buffer", arguments[slot]) for slot in info.globals}
    given |= {v.arg.slot: ("name", v.expr) for v in info.vars}
    both = tuple(given[slot] for slot in sorted(given))
    return Call(kernel, both, 0, tuple(arguments[o] for o in info.outs), groups)


def stages(calls: list[Call]) -> list[Call]:
    """The calls with their stages: a call waits for what it reads, and for those that read what it overwrites."""
    stage, staged = 0, []
    read: set[int] = set()
    written: set[int] = set()
    for call in calls:
        used = {value for kind, value in call.arguments if kind == "buffer"}
        if used & written or set(call.writes) & read:
            stage, read, written = stage + 1, set(), set()
        read |= used
        written |= set(call.writes)
        staged.append(dataclasses.replace(call, stage=stage))
    return staged


def allocate(buffers: list[Buffer], calls: list[Call]) -> tuple[int, dict[int, int]]:
    """Bytes of the arena and the offset of each buffer in it, both for each row: first fit, by lifetimes in stages."""
    life: dict[int, tuple[int, int]] = {}
    for call in calls:
        for kind, i in call.arguments:
            if kind == "buffer" and buffers[i].role == "arena":
                life[i] = life.get(i, (call.stage, 0))[0], call.stage
    placed: dict[int, tuple[int, int]] = {}
    for i in sorted(life, key=lambda i: -buffers[i].bytes):
        first, last = life[i]
        taken = sorted(span for j, span in placed.items() if life[j][0] <= last and first <= life[j][1])
        offset = 0
        for begin, end in taken:
            if offset + buffers[i].bytes <= begin:
                break
            offset = max(offset, end)
        placed[i] = offset, offset + buffers[i].bytes
    return max((end for _, end in placed.values()), default=0), {i: begin for i, (begin, _) in placed.items()}
