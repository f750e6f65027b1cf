"""Native engines of small models with random weights, and the tinygrad engine of the same."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from array import array
from pathlib import Path

import numpy as np

from minitx.compiler import entry, plan
from minitx.compiler.build import InstructionSet, instruction_sets
from minitx.compiler.store import LIBRARY, WEIGHTS
from minitx.config import Config, Generation, preset
from minitx.engines.jit import JitEngine
from minitx.engines.native import Library, NativeEngine
from minitx.nn.transformer import Transformer
from minitx.text.normalizer import CharacterMap, Normalizer
from minitx.text.segment import Vocabulary
from minitx.text.sentencepiece import SentencePiece
from minitx.weights.checkpoint import Checkpoint
from minitx.weights.quant import quantized
from minitx.weights.shapes import expected
from minitx.weights.shortlist import Allowed

SUPPRESS = (5, 50)
SMALL = {"source_vocab": 96, "target_vocab": 96, "encoder_layers": 2, "decoder_layers": 2, "max_length": 64}
CONFIGS = {
    "post": preset("tiny"),
    "ssru": preset("tiny", mixer="ssru", placement="pre", final_norm=True, positions="sinusoidal_split"),
    # nothing is a multiple of what a vector, a panel or a group holds
    "odd": Config(
        **SMALL | {"target_vocab": 101}, d_model=42, heads=3, d_ff=70, tying="none", output_bias=True, activation="gelu"
    ),
}


def checkpoint(name: str, quantization: str = "none", keep: tuple[str, ...] = ()) -> Checkpoint:
    """A model whose logits are far enough apart that rounding does not change their order."""
    return random_model(CONFIGS[name], quantization, keep)


def random_model(config: Config, quantization: str = "none", keep: tuple[str, ...] = ()) -> Checkpoint:
    """The same of any config."""
    random = np.random.default_rng(7)
    weights = {}
    for key, shape in expected(config).items():
        if len(shape) == 2:
            weights[key] = random.normal(0, 1.5 * shape[1] ** -0.5, shape).astype(np.float32)
        else:
            weights[key] = random.normal(float(key.endswith("weight")), 0.2, shape).astype(np.float32)
    generation = Generation(start=-1, end=0, suppress=SUPPRESS)
    tokenizer: object = None  # nothing here looks at it
    plain = Checkpoint(config, generation, tokenizer, tokenizer, weights, {})  # type: ignore[arg-type]
    return quantized(plain, quantization, keep)


def letters(size: int) -> SentencePiece:
    """A tokenizer of so many pieces, single letters."""
    pieces = ["</s>", "<unk>", "\u2581", *(chr(0x61 + i) for i in range(size - 3))]
    normalizer = Normalizer(CharacterMap(b""), dict.fromkeys(Normalizer.FLAGS, True) | {"whitespace_as_suffix": False})
    vocabulary = Vocabulary(pieces, array("f", [-1.0] * size), {0: "control", 1: "unknown"})
    return SentencePiece("unigram", vocabulary, normalizer, None, False, " ?? ")


def with_letters(name: str, quantization: str) -> Checkpoint:
    """A model with tokenizers, so that it can be exported."""
    model = checkpoint(name, quantization)
    tokenizers = letters(model.config.source_vocab), letters(model.config.target_vocab)
    return dataclasses.replace(model, source=tokenizers[0], target=tokenizers[1])


def runnable() -> list[InstructionSet]:
    """The instruction sets that this processor has, best first."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    needed = {"avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni", "avx2": "avx2"}
    return [row for row in instruction_sets() if needed.get(row.name, "") in ["", *flags]]


@functools.cache
def built(name: str, quantization: str, instruction_set: str | None = None) -> tuple[Path, dict]:
    """The library and the weights of a model in a folder, for one instruction set: by default this processor's best."""
    model = checkpoint(name, quantization)
    sets = [row for row in runnable() if instruction_set in (None, row.name)][:1]
    planned = plan.plan(model.config)
    folder = Path(tempfile.mkdtemp(prefix="minitx-test-"))
    (folder / LIBRARY).write_bytes(entry.library(planned, sets=sets))
    with (folder / WEIGHTS).open("wb") as file:
        entry.write_weights(planned, model, file)
    return folder, entry.interfaces(planned)


def native(
    name: str,
    quantization: str = "none",
    threads: int = 2,
    instruction_set: str | None = None,
    allowed: Allowed | None = None,
) -> NativeEngine:
    folder, functions = built(name, quantization, instruction_set)
    return NativeEngine(CONFIGS[name], Library(folder, threads, instruction_set), functions, allowed)


@functools.cache
def reference(name: str, quantization: str = "none", allowed: Allowed | None = None) -> JitEngine:
    model = checkpoint(name, quantization)
    return JitEngine(Transformer(model.config, "CPU", seed=None).load(model.weights), SUPPRESS, allowed=allowed)


def sentences(*lengths: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[*random.integers(1, 96, n - 1).tolist(), 0] for n in lengths]
