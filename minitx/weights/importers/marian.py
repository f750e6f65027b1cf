"""The Transformers of Marian (Junczys-Dowmunt et al. 2018): which options minitx computes, and what weights are called.

The architecture is read from the binary's own `special:model.yml`; options that are absent there have Marian's
defaults. What minitx does not compute is named, all at once. Marian sets no longest input, since its positions are
computed: `max_length` is 512, four times where Firefox and Bergamot split their input.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import Config
from ...errors import Error, FileError, several
from ...paths import map_file
from ..checkpoint import damaged
from ..shapes import Shapes, expected
from .engine import Supported, beyond, convert, read_yaml, show
from .marian_file import BYTES, CONFIG, TYPES, Item, read_items, type_name

Options = dict[Any, Any]
MAX_LENGTH = 512
EPSILON = 1e-9
DROPPED = "_QuantMultA"  # ends the names of activation scales for int8 arithmetic: dropped on purpose

# Numbers that have no default here.
SIZES = ("dim-emb", "enc-depth", "dec-depth", "transformer-heads", "transformer-dim-ffn")

# Options that change what is computed: Marian's default, and the values that minitx computes.
SUPPORTED: Supported = {
    "type": ("amun", ("transformer",)),
    "transformer-decoder-autoreg": ("self-attention", ("self-attention", "rnn")),
    "transformer-ffn-activation": ("swish", ("relu", "swish")),  # "gelu" is another function in each Marian version
    "transformer-ffn-depth": (2, (2,)),
    "transformer-decoder-ffn-depth": (0, (0, 2)),
    "transformer-postprocess-emb": ("d", ("", "d")),
    "transformer-no-projection": (False, (False,)),
    "transformer-rnn-projection": (False, (False,)),
    "transformer-pool": (False, (False,)),
    "transformer-train-positions": (False, (False,)),
    "transformer-train-position-embeddings": (False, (False,)),
    "transformer-tied-layers": ([], ([],)),
    "transformer-alibi-decoder": (False, (False,)),
    "transformer-alibi-encoder": (False, (False,)),
    "input-types": ([], ([],)),
    "factors-dim-emb": (0, (0,)),
    "lemma-dim-emb": (0, (0,)),
    "lemma-dependency": ("", ("",)),
    "right-left": (False, (False,)),
    "ulr": (False, (False,)),
    "tied-embeddings-all": (False, (False, True)),
    "tied-embeddings-src": (False, (False, True)),
    "tied-embeddings": (False, (False, True)),
    "output-omit-bias": (False, (False, True)),
}
# The same, where the decoder is recurrent.
SUPPORTED_RNN: Supported = {
    "dec-cell": ("gru", ("ssru",)),
    "layer-normalization": (False, (False,)),
}

ACTIVATIONS = {"relu": "relu", "swish": "silu"}
MIXERS = {"self-attention": "attention", "rnn": "ssru"}
# (transformer-preprocess, -postprocess), less their dropout: n normalizes, a adds the input.
PLACEMENTS = {("", "an"): "post", ("n", "a"): "pre"}
# (tied-embeddings-all, -src, tied-embeddings): the row of TYINGS, and where source and target embeddings are.
TYINGS = {
    (False, False, False): ("none", "encoder_Wemb", "decoder_Wemb"),
    (False, False, True): ("target", "encoder_Wemb", "decoder_Wemb"),
    (False, True, False): ("source", "Wemb", "Wemb"),
    (False, True, True): ("all", "Wemb", "Wemb"),
    **{(True, src, out): ("all", "Wemb", "Wemb") for src in (False, True) for out in (False, True)},
}

# What stands after `encoder.layers.0.` here, and after `encoder_l1_` there.
PLACES = {"self": "self", "cross": "context"}
LETTERS = {"query": "q", "key": "k", "value": "v", "output": "o"}
LAYER = {f"{ours}.{part}.weight": f"{place}_W{c}" for ours, place in PLACES.items() for part, c in LETTERS.items()}
LAYER |= {f"{ours}.{part}.bias": f"{place}_b{c}" for ours, place in PLACES.items() for part, c in LETTERS.items()}
LAYER |= {
    "self.candidate.weight": "rnn_W",
    "self.forget.weight": "rnn_Wf",
    "self.forget.bias": "rnn_bf",
    "feedforward.up.weight": "ffn_W1",
    "feedforward.up.bias": "ffn_b1",
    "feedforward.down.weight": "ffn_W2",
    "feedforward.down.bias": "ffn_b2",
}
# The norm of a residual connection there, by placement. After it comes `_ln_scale` or `_ln_bias`, and `_pre` for pre.
NORMS = {
    "self": {"post": "self_Wo", "pre": "self_Wo"},
    "rnn": {"post": "rnn_ffn", "pre": "rnn"},
    "cross": {"post": "context_Wo", "pre": "context_Wo"},
    "feedforward": {"post": "ffn_ffn", "pre": "ffn_ffn"},
}
SUFFIXES = {"post": "", "pre": "_pre"}
GAINS = {"weight": "scale", "bias": "bias"}


def rename_layers(config: Config, stack: str, count: int, mixer: str) -> dict[str, tuple[str, str]]:
    """The rows of `engine.convert` for one stack; layers count from 0 here and from 1 there."""
    rows = {}
    for i in range(count):
        ours, theirs = f"{stack}.layers.{i}", f"{stack}_l{i + 1}"
        for name, other in LAYER.items():
            rows[f"{ours}.{name}"] = (f"{theirs}_{other}", "row" if name.endswith("bias") else "transposed")
        for sublayer in ("self", "cross", "feedforward"):
            kind = "rnn" if sublayer == "self" and mixer == "ssru" else sublayer
            for gain, other in GAINS.items():
                name = f"{theirs}_{NORMS[kind][config.placement]}_ln_{other}{SUFFIXES[config.placement]}"
                rows[f"{ours}.{sublayer}_residual.norms.0.{gain}"] = (name, "row")
    for gain, other in GAINS.items():
        rows[f"{stack}.norm.{gain}"] = (f"{stack}_top_ln_{other}", "row")
    return rows


def rename(config: Config, options: Options, items: dict[str, Item]) -> dict[str, tuple[str, str]]:
    """Our name of every weight that a Marian model may have: its name there and its layout."""
    _, source, target = TYINGS[flags(options)]
    output = ("decoder_ff_logit_out_Wt", "same")
    if "decoder_ff_logit_out_W" in items:  # before Marian 1.8
        output = ("decoder_ff_logit_out_W", "transposed")
    return {
        "source.weight": (source, "same"),
        "target.weight": (target, "same"),
        "output.weight": output,
        "output.bias": ("decoder_ff_logit_out_b", "row"),
        **rename_layers(config, "encoder", config.encoder_layers, "attention"),
        **rename_layers(config, "decoder", config.decoder_layers, config.mixer),
    }


def flags(options: Options) -> tuple[bool, bool, bool]:
    names = ("tied-embeddings-all", "tied-embeddings-src", "tied-embeddings")
    return tuple(options.get(name, False) is True for name in names)  # type: ignore[return-value]


def placement(options: Options) -> tuple[Any, Any]:
    """The key of PLACEMENTS: the operations before and after a sublayer, less dropout."""
    before, after = options.get("transformer-preprocess", ""), options.get("transformer-postprocess", "dan")
    return str(before).replace("d", ""), str(after).replace("d", "")


def unsupported(options: Options) -> list[str]:
    """Every option that asks for something that minitx does not compute."""
    rnn = options.get("transformer-decoder-autoreg") == "rnn"
    found = beyond(options, {**SUPPORTED, **(SUPPORTED_RNN if rnn else {})})
    before, after = placement(options)
    if (before, after) not in PLACEMENTS:
        found.append(f"transformer-preprocess {show(before)} with transformer-postprocess {show(after)}")
    elif before and "transformer-postprocess-top" not in options:
        found.append("transformer-preprocess 'n' of a Marian before 1.10, which does not normalize keys and values")
    if str(options.get("transformer-postprocess-top", "")).replace("d", "") not in ("", "n"):
        found.append(f"transformer-postprocess-top {show(options['transformer-postprocess-top'])} (only '' or 'n')")
    width = options.get("transformer-decoder-dim-ffn", 0)
    if width not in (0, options.get("transformer-dim-ffn")):
        found.append(f"transformer-decoder-dim-ffn {show(width)}, other than transformer-dim-ffn")
    if missing := [name for name in SIZES if type(options.get(name)) is not int]:
        found.append(f"no number for {', '.join(missing)}")
    vocabs = options.get("dim-vocabs", [])
    if not isinstance(vocabs, list) or len(vocabs) not in (0, 2):
        found.append(f"dim-vocabs {show(vocabs)} (only one source and one target)")
    return found


def read_config(options: Options, items: dict[str, Item], where: str) -> Config:
    """The `Config` that `special:model.yml` describes; raises `FileError` with everything that is not supported."""
    if problems := unsupported(options):
        raise FileError(f"{where}: not supported: {'; '.join(problems)}; choose a model without")
    tying, *embeddings = TYINGS[flags(options)]
    # Models of Firefox may say [] or 0 here; then the embeddings say it.
    vocabs = options.get("dim-vocabs") or [0, 0]
    sizes = [v or (items[e].shape[0] if e in items else 1) for v, e in zip(vocabs, embeddings, strict=True)]
    return Config(
        source_vocab=sizes[0],
        target_vocab=sizes[1],
        d_model=options["dim-emb"],
        heads=options["transformer-heads"],
        d_ff=options["transformer-dim-ffn"],
        encoder_layers=options["enc-depth"],
        decoder_layers=options["dec-depth"],
        norm="layernorm",
        norm_epsilon=EPSILON,
        placement=PLACEMENTS[placement(options)],
        final_norm="n" in str(options.get("transformer-postprocess-top", "")),
        activation=ACTIVATIONS[options.get("transformer-ffn-activation", "swish")],
        positions="sinusoidal_split",
        max_length=MAX_LENGTH,
        embedding_scale=True,
        tying=tying,
        output_bias=options.get("output-omit-bias", False) is not True,
        mixer=MIXERS[options.get("transformer-decoder-autoreg", "self-attention")],
        quantization="none",
    )


@dataclass(frozen=True)
class Model:
    """What a Marian binary holds; `steps` as a `Checkpoint` has them."""

    config: Config
    weights: dict[str, Any]
    steps: dict[str, float]
    options: Options


def read_model(path: Path) -> Model:
    """The model in a Marian binary; raises `FileError`."""
    where, data = str(path), map_file(path)
    items = read_items(data, where)
    options = read_options(data, items, where)
    try:
        config = read_config(options, items, where)
    except FileError:
        raise
    except (Error, ValueError) as e:  # ValueError: an integer of thousands of digits, when it is shown
        raise FileError(f"{where}: {CONFIG}: {e}; choose another model") from None
    kept = {name: item for name, item in items.items() if name != CONFIG and not name.endswith(DROPPED)}
    if alien := [f"{name} is {type_name(item.type)}" for name, item in kept.items() if item.type not in TYPES]:
        known = " and ".join(t.name for t in TYPES.values())
        raise FileError(f"{where}: not supported: {several(alien)}; minitx reads {known}, which marian-conv writes")
    found: Shapes = {name: item.shape for name, item in kept.items()}

    def read(name: str) -> Any:
        try:
            return TYPES[items[name].type].read(data, items[name])
        except ValueError as e:
            raise damaged(where, str(e)) from None

    renamed = rename(config, options, items)
    weights = convert(expected(config), renamed, found, read, where)
    sources = {ours: items[theirs] for ours, (theirs, _) in renamed.items() if ours in weights}
    steps = {ours: step for ours, item in sources.items() if (step := TYPES[item.type].step(data, item))}
    return Model(config, weights, steps, options)


def read_options(data: mmap.mmap, items: dict[str, Item], where: str) -> Options:
    """The mapping that `special:model.yml` holds."""
    item = items.get(CONFIG)
    if item is None or item.type != BYTES:
        raise FileError(f"{where}: has no {CONFIG}, so its architecture is unknown; write it again with marian-conv")
    return read_yaml(data[item.begin : item.begin + item.length].rstrip(b"\0"), f"{where}: {CONFIG}")
