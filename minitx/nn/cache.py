"""What a decoder remembers between steps: a flat dict of tensors that the caller owns, one row a hypothesis.

| key            | shape           | holds                                                          |
|----------------|-----------------|----------------------------------------------------------------|
| "mask"         | (B, 1, 1, S)    | 0 where the source is, minus infinity where it is padding      |
| "{i}.cross.k"  | (B, H, S, D)    | keys of layer i over the encoder's output; "{i}.cross.v" alike |
| "{i}.self.k"   | (B, H, T, D)    | keys of the tokens so far, T at most; "{i}.self.v" alike       |
| "{i}.rnn.c"    | (B, C)          | the cell of layer i, where the mixer is recurrent              |

An engine may keep more there that goes with the rows. `store` writes in place, within the schedule of what reads it:
what a step returns, logits and cache, has to be realized together.
"""

from __future__ import annotations

from tinygrad import Tensor, UOp

Cache = dict[str, Tensor]


def allocate(shapes: dict[str, tuple[int, ...]], device: str) -> Cache:
    """A cache of these shapes, its memory set aside but not yet written."""
    cache = {name: Tensor.empty(*shape, device=device) for name, shape in shapes.items()}
    for tensor in cache.values():  # TinyJit takes a tensor without memory for a constant
        tensor.uop.base.buffer.ensure_allocated()
    return cache


def store(kept: Tensor, new: Tensor, position: int | UOp | None = None) -> Tensor:
    """`kept` after `new` was written over it: all of it, or at `position` of its axis 2 (new has 1 there)."""
    where = kept if position is None else kept[:, :, position : position + 1]
    return Tensor(kept.uop.after(where.uop.store(new.cast(kept.dtype).uop)))
