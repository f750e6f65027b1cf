"""From tensors to source code for a target, without the target. What tinygrad reads is set before it is imported."""

from ..toolchain import prepare

prepare()
