"""How the matrices of a model are stored, in memory and in the file.

A row says in which safetensors dtype a matrix stands under its own name. The rows to come (int8 for each output
row, int4 in groups, f16, bf16) store integers or halves there; those with a scale have it as float32 beside the
matrix, under the matrix's name and `.scale`. Vectors (biases, norms) are float32 in every row.
"""

from __future__ import annotations

QUANTIZATIONS: dict[str, str] = {"none": "F32"}


def scheme(name: str, shape, config) -> str:
    return config.quantization
