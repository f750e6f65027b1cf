"""The model with hand-written kernels in its place: the same modules, some of them swapped for native forms.

A native form has the interface of the module of `nn` that it stands for, and enters its kernel into tinygrad's graph
as a custom kernel: what has no native form stays tensor code, which tinygrad fuses. The model itself knows nothing
of it. A new native form is one row of FORMS.

Everything here is rows of one width: a tensor (rows, 1, C), where `rows` is the variable of the graph (tokens of all
sentences, packed without padding, in the encoder; hypotheses in the decoder). Its memory is a buffer (MAX_ROWS, 1, C),
of which the first `rows` are in use. Axes: C channels, K inputs and N outputs of a matrix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.uop.ops import KernelInfo, Ops

from ..config import Config
from ..nn.attention import Attention, SelfAttention
from ..nn.cache import Cache
from ..nn.embedding import Embedding, Output
from ..nn.feedforward import FeedForward
from ..nn.norm import LayerNorm, Residual
from ..nn.ops import Linear
from ..nn.positions import Sinusoidal
from ..nn.quant import output_place, scheme
from ..nn.transformer import Transformer
from .packing import PANEL, TOP_CHUNKS, TOP_MAX, TOP_STRIDE, packed_bytes, quantized_stride
from .weights import LOGIT_BIAS, MATRIX, TABLE, VECTOR, Weight

MAX_ROWS = 1 << 16
INTEGERS = ("int8", "int4")  # the rows of QUANTIZATIONS whose kernels take quantized activations
ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_tanh": "GELU_TANH", "silu": "SILU"}  # of kernels/linear.h
SIZES, SCRATCH, NULL = "sizes", "scratch", "null"  # arguments of a kernel that are no tensors


class Graph:
    """What the native forms share while one function of the model is planned: its rows, weights and kernels.

    `given` are the tables of integers that the caller of the function gives.
    """

    def __init__(self, config: Config, given: Mapping[str, Tensor]):
        self.rows = UOp.variable("rows", 1, MAX_ROWS)
        self.config, self.given = config, given
        self.weights: dict[Weight, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.quantizes = False  # whether any kernel takes quantized activations
        self._whole: dict[UOp, Tensor] = {}  # the buffer of which a tensor is the rows in use
        self._quantized: dict[UOp, Tensor] = {}  # by the tensor's own rows
        self.shortlist: dict[str, Tensor] = {}  # what `top` reads of the rows that were chosen
        self._embedded: dict[UOp, tuple[Any, ...]] = {}  # what `embed` was called with

    def buffer(self, width: int, dtype: Any = dtypes.float32) -> Tensor:
        return Tensor.empty(MAX_ROWS, 1, width, dtype=dtype, device="NULL")

    def take(self, whole: Tensor) -> Tensor:
        """The rows in use of a buffer."""
        view = whole[: self.rows]  # (rows, 1, C)
        self._whole[view.uop] = whole
        return view

    def whole(self, x: Tensor) -> Tensor:
        """The buffer that holds x (rows, 1, C), for a kernel to read: x is written to one if it is not there yet."""
        if x.uop not in self._whole:
            kept = self.buffer(int(x.shape[-1]))
            self._whole[x.uop] = Tensor(kept.uop.after(kept[: self.rows].uop.store(x.uop)))
        return self._whole[x.uop]

    def settled(self, x: Tensor) -> Tensor:
        """x as rows of a buffer, so that what comes after it does not compute it again."""
        return x if x.uop in self._whole else self.take(self.whole(x))

    def weight(self, weight: Weight) -> Tensor:
        """The packed bytes of a weight; the same tensor wherever it is used."""
        if weight not in self.weights:
            self.weights[weight] = Tensor.empty(weight.bytes, dtype=dtypes.uint8, device="NULL")
        return self.weights[weight]

    def matrix(self, name: str, outputs: int, inputs: int) -> Weight:
        row = scheme(name, (outputs, inputs), self.config)
        self.quantizes |= row in INTEGERS
        return Weight(name, MATRIX, row, outputs, inputs)

    def call(self, kernel: str, outputs: list[Tensor], inputs: list[Tensor], *arguments: object) -> list[Tensor]:
        """Enters a kernel; what it writes, after it. An argument that is a tensor must be among outputs or inputs."""
        buffers = [*outputs, *inputs]
        places = {t.uop: i for i, t in enumerate(buffers)}
        given = [{"buffer": places[a.uop]} if isinstance(a, Tensor) else a for a in arguments]
        spec = json.dumps([kernel, len(outputs), given])

        def program(*placeholders: UOp) -> UOp:
            sink = UOp.sink(*[p.base for p in placeholders], arg=KernelInfo(kernel))
            return UOp(
                Ops.PROGRAM,
                src=(
                    sink,
                    UOp(Ops.LINEAR, src=(*sink.src, sink)),
                    UOp(Ops.SOURCE, arg=spec),
                    UOp(Ops.BINARY, arg=b""),
                ),
            )

        written: list[Tensor] = Tensor.custom_kernel(*buffers, fxn=program)[: len(outputs)]
        return written

    def quantized(self, x: Tensor) -> Tensor:
        """The rows of x as int8 with a scale each, made once for all that take them."""
        if x.uop not in self._quantized:
            width, source = int(x.shape[-1]), self.whole(x)
            q = self.buffer(quantized_stride(width), dtypes.uint8)
            (self._quantized[x.uop],) = self.call("quantize", [q], [source], q, source, SIZES, width)
        return self._quantized[x.uop]

    def operand(self, x: Tensor, weight: Weight) -> Tensor:
        """x as the kernel of a matrix takes it."""
        return self.quantized(x) if weight.scheme in INTEGERS else self.whole(x)

    def linear(self, x: Tensor, weight: Weight, bias: Weight | None, activation: str = "IDENTITY") -> Tensor:
        source, w, y = self.operand(x, weight), self.weight(weight), self.buffer(weight.rows)
        b = self.weight(bias) if bias else None
        inputs = [source, w, *([b] if b is not None else [])]
        arguments = (y, source, w, b if b is not None else NULL, SIZES, weight.columns, weight.rows, activation)
        return self.take(self.call(f"linear_{kernel_name(weight)}", [y], inputs, *arguments)[0])

    def layernorm(self, x: Tensor, gain: Weight, bias: Weight, epsilon: float) -> Tensor:
        """The norm of x, which may be a sum of two that are not added yet; its quantized rows come along."""
        width = int(x.shape[-1])
        summands = [self._whole.get(u) for u in x.uop.src] if x.uop.op is Ops.ADD else [None]
        both = [t for t in summands if t is not None]
        sources = both if len(both) == 2 else [self.whole(x)]
        y, g, b = self.buffer(width), self.weight(gain), self.weight(bias)
        q = [self.buffer(quantized_stride(width), dtypes.uint8)] if self.quantizes else []
        add = sources[1] if len(sources) == 2 else NULL
        arguments = (y, q[0] if q else NULL, sources[0], add, g, b, SIZES, width, epsilon)
        made = self.call("layernorm", [y, *q], [*sources, g, b], *arguments)
        view = self.take(made[0])
        if q:
            self._quantized[view.uop] = made[1]
        return view

    def embed(self, tokens: Tensor, weight: Weight, scale: float, table: Weight | None = None) -> Tensor:
        """Rows of a matrix, times a factor, plus those of a table at the positions, which are given or the step's."""
        y, w = self.buffer(weight.columns), self.weight(weight)
        rows = [self.weight(table)] if table else []
        places = [self.given["positions"]] if table and "positions" in self.given else []
        arguments = (y, tokens, *(places or [NULL]), w, *(rows or [NULL]), SIZES, weight.columns, weight.rows, scale)
        (y,) = self.call(f"embed_{kernel_name(weight)}", [y], [tokens, w, *rows, *places], *arguments)
        view = self.take(y)
        self._embedded[view.uop] = (tokens, weight, scale)
        return view

    def embedded(self, x: Tensor) -> tuple[Any, ...] | None:
        """What x was embedded from, if nothing was done to it since."""
        return self._embedded.get(x.uop)

    def chosen(self, weight: Weight) -> dict[str, Tensor]:
        """Room for the rows of a matrix that a shortlist allows, and for what its bias has for them."""
        width = packed_bytes(weight.scheme, PANEL, weight.columns) // PANEL
        return {"chosen.weight": self.buffer(width, dtypes.uint8), "chosen.bias": self.buffer(1)}

    def choose(self, weight: Weight, bias: Weight) -> dict[str, Tensor]:
        """These rows, which are the graph's `candidates`."""
        made, inputs = self.chosen(weight), [self.weight(weight), self.weight(bias), self.given["candidates"]]
        arguments = (*made.values(), *inputs, SIZES, weight.columns, weight.rows)
        after = self.call(f"choose_{kernel_name(weight)}", list(made.values()), inputs, *arguments)
        return dict(zip(made, after, strict=True))

    def top(self, x: Tensor, weight: Weight, bias: Weight) -> None:
        """The likeliest outputs, without a row of logits in memory: the graph's outputs `ids` and `scores`."""
        self.shortlist = self.chosen(weight)
        shortlist = [*self.shortlist.values(), self.given["allowed"], self.given["sources"]]
        inputs = [self.operand(x, weight), self.weight(weight), self.weight(bias), *shortlist]
        partial = self.buffer(TOP_CHUNKS * TOP_STRIDE, dtypes.uint8)
        arguments = (partial, *inputs, SIZES, weight.columns, weight.rows)
        (partial,) = self.call(f"top_{kernel_name(weight)}", [partial], inputs, *arguments)
        ids, scores = self.buffer(TOP_MAX, dtypes.int32), self.buffer(TOP_MAX)
        inputs = [partial, self.given["candidates"]]
        ids, scores = self.call("top_merge", [ids, scores], inputs, ids, scores, *inputs, SIZES)
        self.outputs |= {"ids": ids, "scores": scores}


def kernel_name(weight: Weight) -> str:
    return "f32" if weight.scheme == "none" else weight.scheme


class Packed:
    """Stands where the encoder's mask does: sentence i is the tokens from starts[i] to starts[i + 1]."""

    def __init__(self, graph: Graph, starts: Tensor):
        self.graph, self.starts = graph, starts

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        return attend(self.graph, "attend_encoder", query, [key, value, self.starts], heads)[0]


class Sources:
    """Stands where the decoder's mask does: row i looks at sentence sources[i] of the packed keys and values."""

    def __init__(self, graph: Graph, sources: Tensor, starts: Tensor):
        self.graph, self.sources, self.starts = graph, sources, starts

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        return attend(self.graph, "attend_cross", query, [key, value, self.sources, self.starts], heads)[0]


def attend(
    graph: Graph, kernel: str, query: Tensor, others: list[Tensor], heads: int, kept: tuple[Tensor, ...] = ()
) -> list[Tensor]:
    """Enters a kernel of attention over rows: keys, values, and tables of integers are `others`; `kept` is written.

    Arguments are in the kernel's order: query, key, value, what is kept, the tables. Gives the result, and `kept`
    after it.
    """
    width = int(query.shape[-1])
    whole = [graph.whole(t) if t.dtype == dtypes.float32 and len(t.shape) == 3 else t for t in (query, *others)]
    y = graph.buffer(width)
    arguments = (*whole[:3], *kept, *whole[3:], SIZES, heads, width // heads, SCRATCH)
    made, *after = graph.call(kernel, [y, *kept], whole, y, *arguments)
    return [graph.take(made), *after]


class NativeLinear:
    def __init__(self, graph: Graph, name: str, module: Linear, model: Transformer):
        self._graph = graph
        outputs, inputs = (int(n) for n in module.weight.shape)
        self.weight = graph.matrix(f"{name}.weight", outputs, inputs)
        self.bias = None if module.bias is None else Weight(f"{name}.bias", VECTOR, "none", outputs)

    def __call__(self, x: Tensor, activation: str = "IDENTITY") -> Tensor:
        return self._graph.linear(x, self.weight, self.bias, activation)


class NativeNorm:
    def __init__(self, graph: Graph, name: str, module: LayerNorm, model: Transformer):
        self._graph, self.epsilon = graph, module.epsilon
        size = int(module.weight.shape[0])
        self.weight, self.bias = (Weight(f"{name}.{part}", VECTOR, "none", size) for part in ("weight", "bias"))

    def __call__(self, x: Tensor) -> Tensor:
        return self._graph.layernorm(x, self.weight, self.bias, self.epsilon)


class NativeResidual:
    """The residual connection of the model, its result settled."""

    def __init__(self, graph: Graph, name: str, module: Residual, model: Transformer):
        self._graph, self._module = graph, module

    def __call__(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self._graph.settled(self._module(x, sublayer))


class NativeFeedForward:
    def __init__(self, graph: Graph, name: str, module: FeedForward, model: Transformer):
        self._module, self._activation = module, ACTIVATIONS.get(model.config.activation)

    def __call__(self, x: Tensor) -> Tensor:
        up: Any = self._module.up
        return self._module.down(up(x, self._activation)) if self._activation else self._module(x)


class NativeAttention:
    """`Attention`, and the decoder's `SelfAttention`, over rows: nothing is split or transposed."""

    def __init__(self, graph: Graph, name: str, module: Attention, model: Transformer):
        self._graph, self._module, self.heads = graph, module, module.heads

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self._module.key(memory), self._module.value(memory)

    def __call__(self, x: Tensor, key: Tensor, value: Tensor, mask: Packed | Sources) -> Tensor:
        return self._module.output(mask.attend(self._module.query(x), key, value, self.heads))

    def step(self, x: Tensor, cache: Cache, layer: int, position: Any) -> Tensor:
        names, slots = (f"{layer}.self.k", f"{layer}.self.v"), cache["slots"]
        key, value = self.keys_values(x)
        kept = tuple(cache[name] for name in names)
        y, *after = attend(self._graph, "attend_step", self._module.query(x), [key, value, slots], self.heads, kept)
        cache |= dict(zip(names, after, strict=True))
        return self._module.output(y)


class NativeEmbedding:
    def __init__(self, graph: Graph, name: str, module: Embedding, model: Transformer):
        self._graph, self._scale = graph, module._scale
        size, width = (int(n) for n in module.weight.shape)
        self.weight = graph.matrix(f"{name}.weight", size, width)

    def __call__(self, tokens: Tensor) -> Tensor:
        return self._graph.embed(tokens, self.weight, self._scale)


class NativePositions:
    """Positions that are added to the embedding: the kernel that looks up the tokens adds their rows of a table."""

    def __init__(self, graph: Graph, model: Transformer):
        self._graph = graph
        self._table = Weight("positions", TABLE, "none", model.config.max_length, model.config.d_model)

    def add(self, x: Tensor, position: Any = 0) -> Tensor:
        found = self._graph.embedded(x)
        assert found is not None, "positions are added to an embedding"
        tokens, weight, scale = found
        return self._graph.embed(tokens, weight, scale, self._table)


class NativeOutput:
    def __init__(self, graph: Graph, name: str, module: Output, model: Transformer):
        self._graph = graph
        config = model.config
        self.weight = graph.matrix(f"{output_place(config)}.weight", config.target_vocab, config.d_model)
        self.bias = Weight(f"{name}.bias" if config.output_bias else "", LOGIT_BIAS, "none", config.target_vocab)

    def chosen(self) -> dict[str, Tensor]:
        return self._graph.choose(self.weight, self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        self._graph.top(x, self.weight, self.bias)
        return self._graph.take(self._graph.outputs["ids"])


FORMS: dict[type, Any] = {
    Linear: NativeLinear,
    LayerNorm: NativeNorm,
    Residual: NativeResidual,
    FeedForward: NativeFeedForward,
    Attention: NativeAttention,
    SelfAttention: NativeAttention,
    Embedding: NativeEmbedding,
    Output: NativeOutput,
}


def swap(model: Transformer, graph: Graph) -> Transformer:
    """The model with every module that has a native form replaced by it, in place."""
    swapped: dict[int, Any] = {}

    def visit(value: Any, name: str) -> Any:
        if id(value) in swapped:
            return swapped[id(value)]
        if isinstance(value, list):
            value[:] = [visit(item, f"{name}.{i}") for i, item in enumerate(value)]
        elif hasattr(value, "__dict__") and not isinstance(value, Tensor):
            form = FORMS.get(type(value))
            made = form(graph, name, value, model) if form else None
            for key, child in vars(value).items():
                if not key.startswith("_"):
                    vars(value)[key] = visit(child, f"{name}.{key}" if name else key)
            if form:
                swapped[id(value)] = made
                return made
        return value

    for part in ("source", "target", "encoder", "decoder", "output"):
        setattr(model, part, visit(getattr(model, part), part))
    if isinstance(model._positions, Sinusoidal):
        model._positions = NativePositions(graph, model)
    return model
