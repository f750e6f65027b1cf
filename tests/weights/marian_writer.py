"""Writes small random Marian models, from what is known of the format and not from minitx's importer.

`build` gives the records of a file and, beside them, the float32 weights that minitx should find in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

FLOAT32, INTGEMM8, BYTES = 0x404, 0x4101, 0x101
Record = tuple[str, int, tuple[int, ...], bytes]  # name, type, shape, data


@dataclass(frozen=True)
class Tiny:
    """One small model: what of Marian's options the tests vary."""

    kind: int = INTGEMM8
    rnn: bool = True
    pre: bool = False  # transformer-preprocess n, -postprocess da
    top: bool = False  # transformer-postprocess-top n
    tied: tuple[bool, bool, bool] = (True, False, False)  # tied-embeddings-all, -src, tied-embeddings
    bias: bool = True
    legacy: bool = False  # the output matrix as decoder_ff_logit_out_W (C, V) and not _Wt (V, C)
    activation: str = "relu"
    d: int = 16
    heads: int = 4
    ffn: int = 24
    encoder: int = 2
    decoder: int = 1
    source: int = 12
    target: int = 12
    align: int = 256
    say_vocabs: bool = True  # newer models of Firefox leave dim-vocabs empty


class Builder:
    def __init__(self, tiny: Tiny, seed: int):
        self.tiny, self.random = tiny, np.random.default_rng(seed)
        self.records: list[Record] = []
        self.weights: dict[str, np.ndarray] = {}

    def matrix(self, name: str, rows: int, columns: int, ours: str, transpose: bool = True) -> None:
        if self.tiny.kind == INTGEMM8:
            integers = self.random.integers(-127, 128, (rows, columns), dtype=np.int8)
            q = np.float32(self.random.uniform(5, 500))
            stored = integers if "Wemb" in name else integers.T
            self.records.append((name, INTGEMM8, (rows, columns), stored.tobytes() + q.tobytes()))
            self.records.append((f"{name}_QuantMultA", FLOAT32, (1, 1), np.float32(3).tobytes()))
            value = integers.astype(np.float32) / q
        else:
            value = self.random.normal(size=(rows, columns)).astype(np.float32)
            self.records.append((name, FLOAT32, (rows, columns), value.tobytes()))
        self.weights[ours] = value.T if transpose else value

    def vector(self, name: str, size: int, ours: str) -> None:
        value = self.random.normal(size=size).astype(np.float32)
        self.records.append((name, FLOAT32, (1, size), value.tobytes()))
        self.weights[ours] = value

    def dense(self, weight: str, bias: str, rows: int, columns: int, ours: str) -> None:
        self.matrix(weight, rows, columns, f"{ours}.weight")
        self.vector(bias, columns, f"{ours}.bias")

    def norm(self, name: str, ours: str, pre: bool) -> None:
        suffix = "_pre" if pre else ""
        self.vector(f"{name}_ln_scale{suffix}", self.tiny.d, f"{ours}.weight")
        self.vector(f"{name}_ln_bias{suffix}", self.tiny.d, f"{ours}.bias")

    def attention(self, name: str, ours: str) -> None:
        for letter, part in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            self.dense(f"{name}_W{letter}", f"{name}_b{letter}", self.tiny.d, self.tiny.d, f"{ours}.{part}")
        self.norm(f"{name}_Wo", f"{ours}_residual.norms.0", self.tiny.pre)

    def feedforward(self, name: str, ours: str) -> None:
        d, f = self.tiny.d, self.tiny.ffn
        self.dense(f"{name}_ffn_W1", f"{name}_ffn_b1", d, f, f"{ours}.feedforward.up")
        self.dense(f"{name}_ffn_W2", f"{name}_ffn_b2", f, d, f"{ours}.feedforward.down")
        self.norm(f"{name}_ffn_ffn", f"{ours}.feedforward_residual.norms.0", self.tiny.pre)

    def ssru(self, name: str, ours: str) -> None:
        d = self.tiny.d
        self.matrix(f"{name}_rnn_W", d, d, f"{ours}.self.candidate.weight")
        self.dense(f"{name}_rnn_Wf", f"{name}_rnn_bf", d, d, f"{ours}.self.forget")
        self.norm(f"{name}_rnn" if self.tiny.pre else f"{name}_rnn_ffn", f"{ours}.self_residual.norms.0", self.tiny.pre)

    def build(self) -> None:
        t, d = self.tiny, self.tiny.d
        every, src, out = t.tied
        if every or src:
            self.matrix("Wemb", t.source, d, "source.weight", transpose=False)
        else:
            self.matrix("encoder_Wemb", t.source, d, "source.weight", transpose=False)
            self.matrix("decoder_Wemb", t.target, d, "target.weight", transpose=False)
        if not every and not out:
            if t.legacy:
                self.matrix("decoder_ff_logit_out_W", d, t.target, "output.weight")
            else:
                self.matrix("decoder_ff_logit_out_Wt", t.target, d, "output.weight", transpose=False)
        if t.bias:
            self.vector("decoder_ff_logit_out_b", t.target, "output.bias")
        for i in range(t.encoder):
            self.attention(f"encoder_l{i + 1}_self", f"encoder.layers.{i}.self")
            self.feedforward(f"encoder_l{i + 1}", f"encoder.layers.{i}")
        for i in range(t.decoder):
            name, ours = f"decoder_l{i + 1}", f"decoder.layers.{i}"
            if t.rnn:
                self.ssru(name, ours)
            else:
                self.attention(f"{name}_self", f"{ours}.self")
            self.attention(f"{name}_context", f"{ours}.cross")
            self.feedforward(name, ours)
        if t.top:
            self.norm("encoder_top", "encoder.norm", pre=False)
            self.norm("decoder_top", "decoder.norm", pre=False)


def options(tiny: Tiny) -> dict:
    """What Marian writes into special:model.yml."""
    every, src, out = tiny.tied
    return {
        "type": "transformer",
        "dim-emb": tiny.d,
        "dim-rnn": 1024,
        "dim-vocabs": [tiny.source, tiny.target] if tiny.say_vocabs else [],
        "enc-depth": tiny.encoder,
        "dec-depth": tiny.decoder,
        "dec-cell": "ssru" if tiny.rnn else "gru",
        "transformer-decoder-autoreg": "rnn" if tiny.rnn else "self-attention",
        "transformer-heads": tiny.heads,
        "transformer-dim-ffn": tiny.ffn,
        "transformer-ffn-activation": tiny.activation,
        "transformer-ffn-depth": 2,
        "transformer-preprocess": "n" if tiny.pre else "",
        "transformer-postprocess": "da" if tiny.pre else "dan",
        "transformer-postprocess-emb": "d",
        "transformer-postprocess-top": "n" if tiny.top else "",
        "transformer-train-position-embeddings": False,
        "transformer-tied-layers": [],
        "input-types": [],
        "output-omit-bias": not tiny.bias,
        "tied-embeddings": out,
        "tied-embeddings-all": every,
        "tied-embeddings-src": src,
        "version": "v1.9.56 test",
    }


def build(tiny: Tiny, seed: int = 0) -> tuple[list[Record], dict[str, np.ndarray]]:
    """The tensors of a model, and what minitx should make of them."""
    builder = Builder(tiny, seed)
    builder.build()
    return builder.records, builder.weights


def pack(records: list[Record], config: str | bytes | dict, align: int = 256) -> bytes:
    """The bytes of a binary file; `config` becomes special:model.yml."""
    if isinstance(config, dict):
        config = yaml.safe_dump(config)
    text = config.encode() if isinstance(config, str) else config
    text += b"\0"
    records = [*records, ("special:model.yml", BYTES, (len(text),), text)]
    datas = [data + b"\0" * (-len(data) % align if kind != BYTES else 0) for _, kind, _, data in records]
    names = [name.encode() + b"\0" for name, *_ in records]
    head = struct.pack("<QQ", 1, len(records))
    for name, (_, kind, shape, _), data in zip(names, records, datas, strict=True):
        head += struct.pack("<QQQQ", len(name), kind, len(shape), len(data))
    head += b"".join(names) + b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in records)
    padding = -(len(head) + 8) % 256
    return head + struct.pack("<Q", padding) + b"\0" * padding + b"".join(datas)


def field(number: int, kind: int, value: bytes) -> bytes:
    """One field of a protocol buffer; `kind` 2 is bytes, 5 four bytes, 0 a varint below 128."""
    return bytes([number << 3 | kind]) + (bytes([len(value)]) if kind == 2 else b"") + value


def spm(size: int, end: int = 0) -> bytes:
    """A SentencePiece Unigram model of `size` pieces: `</s>`, `<unk>`, and letters. `end` is the id of `</s>`."""
    special = ["</s>", "<unk>"] if end == 0 else ["<unk>", "</s>"]
    pieces = [*special, *(f"\u2581{chr(97 + i % 26)}{i}" for i in range(size - 2))]
    types = {"</s>": 3, "<unk>": 2}
    data = b""
    for i, piece in enumerate(pieces):
        fields = (
            field(1, 2, piece.encode()) + field(2, 5, struct.pack("<f", -i)) + field(3, 0, bytes([types.get(piece, 1)]))
        )
        data += field(1, 2, fields)
    return data + field(2, 2, field(3, 0, b"\1")) + field(3, 2, field(1, 2, b"identity"))


def write_folder(folder: Path, tiny: Tiny, seed: int = 0, **changes: object) -> dict[str, np.ndarray]:
    """A folder with binary, vocabularies and .yml; gives the weights that it stands for."""
    records, weights = build(tiny, seed)
    folder.mkdir(exist_ok=True)
    (folder / "model.tiny.bin").write_bytes(pack(records, options(tiny) | changes, tiny.align))
    shared = tiny.tied[0] or tiny.tied[1]
    names = ["vocab.tiny.spm"] * 2 if shared else ["srcvocab.tiny.spm", "trgvocab.tiny.spm"]
    for name, size in zip(names, (tiny.source, tiny.target), strict=True):
        (folder / name).write_bytes(spm(size))
    decoder = {
        "models": ["model.tiny.bin"],
        "vocabs": names,
        "beam-size": 4,
        "normalize": 0.6,
        "max-length-factor": 2.0,
    }
    (folder / "config.yml").write_text(yaml.safe_dump(decoder))
    return weights
