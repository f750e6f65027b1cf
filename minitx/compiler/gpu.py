"""The plan of a model for a GPU, in WGSL: all of it tinygrad's own kernels, made of the plain tensor form of the model.

One sentence at a time, of any length up to the model's longest, so that nothing is padded and nothing is masked. The
weights are the native plan's, in the same layout at the same places: one weight file serves both.

| function | given                               | gives                                                            |
|----------|-------------------------------------|------------------------------------------------------------------|
| encode   | tokens                              | keys and values by layer                                         |
| step     | token, bias, the state              | id and score of the likeliest next token, and the state          |
| beams    | tokens, bias, the state             | the same of BEAM hypotheses: ids, scores of BEAM + 1, best first |
| reorder  | rows, the state                     | the state, in which row i is the old row rows[i]                 |

Variables are `source`, the number of source tokens, and `position`, the number of tokens before this one. `bias` is
added to the logits: it has the model's own, and FORBIDDEN for the tokens that may not come. Buffers of every role are
as large as they can get; the arena is not by rows. Axes: R hypotheses, V vocabulary, and as in `nn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad import Tensor, UOp, dtypes

from ..config import Config
from ..nn.cache import Cache, store
from ..nn.matrix import Matrix
from ..nn.ops import log_softmax_top, replace_matrices
from ..nn.quant import scheme
from ..nn.transformer import Transformer
from .panels import Panels
from .plan import Function, Named, Plan, Renderer, assemble
from .tuning import panel_rows
from .weights import MATRIX, TABLE, VECTOR, Weight

BUFFERS = 8  # of a kernel: what every device has at least
WGSL = Renderer("wgsl", 1, 256, BUFFERS, panel_rows)  # a buffer begins at a multiple of 256 bytes
FORBIDDEN = -1e30  # minus infinity, for devices that need not know that
BEAM = 4  # hypotheses that `beams` has room for, or the model's own beam if that is larger


Weights = dict[Weight, Tensor]
Parts = tuple[Weights, list[Tensor], Named]  # of a function: what it reads, gives, and what is what


def plan(config: Config, native: Plan, beam: int) -> Plan:
    """The plan for a GPU of a model whose native plan this is, for beams of up to `beam` hypotheses."""
    places = dict(native.weights)
    sources: dict[str, str] = {}
    parts: dict[str, Callable[[], Parts]] = {
        "encode": lambda: encode(config),
        "step": lambda: step(config, 1, 1),
        "beams": lambda: step(config, beam, beam + 1),
        "reorder": lambda: reorder(config, beam),
    }
    functions: list[Function] = []
    for name, make in parts.items():
        weights, outputs, named = make()
        functions.append(assemble(weights, name, outputs, named, places, sources, WGSL))
    return Plan(config.to_dict(), tuple(functions), sources, native.weights, native.weight_bytes)


def encode(config: Config) -> Parts:
    """The encoder over one sentence, and the keys and values that the decoder makes of what it gives."""
    model, weights = packed(config)
    source = UOp.variable("source", 1, config.max_length)
    tokens = empty(1, config.max_length, dtype=dtypes.int32)
    memory = model.encode(tokens[:, :source])  # (1,S,C)
    named: Named = {"tokens": (tokens, "input", "rows")}
    outputs = []
    for i, layer in enumerate(model.decoder.layers):
        for part, new in zip("kv", layer.cross.keys_values(memory), strict=True):  # (1,H,S,D)
            kept = empty(1, int(new.shape[1]), config.max_length, int(new.shape[3]))
            named[f"{i}.cross.{part}"] = kept, "state", "source"
            outputs.append(Tensor(kept.uop.after(kept[:, :, :source].uop.store(new.uop))))
    return weights, outputs, named


def step(config: Config, rows: int, candidates: int) -> Parts:
    """One token of every hypothesis, to so many of the likeliest next ones."""
    model, weights = packed(config)
    position = UOp.variable("position", 0, config.max_length - 1)
    tokens, bias = empty(rows, dtype=dtypes.int32), empty(config.target_vocab)
    state = states(model, rows)
    cache: dict[str, Any] = {**state, "mask": None}  # there is nothing to be hidden
    source = UOp.variable("source", 1, config.max_length)
    for name, tensor in state.items():
        if ".cross." in name:
            cache[name] = tensor[:, :, :source]  # (1,H,S,D)
    logits, after = model.decode_step(tokens, cache, position)  # (R,V)
    ids, scores = top(logits + bias, candidates)
    made = {"ids": empty(rows, candidates, dtype=dtypes.int32), "scores": empty(rows, candidates)}
    kept = [store(made["ids"], ids), store(made["scores"], scores)]
    changed = [after[name] for name in state if ".cross." not in name]
    named: Named = {"tokens": (tokens, "input", "rows"), "bias": (bias, "input", "vocabulary")}
    named |= {name: (tensor, "output", "rows") for name, tensor in made.items()}
    return weights, [*kept, *changed], named | name_states(state)


def reorder(config: Config, rows: int) -> Parts:
    """The state of hypotheses that were chosen among those before."""
    model, weights = packed(config)
    index = empty(rows, dtype=dtypes.int32)
    state = {name: t for name, t in states(model, rows).items() if ".cross." not in name}
    moved = [store(tensor, tensor[index].contiguous()) for tensor in state.values()]
    return weights, moved, {"rows": (index, "input", "rows")} | name_states(state)


def states(model: Transformer, rows: int) -> Cache:
    """The cache of so many hypotheses of one sentence, whose keys and values they share."""
    longest = model.config.max_length
    shapes = model.decoder.shapes(rows, longest, longest)
    own = {name: (1, *shape[1:]) if ".cross." in name else shape for name, shape in shapes.items()}
    return {name: empty(*shape) for name, shape in own.items() if name != "mask"}


def name_states(state: Cache) -> Named:
    return {name: (t, "state", "source" if ".cross." in name else "rows") for name, t in state.items()}


def top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of logits (R,V), best first, and their log-probabilities: both (R,count)."""
    if count == 1:
        best, score = log_softmax_top(logits.contiguous())
        return best.unsqueeze(1), score.unsqueeze(1)
    logits = logits.contiguous()
    best = logits.max(-1, keepdim=True)  # (R,1)
    log_sum = best + (logits - best).exp().sum(-1, keepdim=True).log()  # (R,1)
    places = Tensor.arange(int(logits.shape[1])).unsqueeze(0)  # (1,V)
    ids, values = [], []
    for _ in range(count):
        values.append(logits.max(-1, keepdim=True).contiguous())
        ids.append(logits.argmax(-1, keepdim=True).cast(dtypes.int32).contiguous())  # (R,1), the first where they tie
        logits = (places == ids[-1]).where(2 * FORBIDDEN, logits).contiguous()
    return ids[0].cat(*ids[1:], dim=1), values[0].cat(*values[1:], dim=1) - log_sum


def empty(*shape: int, dtype: Any = dtypes.float32) -> Tensor:
    return Tensor.empty(*shape, dtype=dtype, device="NULL")


def packed(config: Config) -> tuple[Transformer, Weights]:
    """The model over weights in the layout of the native plan, and these by what they are there."""
    plain = Config.from_dict(config.to_dict() | {"quantization": "none", "keep": []})
    model, weights = Transformer(plain, "NULL", seed=None), {}

    def matrix(name: str, shape: tuple[int, int]) -> Matrix:
        weight = Weight(name, MATRIX, scheme(name, shape, config), *shape)
        weights[weight] = empty(weight.bytes // 4, dtype=dtypes.uint32)
        return Panels(weight.scheme, shape, weights[weight])

    replace_matrices(model, matrix)
    for name, tensor in model.parameters().items():
        if tensor.ndim == 1 and tensor.dtype == dtypes.float32:
            weight = Weight(name, VECTOR, "none", int(tensor.shape[0]))
            weights[weight] = empty(weight.bytes // 4)
            tensor.replace(weights[weight][: weight.rows])
    model.output.bias = None  # it is in what is added to the logits
    table = Weight("positions", TABLE, "none", config.max_length, config.d_model)
    weights[table] = model._positions._table = empty(table.rows, table.columns)
    return model, weights
