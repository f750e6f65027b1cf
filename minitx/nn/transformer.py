"""The encoder-decoder Transformer (Vaswani et al. 2017): weights, and pure functions of them.

Axes: B batch, T target, S source, C channels, V vocabulary. Tokens are int32; a decoder input of -1 is no token
(the zero vector). Masks are added to scores and hold 0 and minus infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from tinygrad import Tensor

from ..config import Config, choice
from ..errors import ConfigError, differences, several
from .cache import Cache, allocate
from .decoder import Decoder
from .embedding import Embedding, Output
from .encoder import Encoder
from .matrix import stored_as
from .ops import DTYPES, parameters, replace_matrices, upload
from .quant import check_rules, scheme

if TYPE_CHECKING:
    from tinygrad import UOp


class Transformer:
    """The model of `config` on a tinygrad device. `seed` draws its first weights; None leaves them unset.

    Weights are drawn as float32: raises `ConfigError` for a seed and a config that is quantized.
    """

    def __init__(self, config: Config, device: str = "CPU", seed: int | None = 0):
        tying = choice("tying", config.tying)
        self.config, self.device = config, device
        self._positions = choice("positions", config.positions)(config, device)
        self.source = Embedding(config.source_vocab, config, device)
        self.target = self.source if tying.target_is_source else Embedding(config.target_vocab, config, device)
        self.encoder = Encoder(config, device)
        self.decoder = Decoder(config, device)
        self.output = Output(config, self.target, tying.output_is_target, device)
        check_rules(config, [name for name, tensor in self.parameters().items() if tensor.ndim == 2])
        replace_matrices(self, lambda name, shape: stored_as(scheme(name, shape, config), shape, device))
        if seed is not None:
            if config.quantization != "none" or config.keep:
                raise ConfigError(
                    f"weights are drawn in float32, not as {config.quantization}; quantize them afterwards"
                )
            self.load(initial_weights(self, seed))

    def parameters(self) -> dict[str, Tensor]:
        """Every weight by its name, a tied one once."""
        return parameters(self)

    def load(self, weights: Mapping[str, np.ndarray]) -> Transformer:
        """Takes the weights of exactly these names and shapes; raises `ConfigError` that tells the difference."""
        own = self.parameters()
        shapes = {name: tuple(int(n) for n in tensor.shape) for name, tensor in own.items()}
        if wrong := differences("weights", shapes, {name: w.shape for name, w in weights.items()}):
            raise ConfigError(f"weights do not fit the config: {'; '.join(wrong)}")
        if odd := [n for n, tensor in own.items() if DTYPES.get(weights[n].dtype.name) != tensor.dtype]:
            how = f"must be stored as {self.config.quantization}"
            raise ConfigError(f"weights do not fit the config: {several(odd)} {how}")
        for name, tensor in own.items():
            tensor.replace(upload(weights[name], self.device))
        return self

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The source, tokens (B,S) with mask (B,1,1,S), to the memory (B,S,C)."""
        return self.encoder(self._positions.add(self.source(tokens)), mask)

    def new_cache(self, rows: int, source: int, length: int) -> Cache:
        """Room for `rows` hypotheses of at most `length` tokens over sources of `source` tokens; see cache.py."""
        return allocate(self.decoder.shapes(rows, source, length), self.device)

    def start(self, memory: Tensor, mask: Tensor, cache: Cache) -> Cache:
        """`cache` made ready for the first token, over memory (B,S,C) and mask (B,1,1,S); written in place."""
        return self.decoder.start(memory, mask, cache)

    def decode_step(self, tokens: Tensor, cache: Cache, position: int | UOp) -> tuple[Tensor, Cache]:
        """Tokens (B,), the inputs at `position`, to the logits (B,V) of the next ones and the cache after them.

        The cache is written in place: realize logits and cache together, and use the returned one from then on.
        """
        x = self._positions.add(self.target(tokens.unsqueeze(1)), position)  # (B,1,C)
        x, cache = self.decoder.step(x, cache, position)
        return self.output(x).squeeze(1), cache  # (B,V)

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Teacher forcing: source (B,S), decoder inputs (B,T) to logits (B,T,V), all positions at once."""
        return self.output(self.decode(target, self.encode(source, mask), mask))

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the logits are made of: decoder inputs (B,T) over memory (B,S,C) to (B,T,C), all positions at once."""
        return self.decoder(self._positions.add(self.target(target)), memory, mask)


def initial_weights(model: Transformer, seed: int) -> dict[str, np.ndarray]:
    """First weights: Glorot and Bengio 2010 for matrices, C^-0.5 normal for embeddings, norms 1, biases 0."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, tensor in model.parameters().items():
        shape = tuple(int(n) for n in tensor.shape)
        if name in ("source.weight", "target.weight"):
            value = random.normal(0, shape[1] ** -0.5, shape)
        elif len(shape) == 2:
            bound = (6 / sum(shape)) ** 0.5
            value = random.uniform(-bound, bound, shape)
        else:
            value = np.full(shape, float(name.endswith("weight")))
        weights[name] = value.astype(np.float32)
    return weights
