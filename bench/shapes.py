"""The models that are measured: MarianMT checkpoints of given shapes with random weights.

The end token and the padding have a logit of -1e9, so that every engine makes as many steps as it is asked for without
a rule that costs it time, and the padding's embedding is zero, from which CTranslate2 starts.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path

END, NEVER = 0, -1e9
WEIGHT = {"f32": 4.0, "int8": 1.0, "int4": 0.5 + 3 / 32}  # bytes of one; int4 has 3 for each group of 32


@dataclass(frozen=True)
class Shape:
    d: int
    heads: int
    ffn: int
    encoder: int
    decoder: int
    vocab: int
    precisions: tuple[str, ...]

    @property
    def pad(self) -> int:
        return self.vocab - 1

    def step_bytes(self, precision: str, sentences: int, beam: int, source: int, target: float) -> float:
        """What one step must read: the decoder's matrices, the output's, and keys and values, in float32.

        The source's keys and values are those of its sentence, for all beams.
        """
        matrices = self.decoder * (6 * self.d**2 + 2 * self.d * self.ffn) + self.vocab * self.d
        cache = self.decoder * 2 * self.d * 4 * sentences * (source + beam * target)
        return matrices * WEIGHT[precision] + cache

    def encoder_bytes(self, precision: str) -> float:
        """What encoding a source must read: the encoder's matrices, and those of its keys and values."""
        layers = self.encoder * (4 * self.d**2 + 2 * self.d * self.ffn)
        return (layers + self.decoder * 2 * self.d**2) * WEIGHT[precision]


ALL = ("int8", "f32", "int4")
SHAPES = {
    "base": Shape(512, 8, 2048, 6, 6, 32000, ALL),  # Marian's transformer-base, OPUS-MT
    "small": Shape(512, 8, 2048, 6, 6, 32128, ALL),  # T5-small's sizes
    "en-pt": Shape(256, 8, 1536, 6, 2, 32000, ALL),  # Firefox Translations, with attention in place of its SSRU
    "large": Shape(1024, 16, 4096, 12, 12, 128112, ("int8",)),  # M2M-100 418M
    "tiny": Shape(64, 4, 128, 2, 2, 512, ALL),  # for tests of the bench itself
}


def write(shape: Shape, folder: Path, longest: int = 2304) -> None:
    """A checkpoint of transformers with random weights, with the vocabulary that converters ask for."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=shape.vocab,
        d_model=shape.d,
        encoder_layers=shape.encoder,
        decoder_layers=shape.decoder,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.ffn,
        decoder_ffn_dim=shape.ffn,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=longest,
        pad_token_id=shape.pad,
        eos_token_id=END,
        forced_eos_token_id=None,
        decoder_start_token_id=shape.pad,
    )
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed_positions" not in name:
                weight.normal_(0, weight.shape[1] ** -0.5)
        model.model.shared.weight[shape.pad] = 0
        model.final_logits_bias[0, [END, shape.pad]] = NEVER
    model.save_pretrained(folder)
    write_vocabulary(shape, folder)


def write_vocabulary(shape: Shape, folder: Path) -> None:
    """`vocab.json` and both `.spm`: tokens by number, of which no text is made."""
    pieces = names(shape)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))

    def field(number: int, value: bytes) -> bytes:  # of a Protocol Buffers message
        return bytes([number << 3 | 2, len(value)]) + value

    data = b""
    for piece, kind in (("</s>", 3), ("<unk>", 2), ("\u2581w", 1)):
        data += field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", -1.0) + bytes([3 << 3, kind]))
    data += field(2, bytes([3 << 3, 1])) + field(3, field(1, b"identity"))
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(data)


def names(shape: Shape) -> list[str]:
    """The piece of each token."""
    return ["</s>", "<unk>", *(f"w{i}" for i in range(2, shape.pad)), "<pad>"]


def sentences(shape: Shape, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Random sources of these lengths, the end included."""
    draw = random.Random(seed)
    return [[*(draw.randrange(2, shape.pad) for _ in range(n - 1)), END] for n in lengths]
