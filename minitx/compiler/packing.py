"""What lies in memory as the kernels read it: the numbers of their headers, and matrices in the layout they stream.

A matrix is in panels of 16 of its rows, as kernels/linear.h describes them.

Axes: N rows (outputs), K columns (inputs), P panels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PANEL, GROUP = 16, 32
BYTES = {"none": 4, "f16": 2, "bf16": 2, "int8": 1, "int8w": 1}  # of an element; int4 is packed in groups
INT4_NIBBLES, INT4_SCALES = 256, 48  # bytes of a group of 32 columns in 16 rows; scales come with zero points
MAX_THREADS, TOP_MAX = 64, 80  # of kernels/sizes.h
TOP_STRIDE, TOP_CHUNKS = 768, 32  # bytes of what is kept of a chunk of logits, and how many there are: kernels/top.h


def padded(size: int, multiple: int) -> int:
    """`size` rounded up."""
    return -(-size // multiple) * multiple


def quantized_stride(k: int) -> int:
    """Bytes of a quantized row of K activations, as kernels/quantize.h lays it out."""
    return 64 + padded(4 * -(-k // GROUP), 64) + padded(k, 64)


def packed_bytes(scheme: str, n: int, k: int) -> int:
    """Bytes of a packed matrix (N,K) of a row of QUANTIZATIONS."""
    rows = padded(n, PANEL)
    if scheme == "int4":
        return rows // PANEL * (k // GROUP) * (INT4_NIBBLES + INT4_SCALES)
    if scheme in ("int8", "int8w"):
        return rows * padded(k, 4) + 4 * rows
    return rows * k * BYTES[scheme]


def panels(w: Array, multiple: int = 1) -> Array:
    """A matrix (N,K) as (P,16,K), with rows of zeros for a whole last panel, and K made a multiple of `multiple`."""
    n, k = w.shape
    if n % PANEL or k % multiple:
        w = np.pad(w, ((0, -n % PANEL), (0, -k % multiple)))
    return w.reshape(-1, PANEL, w.shape[1])


def pack_float(w: Array) -> Array:
    """float32, float16 or bfloat16 (as uint16) to [P][K][16], as bytes."""
    return np.ascontiguousarray(panels(w).transpose(0, 2, 1)).ravel().view(np.uint8)


def pack_int8(q: Array, scale: Array) -> Array:
    """int8 (N,K) with a float32 scale a row to [P][K/4][16][4], each value + 128, and the scales, as bytes."""
    blocks = panels(q, 4)  # (P,16,K)
    count, _, k = blocks.shape
    body = blocks.view(np.uint8).reshape(count, PANEL, k // 4, 4).transpose(0, 2, 1, 3) ^ np.uint8(128)  # (P,K/4,16,4)
    scales = np.zeros(count * PANEL, np.float32)
    scales[: len(scale)] = scale
    return np.concatenate([body.ravel(), scales.view(np.uint8)])


def pack_int4(nibbles: Array, scale: Array, zero: Array) -> Array:
    """0 to 15 (N,K) with a float16 scale and a zero point for each 32 columns: [P] of all nibbles, then the rest."""
    blocks, scales, zeros = panels(nibbles), panels(scale), panels(zero)
    count, _, k = blocks.shape
    # of a group: 4 times 8 columns, of which the first four are low nibbles and the last four high ones
    parts = blocks.reshape(count, PANEL, k // GROUP, 4, 2, 4).transpose(0, 2, 3, 4, 1, 5)  # (P,K/32,4,2,16,4)
    packed = (parts[:, :, :, 0] | parts[:, :, :, 1] << 4).reshape(count, -1)  # (P, K/32 * 256)
    rest = np.empty((count, k // GROUP, INT4_SCALES), np.uint8)
    halves = np.ascontiguousarray(scales.transpose(0, 2, 1)).astype(np.float16)
    rest[:, :, :32] = halves.view(np.uint8).reshape(count, k // GROUP, 32)
    rest[:, :, 32:] = zeros.transpose(0, 2, 1)
    return np.concatenate([packed, rest.reshape(count, -1)], axis=1).ravel()
