"""The folder of a MarianMT checkpoint of Hugging Face's transformers.

`config.json`, `model.safetensors`, `source.spm`, `target.spm`, `vocab.json`, and where there is one
`generation_config.json`, whose options go before those of `config.json`; `target_vocab.json` where source and target
have each a vocabulary. What minitx does not compute is named, all at once. `pytorch_model.bin` is never opened: it is a
pickle, which can run anything.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...config import Config, Generation, choice
from ...errors import Error, FileError
from ...nn.quant import from_bf16
from ...paths import map_file
from ...text import tokenizer as tokenizers
from ...text.renumbered import Renumbered
from ...text.sentencepiece import SentencePiece
from ...text.tokenizer import Tokenizer
from ...version import __version__
from ..checkpoint import Checkpoint, Entry, check, damaged, read_header, read_json, view
from ..shapes import Shapes, expected
from .engine import Array, Supported, beyond, convert, fingerprint, plain, show

Options = dict[str, Any]
CONFIG, SEARCH, WEIGHTS, PICKLE = "config.json", "generation_config.json", "model.safetensors", "pytorch_model.bin"
VOCAB, TARGET_VOCAB = "vocab.json", "target_vocab.json"
EPSILON = 1e-5  # PyTorch's, which MarianMTModel does not change
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "swish": "silu", "silu": "silu"}

# Numbers that have no default here.
SIZES = (
    *("vocab_size", "d_model", "encoder_layers", "decoder_layers", "max_position_embeddings"),
    *("encoder_attention_heads", "encoder_ffn_dim"),
)
# What source and target may not have differently.
SAME = {"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"}
OFF: tuple[Any, ...] = (None, False, 0, [])
# Options that change what is computed: the default there, and the values that minitx computes.
SUPPORTED: Supported = {
    "model_type": ("", ("marian",)),
    "is_encoder_decoder": (True, (True,)),
    "activation_function": ("gelu", tuple(ACTIVATIONS)),
    "normalize_before": (False, (False,)),
    "normalize_embedding": (False, (False,)),
    "add_final_layer_norm": (False, (False,)),
    "static_position_embeddings": (True, (True,)),
    "scale_embedding": (False, (False, True)),
    "share_encoder_decoder_embeddings": (True, (True, False)),
    "tie_word_embeddings": (True, (True, False)),
    "do_sample": (False, OFF),
    "num_beam_groups": (1, (1, None)),
    "repetition_penalty": (1.0, (1.0, 1, None)),
    "encoder_repetition_penalty": (1.0, (1.0, 1, None)),
    "no_repeat_ngram_size": (0, OFF),
    "encoder_no_repeat_ngram_size": (0, OFF),
    "min_length": (0, OFF),
    "min_new_tokens": (None, OFF),
    "forced_bos_token_id": (None, (None,)),
    "suppress_tokens": (None, OFF),
    "begin_suppress_tokens": (None, OFF),
    "sequence_bias": (None, OFF),
}
# (share_encoder_decoder_embeddings, tie_word_embeddings): the row of TYINGS, and for our embeddings their names there,
# the first that the file has; what else it has of a tied one is a copy.
SHARED, OUTPUT = "model.shared.weight", "lm_head.weight"
SOURCE, TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
APART = {"source.weight": (SOURCE, SHARED), "target.weight": (TARGET, SHARED), "output.weight": (OUTPUT,)}
EMBEDDINGS: dict[tuple[bool, bool], tuple[str, dict[str, tuple[str, ...]]]] = {
    (True, True): ("all", {"source.weight": (SHARED, SOURCE, TARGET, OUTPUT)}),
    (False, True): ("target", {"source.weight": (SOURCE,), "target.weight": (TARGET, OUTPUT)}),
    (True, False): ("none", APART),
    (False, False): ("none", APART),
}
BIAS = "final_logits_bias"
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")  # computed, not stored
# What stands after `encoder.layers.0.` here and after `model.encoder.layers.0.` there, before `.weight` and `.bias`.
PLACES = {"self": "self_attn", "cross": "encoder_attn"}
PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
LAYER = {f"{place}.{part}": f"{PLACES[place]}.{PARTS[part]}" for place in PLACES for part in PARTS}
LAYER |= {"feedforward.up": "fc1", "feedforward.down": "fc2"}
LAYER |= {f"{place}_residual.norms.0": f"{other}_layer_norm" for place, other in PLACES.items()}
LAYER |= {"feedforward_residual.norms.0": "final_layer_norm"}
# How values of a safetensors type become float32.
FLOATS: dict[str, Callable[[Array], Array]] = {
    "F32": lambda a: a,
    "F16": lambda a: a.astype(np.float32),
    "BF16": lambda a: from_bf16({"": a}),
}


def matches(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint of transformers."""
    return (folder / CONFIG).is_file()


def read(folder: Path) -> Checkpoint:
    """The model in a folder that `MarianMTModel.save_pretrained` and its tokenizer's made; raises `Error`."""
    options = read_options(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileError(f"{folder}: has no {WEIGHTS}{PICKLED if (folder / PICKLE).is_file() else '; put it there'}")
    data = map_file(path)
    _, entries = read_header(data, path)
    config = read_config(options, BIAS in entries, folder / CONFIG)
    weights = read_weights(config, options, data, entries, path)
    source, target = read_tokenizers(folder)
    search = read_generation(options, folder)
    names = (CONFIG, SEARCH, WEIGHTS, "source.spm", "target.spm", VOCAB, TARGET_VOCAB)
    provenance = {
        "family": "hf-marian",
        "name": plain(folder.resolve()),
        "files": {name: fingerprint(folder / name) for name in names if (folder / name).is_file()},
        "trained_with": show(options.get("transformers_version", "unknown")).strip("' "),
        "minitx": __version__,
    }
    checkpoint = Checkpoint(config, search, source, target, weights, provenance)
    check(checkpoint, folder)
    return checkpoint


PICKLED = (
    f", and {PICKLE} is a pickle, which minitx does not open since it can run anything; write it again with "
    "transformers: MarianMTModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)


def read_object(path: Path) -> Options:
    """The object in a JSON file; raises `FileError`."""
    try:
        value = read_json(map_file(path)[:].decode(), path, "the file")
    except UnicodeDecodeError:
        raise damaged(path, "is not UTF-8") from None
    if not isinstance(value, dict):
        raise damaged(path, "is not an object of fields")
    return value


def read_options(folder: Path) -> Options:
    """The options of both files, those of how to search before those of the model; raises `FileError`."""
    options = read_object(folder / CONFIG)
    if (folder / SEARCH).is_file():
        search = read_object(folder / SEARCH)
        options |= {name: value for name, value in search.items() if name not in SIZES}
    if problems := unsupported(options):
        raise FileError(f"{folder / CONFIG}: not supported: {'; '.join(problems)}; choose a model without")
    return options


def unsupported(options: Options) -> list[str]:
    """Every option that asks for something that minitx does not compute."""
    found = beyond(options, SUPPORTED)
    if missing := [name for name in SIZES if type(options.get(name)) is not int]:
        found.append(f"no number for {', '.join(missing)}")
    for name, other in SAME.items():
        if options.get(name, options.get(other)) != options.get(other):
            found.append(f"{name} {show(options[name])}, other than {other}")
    for name in ("decoder_start_token_id", "eos_token_id"):
        if type(options.get(name)) is not int:
            found.append(f"{name} {show(options.get(name))} (only one token)")
    if options.get("forced_eos_token_id") not in (None, options.get("eos_token_id")):
        found.append(f"forced_eos_token_id {show(options['forced_eos_token_id'])}, other than eos_token_id")
    words = options.get("bad_words_ids") or []
    if not isinstance(words, list) or not all(isinstance(w, list) and [type(t) for t in w] == [int] for w in words):
        found.append(f"bad_words_ids {show(words)} (only single tokens)")
    return found


def read_config(options: Options, bias: bool, where: Path) -> Config:
    """The `Config` that the options describe; raises `FileError` for one that cannot be."""
    share, tie = sharing(options)
    target = options["vocab_size"] if share else options.get("decoder_vocab_size") or options["vocab_size"]
    try:
        return Config(
            source_vocab=options["vocab_size"],
            target_vocab=target,
            d_model=options["d_model"],
            heads=options["encoder_attention_heads"],
            d_ff=options["encoder_ffn_dim"],
            encoder_layers=options["encoder_layers"],
            decoder_layers=options["decoder_layers"],
            norm="layernorm",
            norm_epsilon=EPSILON,
            placement="post",
            final_norm=False,
            activation=ACTIVATIONS[options.get("activation_function", "gelu")],
            positions="sinusoidal_halves",
            max_length=options["max_position_embeddings"],
            embedding_scale=options.get("scale_embedding", False),
            tying=EMBEDDINGS[share, tie][0],
            output_bias=bias,
            mixer="attention",
            quantization="none",
        )
    except (Error, ValueError) as e:  # ValueError: an integer of thousands of digits, when it is shown
        raise FileError(f"{where}: {e}; correct it") from None


def sharing(options: Options) -> tuple[bool, bool]:
    return options.get("share_encoder_decoder_embeddings", True), options.get("tie_word_embeddings", True)


def read_generation(options: Options, folder: Path) -> Generation:
    """How transformers searches: beams scored by log-probability over length to the power of `length_penalty`."""
    end = options["eos_token_id"]
    banned = {word[0] for word in options.get("bad_words_ids") or []}
    fields: Options = {"start": options["decoder_start_token_id"], "end": end, "suppress": sorted(banned - {end})}
    fields |= {"beam": options.get("num_beams") or 1, "length_penalty": "power"}
    fields["alpha"] = 1.0 if options.get("length_penalty") is None else options["length_penalty"]
    try:
        return Generation(**fields)
    except (Error, ValueError) as e:
        where = folder / (SEARCH if (folder / SEARCH).is_file() else CONFIG)
        raise FileError(f"{where}: {e}; correct it") from None


def rename(config: Config, embeddings: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Our name of every weight: its name there and its layout."""
    rows = {ours: (theirs, "same") for ours, theirs in embeddings.items()}
    rows["output.bias"] = (BIAS, "row")
    for stack, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for i in range(count):
            for ours, theirs in LAYER.items():
                for end in ("weight", "bias"):
                    name = f"{stack}.layers.{i}.{theirs}.{end}"
                    rows[f"{stack}.layers.{i}.{ours}.{end}"] = (f"model.{name}", "same")
    return rows


def read_weights(
    config: Config, options: Options, data: mmap.mmap, entries: dict[str, Entry], path: Path
) -> dict[str, Array]:
    """The weights under minitx's names; raises `FileError` for copies of one matrix that differ."""

    def values(name: str) -> Array:
        entry = entries[name]
        if entry.dtype not in FLOATS:
            raise FileError(f"{path}: {name} is {entry.dtype}; minitx reads {', '.join(FLOATS)}")
        return FLOATS[entry.dtype](view(data, entry))

    tie = sharing(options)[1]
    dropped: list[str] = []
    embeddings = {}
    for ours, names in EMBEDDINGS[sharing(options)][1].items():
        first, *copies = [name for name in names if name in entries] or names[:1]
        embeddings[ours] = first
        dropped += copies
        if differ := [name for name in copies if tie and not np.array_equal(values(name), values(first))]:
            raise FileError(f"{path}: {differ[0]} differs from {first}, but {CONFIG} ties them; correct one of the two")
    for name in POSITIONS:
        if name in entries:
            check_positions(values(name), config, f"{path}: {name}")
            dropped.append(name)
    used = set(embeddings.values())
    found: Shapes = {name: e.shape for name, e in entries.items() if name in used or name not in dropped}
    return convert(expected(config), rename(config, embeddings), found, values, str(path))


def check_positions(found: Array, config: Config, where: str) -> None:
    """Raises `FileError` unless a table of positions (T,C) is the one that minitx computes."""
    if found.ndim != 2 or found.shape[1] != config.d_model:
        raise damaged(where, f"has the shape {found.shape}")
    if not np.allclose(found, choice("positions", config.positions).table(*found.shape), atol=2e-3):  # as float16
        raise FileError(f"{where}: not supported: positions other than transformers computes; choose another model")


def read_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Source and target: each model's pieces by the ids of the vocabulary; raises `FileError`."""
    separate = (folder / TARGET_VOCAB).is_file()
    pieces = read_pieces(folder / VOCAB)
    target_pieces = read_pieces(folder / TARGET_VOCAB) if separate else pieces
    both = [renumbered(folder / f"{side}.spm", p) for side, p in (("source", pieces), ("target", target_pieces))]
    if both[0].to_dict() == both[1].to_dict():
        return both[0], both[0]
    return both[0], both[1]


def read_pieces(path: Path) -> list[str]:
    """The pieces of a vocabulary in the order of their ids; raises `FileError`."""
    ids = read_object(path)
    if sorted(i if type(i) is int else -1 for i in ids.values()) != list(range(len(ids))):
        raise damaged(path, f"does not give each of its {len(ids)} pieces an id of its own from 0 on")
    return sorted(ids, key=ids.__getitem__)


def renumbered(path: Path, pieces: list[str]) -> Renumbered:
    model = tokenizers.read(path)
    if not isinstance(model, SentencePiece):
        raise FileError(f"{path}: is a tokenizer, but no SentencePiece model; download it again")
    try:
        return Renumbered(model, pieces)
    except ValueError as e:
        raise damaged(path.with_name(VOCAB), str(e)) from None
