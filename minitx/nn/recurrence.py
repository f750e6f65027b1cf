"""SSRU: the recurrent sublayer that Marian's small models use in place of masked self-attention.

Axes: B batch, T target, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinygrad import Tensor

from .cache import Cache, store
from .ops import Linear

if TYPE_CHECKING:
    from tinygrad import UOp

    from ..config import Config


class SSRU:
    """The simpler simple recurrent unit (Kim et al. 2019, "From Research to Production and Back", section 3.1).

    f = sigmoid(x Wf + bf); c_t = f * c_(t-1) + (1 - f) * x W; the output is relu(c_t), and c starts at 0.
    """

    def __init__(self, config: Config, device: str):
        self.candidate = Linear(config.d_model, config.d_model, bias=False, device=device)
        self.forget = Linear(config.d_model, config.d_model, device=device)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the summand of the recurrence c' = f * c + u."""
        f = self.forget(x).sigmoid()
        return f, (1 - f) * self.candidate(x)

    def sequence(self, x: Tensor) -> Tensor:
        """All positions of x (B,T,C) at once, by a parallel prefix scan (Blelloch 1990): log2(T) passes.

        Two steps of the recurrence in a row are one: c'' = (f' f) c + (f' u + u').
        """
        f, u = self.gates(x)
        T, reach = int(x.shape[1]), 1  # noqa: N806
        while reach < T:
            before = (None, (reach, 0), None)
            f_before, u_before = f.pad(before, value=1.0)[:, :T], u.pad(before)[:, :T]  # (B,T,C), `reach` earlier
            f, u = (f * f_before).contiguous(), (f * u_before + u).contiguous()
            reach *= 2
        return u.relu()

    def shapes(self, rows: int, length: int) -> dict[str, tuple[int, ...]]:
        """What the cache of `rows` hypotheses holds of this layer, however long they get."""
        return {"rnn.c": (rows, int(self.forget.weight.shape[0]))}

    def step(self, x: Tensor, cache: Cache, layer: int, position: int | UOp) -> Tensor:
        """One token x (B,1,C); its cell goes into `cache`."""
        name = f"{layer}.rnn.c"
        f, u = self.gates(x)  # (B,1,C)
        cache[name] = store(cache[name], (f * cache[name].unsqueeze(1) + u).squeeze(1))  # (B,C)
        return cache[name].relu().unsqueeze(1)  # (B,1,C)
