"""MarianMT as two ONNX graphs, the encoder and one step of the decoder over its caches, and a search over them.

ONNX Runtime has none of its own. All tensors stay on its side: a step takes the caches that the one before it gave.

Axes: B sentences, R rows (B * beams), S source, T tokens so far, H heads, D head size, C channels, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MarianMTModel

OPSET = 17
LONGEST = 2304  # of the position table in the graphs: those of shapes.write


def split(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """(R,T,C) to (R,H,T,D)."""
    return x.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2)


def attend(layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = 0.0) -> torch.Tensor:
    scores = split(layer, layer.q_proj(query)) @ key.transpose(-1, -2) * layer.head_dim**-0.5  # (R,H,T,S)
    return layer.out_proj(((scores + mask).softmax(-1) @ value).transpose(1, 2).flatten(2))  # (R,T,C)


def feed_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))


class Encoder(torch.nn.Module):
    """Tokens (B,S) and mask (B,1,1,S) to the keys and values (B,H,S,D) of each layer of the decoder."""

    def __init__(self, model: MarianMTModel):
        super().__init__()
        self.encoder, self.decoder = model.model.encoder, model.model.decoder

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        x = self.encoder.embed_tokens(tokens) * self.encoder.embed_scale
        x = x + self.encoder.embed_positions.weight[: tokens.shape[1]]
        for layer in self.encoder.layers:
            own = layer.self_attn
            y = attend(own, x, split(own, own.k_proj(x)), split(own, own.v_proj(x)), mask)
            x = feed_forward(layer, layer.self_attn_layer_norm(x + y))
        cross = [layer.encoder_attn for layer in self.decoder.layers]
        return [split(c, part(x)) for c in cross for part in (c.k_proj, c.v_proj)]


class Step(torch.nn.Module):
    """Tokens (R,1), the rows that they go on from (R,), mask, caches: the k likeliest, their scores, new caches."""

    def __init__(self, model: MarianMTModel, k: int):
        super().__init__()
        self.decoder, self.head, self.bias, self.k = model.model.decoder, model.lm_head, model.final_logits_bias, k

    def forward(self, tokens: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor, *caches: torch.Tensor) -> Any:
        count = 2 * len(self.decoder.layers)
        past, cross = caches[:count], caches[count:]
        x = self.decoder.embed_tokens(tokens) * self.decoder.embed_scale  # (R,1,C)
        x = x + self.decoder.embed_positions.weight[past[0].shape[2]]
        new = []
        for i, layer in enumerate(self.decoder.layers):
            own = layer.self_attn
            for part, old in ((own.k_proj, past[2 * i]), (own.v_proj, past[2 * i + 1])):
                kept = old if self.k == 1 else old[rows]
                new.append(torch.cat([kept, split(own, part(x))], 2))  # (R,H,T,D)
            x = layer.self_attn_layer_norm(x + attend(own, x, new[-2], new[-1]))
            y = attend(layer.encoder_attn, x, cross[2 * i], cross[2 * i + 1], mask)
            x = feed_forward(layer, layer.encoder_attn_layer_norm(x + y))
        logits = (self.head(x) + self.bias).squeeze(1)  # (R,V)
        if self.k == 1:
            return logits.argmax(-1, keepdim=True), *new
        scores, ids = logits.log_softmax(-1).topk(self.k)
        return ids, scores, *new


def export(folder: Path, into: Path, beams: tuple[int, ...] = (1, 4)) -> None:
    """Writes `encoder.onnx`, and `step.N.onnx` for each number of beams N."""
    model = MarianMTModel.from_pretrained(folder).eval()
    first = model.model.decoder.layers[0].self_attn
    heads, size, layers = first.num_heads, first.head_dim, len(model.model.decoder.layers)
    into.mkdir()
    mask = torch.zeros(2, 1, 1, 7)
    cross = [f"cross.{i}" for i in range(2 * layers)]
    axes: dict[str, dict[int, str]] = {"tokens": {0: "B", 1: "S"}, "mask": {0: "B", 3: "S"}}
    axes |= {name: {0: "B", 2: "S"} for name in cross}
    write = {"opset_version": OPSET, "dynamo": False}
    arguments: tuple[Any, ...] = (torch.ones(2, 7, dtype=torch.long), mask)
    torch.onnx.export(
        Encoder(model), arguments, into / "encoder.onnx",
        input_names=["tokens", "mask"], output_names=cross, dynamic_axes=axes, **write,
    )  # fmt: skip
    past, new = ([f"{name}.{i}" for i in range(2 * layers)] for name in ("past", "new"))
    axes = {"tokens": {0: "R"}, "rows": {0: "R"}, "mask": {0: "R", 3: "S"}, "ids": {0: "R"}, "scores": {0: "R"}}
    axes |= {name: {0: "R", 2: "T"} for name in [*past, *new]} | {name: {0: "R", 2: "S"} for name in cross}
    caches = [torch.zeros(2, heads, 3, size)] * (2 * layers) + [torch.zeros(2, heads, 7, size)] * (2 * layers)
    arguments = (torch.ones(2, 1, dtype=torch.long), torch.arange(2), mask, *caches)
    for beam in beams:
        outputs = ["ids", *(["scores"] if beam > 1 else []), *new]
        inputs = ["tokens", "rows", "mask", *past, *cross]
        torch.onnx.export(
            Step(model, 1 if beam == 1 else beam + 1), arguments, into / f"step.{beam}.onnx",
            input_names=inputs, output_names=outputs, dynamic_axes=axes, **write,
        )  # fmt: skip


class Search:
    """Greedy and beam search of a given number of steps over the graphs in a folder."""

    def __init__(self, folder: Path, threads: int, start: int, heads: int, size: int):
        import onnxruntime

        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.start, self.empty = start, (heads, 0, size)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = lambda name: onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
        self.encoder, self.steps = self.session("encoder.onnx"), {}

    def __call__(self, tokens: np.ndarray, lengths: np.ndarray, steps: int, beam: int) -> list[list[int]]:
        """tokens (B,S), of which the first lengths (B,) count."""
        if beam not in self.steps:
            self.steps[beam] = self.session(f"step.{beam}.onnx")
        session = self.steps[beam]
        hidden = np.where(np.arange(tokens.shape[1]) < lengths[:, None], 0, -np.inf).astype(np.float32)
        mask = hidden[:, None, None]  # (B,1,1,S)
        encoded = self.encoder.run_with_ort_values(None, {"tokens": self.value(tokens), "mask": self.value(mask)})
        names = [n.name for n in session.get_inputs()]
        layers = len(encoded)
        if beam > 1:
            encoded = [self.value(np.repeat(c.numpy(), beam, 0)) for c in encoded]
        count = len(tokens) * beam  # R
        fixed = dict(zip(names[-layers:], encoded, strict=True)) | {"mask": self.value(np.repeat(mask, beam, 0))}
        past = [self.value(np.zeros((count, *self.empty), np.float32))] * layers
        rows, last = np.arange(count), np.full((count, 1), self.start)
        scores = np.tile(np.array([0.0] + [-np.inf] * (beam - 1)), len(tokens))  # (R,)
        found = np.zeros((count, 0), np.int64)  # (R,T)
        asked = {n.name for n in session.get_inputs()}
        for _ in range(steps):
            inputs = {"tokens": self.value(last), "rows": self.value(rows), **fixed}
            inputs |= dict(zip([n for n in names if n.startswith("past.")], past, strict=True))
            outputs = session.run_with_ort_values(None, {n: v for n, v in inputs.items() if n in asked})
            ids = outputs[0].numpy()
            if beam == 1:
                last, past = ids, outputs[1:]
                found = np.concatenate([found, last], 1)
                continue
            totals = (outputs[1].numpy() + scores[:, None]).reshape(len(tokens), -1)  # (B, beams * candidates)
            best = np.argsort(-totals, 1, kind="stable")[:, :beam]
            scores = np.take_along_axis(totals, best, 1).ravel()
            rows = (best // ids.shape[1] + np.arange(len(tokens))[:, None] * beam).ravel()
            last = ids[rows, best.ravel() % ids.shape[1]][:, None]
            found, past = np.concatenate([found[rows], last], 1), outputs[2:]
        return found[::beam].tolist()
