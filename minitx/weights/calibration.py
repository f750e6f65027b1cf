"""What the matrices of a model are multiplied by, on given sentences: the moments that GPTQ goes by.

The plain model runs over the sentences and its own translations of them, all positions at once.
Axes: B batch, S source, T target, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tinygrad import Tensor

from ..errors import ConfigError
from ..nn.matrix import Matrix
from ..nn.ops import padding_mask, replace_matrices, upload
from ..nn.quant import output_place
from ..nn.transformer import Transformer
from .checkpoint import Checkpoint

Array = np.ndarray[Any, Any]
Tokens = Sequence[Sequence[int]]
BATCH, BUCKET = 64, 32  # sentences at a time, and what lengths are rounded up to: each shape is compiled once
EMBEDDINGS = ("source.weight", "target.weight")


class Observed(Matrix):
    """A float32 matrix that adds up the moment of its inputs, where `inside` (B,T) of their length says."""

    def __init__(self, weight: Array, inside: dict[int, Array], device: str):
        self.weight, self.inside, self.device, self.shape, self.parts = weight, inside, device, weight.shape, {}
        self.moment, self.count = np.zeros((weight.shape[1], weight.shape[1])), 0

    def see(self, x: Tensor) -> Array:
        """Counts x (B,T,K), and gives its values."""
        values: Array = x.realize().numpy()
        seen = values[self.inside[values.shape[1]]]  # (..., K)
        self.moment += seen.T @ seen
        self.count += len(seen)
        return values

    def product(self, x: Tensor) -> Tensor:
        """x (B,T,K) times the matrix transposed: (B,T,N)."""
        values = self.see(x)
        y = values.reshape(-1, values.shape[2]) @ self.weight.T  # (B*T,N)
        return upload(y.reshape(*values.shape[:2], -1), self.device)

    def rows(self, index: Tensor) -> Tensor:
        return upload(self.weight[index.numpy()], self.device)


def padded(rows: Tokens, size: int) -> tuple[Array, Array]:
    """Rows of tokens as (B,T) int32, and which of them are there."""
    tokens, inside = np.zeros((len(rows), size), np.int32), np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], inside[i, : len(row)] = row, True
    return tokens, inside


def moments(checkpoint: Checkpoint, sources: Tokens, targets: Tokens) -> dict[str, Array]:
    """The mean of x x^T, (K,K) float32, over the inputs x of each matrix, by its name.

    `sources` hold their ends, `targets` do not. An embedding is read one row at a time: its inputs count as alike.
    Raises `ConfigError` for a model that is quantized.
    """
    config, device = checkpoint.config, "CPU"
    if config.quantization != "none" or config.keep:
        raise ConfigError(f"the model is stored as {config.quantization}; calibrate with the original")
    model = Transformer(config, device, seed=None).load(checkpoint.weights)
    inside: dict[int, Array] = {}
    seen: dict[str, Observed] = {}

    def observe(name: str, shape: tuple[int, int]) -> Matrix:
        seen[name] = Observed(checkpoint.weights[name], inside, device)
        return seen[name]

    replace_matrices(model, observe)
    pairs = [(s, (checkpoint.generation.start, *t)) for s, t in zip(sources, targets, strict=True) if s]
    pairs.sort(key=lambda pair: len(pair[0]))
    for part in (pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)):
        sizes = [min(-max(map(len, side)) // BUCKET * -BUCKET, config.max_length) for side in zip(*part, strict=True)]
        sizes[1] += sizes[0] == sizes[1]  # so that a length says which side it is of
        (source, there), (target, wanted) = (padded(s, n) for s, n in zip(zip(*part, strict=True), sizes, strict=True))
        inside |= {sizes[0]: there, sizes[1]: wanted}
        mask = upload(padding_mask(there.sum(1), sizes[0]), device)
        memory = model.encode(upload(source, device), mask)
        seen[f"{output_place(config)}.weight"].see(model.decode(upload(target, device), memory, mask))  # no logits
    found = {name: matrix.moment / matrix.count for name, matrix in seen.items() if matrix.count}
    for name in EMBEDDINGS:
        if name in found:  # it gives the logits as well
            found[name] = found[name] / found[name].diagonal().mean() + np.eye(len(found[name]))
    return {name: moment.astype(np.float32) for name, moment in found.items()}
