"""minitx: a compact encoder-decoder Transformer on tinygrad tensors, from checkpoint to any device.

    import minitx
    m = minitx.load("en-pt")
    m("How are you today?")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import Config, Generation
from .errors import ConfigError, DeviceError, Error, FileError, InputError
from .version import __version__

if TYPE_CHECKING:
    from .engines.hypotheses import Hypothesis
    from .model import Model, Translation, load
    from .nn.transformer import Transformer

__all__ = [
    "Config",
    "ConfigError",
    "DeviceError",
    "Error",
    "FileError",
    "Generation",
    "Hypothesis",
    "InputError",
    "Model",
    "Transformer",
    "Translation",
    "__version__",
    "load",
]

_LAZY = {
    "Hypothesis": "engines.hypotheses",
    "Model": "model",
    "Transformer": "nn.transformer",
    "Translation": "model",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
