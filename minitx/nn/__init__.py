"""The model, one concern a file. What tinygrad reads from the environment is set before it is imported.

Axes have one letter everywhere: B batch, T target, S source, H heads, D head size, C channels, F feed-forward
width, V vocabulary.
"""

from ..toolchain import prepare

prepare()
