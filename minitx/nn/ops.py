"""The operations that every layer is made of, in their plain tensor form: the reference on every device.

Axes: B batch, T target, S source, C channels, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tinygrad import Device, Tensor, dtypes

from .matrix import Matrix

DTYPES = {name: getattr(dtypes, name) for name in ("float32", "int32", "float16", "uint16", "int8", "uint8")}
LOWEST = float(np.finfo(np.float32).min)


class Linear:
    """y = x W^T + b, with W (out, in) as PyTorch keeps it: rows of W are read one after another."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, device: str = "CPU"):
        self.weight: Tensor | Matrix = Tensor.empty(outputs, inputs, device=device)
        self.bias = Tensor.empty(outputs, device=device) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def upload(values: np.ndarray, device: str) -> Tensor:
    """Values of a type in DTYPES on a device, by a plain copy: nothing is scheduled for it."""
    tensor = Tensor.empty(*values.shape, dtype=DTYPES[values.dtype.name], device=device)
    buffer = tensor.uop.base.buffer.ensure_allocated()
    buffer.allocator._copyin(buffer._buf, np.array(values, order="C").data.cast("B"))  # OpenCL: writable only
    Device[buffer.device].synchronize()
    return tensor


def linear(x: Tensor, weight: Tensor | Matrix, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (out, in) transposed, plus bias (out,): (..., out)."""
    y = weight.product(x) if isinstance(weight, Matrix) else x @ weight.transpose()  # (..., out)
    return y if bias is None else y + bias


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis. A row that is minus infinity everywhere gives zeros, not NaN."""
    e = (x - x.max(-1, keepdim=True).maximum(LOWEST)).exp()
    return e / e.sum(-1, keepdim=True).maximum(1e-30)  # the sum is at least 1 unless all is masked


def log_softmax_top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The arg-max of each row of logits (B, V) and its log-probability: (B,) int32 and (B,) float32."""
    best = logits.max(-1, keepdim=True)  # (B, 1)
    log_sum = (logits - best).exp().sum(-1).log()  # (B,)
    return logits.argmax(-1).cast(dtypes.int32), -log_sum


def padding_mask(lengths: np.ndarray, size: int) -> np.ndarray:
    """The mask that hides what is behind each length: (B, 1, 1, S) of 0 and minus infinity, to be added to scores."""
    hidden = np.arange(size)[None, :] >= np.asarray(lengths)[:, None]  # (B, S)
    return np.where(hidden, -np.inf, 0).astype(np.float32)[:, None, None, :]  # (B, 1, 1, S)


def replace_matrices(module: object, make: Callable[[str, tuple[int, int]], Matrix | None]) -> None:
    """Puts what `make` gives for a name and shape in the place of each weight (out, in); None leaves it."""
    for name, tensor in parameters(module).items():
        if tensor.ndim == 2 and (made := make(name, (int(tensor.shape[0]), int(tensor.shape[1])))) is not None:
            *path, last = name.split(".")
            setattr(functools.reduce(child, path, module), last, made)


def child(module: Any, key: str) -> Any:
    """What stands in a module under one part of a dotted name."""
    return module[int(key)] if key.isdigit() else getattr(module, key)


def parameters(module: object, prefix: str = "") -> dict[str, Tensor]:
    """Every weight under `module` by its dotted name, a shared one once, under its first name.

    What starts with an underscore is not a weight: position tables, for one.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(value: object, name: str) -> None:
        if id(value) in seen:
            return
        if isinstance(value, Tensor):
            seen.add(id(value))
            found[name] = value
            return
        items: Mapping[str, object] = {}
        if isinstance(value, Matrix):
            seen.add(id(value))
            found.update({name + end: part for end, part in value.parts.items()})
        elif isinstance(value, list):
            items = {str(i): v for i, v in enumerate(value)}
        elif hasattr(value, "__dict__"):
            seen.add(id(value))
            items = {k: v for k, v in vars(value).items() if not k.startswith("_")}
        for key, child in items.items():
            visit(child, f"{name}.{key}" if name else key)

    visit(module, prefix)
    return found
