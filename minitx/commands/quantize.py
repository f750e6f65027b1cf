"""`minitx quantize`: a smaller model, calibrated on a text, and the smallest mix that costs no more than is allowed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Error, InputError
from . import common

if TYPE_CHECKING:
    from ..config import Config
    from ..model import Model
    from ..weights.checkpoint import Checkpoint

EXAMPLES = """examples:
  minitx quantize en-pt small.safetensors --to int8
  minitx quantize en-pt small.safetensors --to int4 --calibrate sentences.txt --keep output=int8
  minitx quantize en-pt small.safetensors --auto --max-bleu-drop 0.3 pairs.tsv --calibrate sentences.txt

TEXT.txt holds sentences of the source language, one on each line: 100 are enough, 500 are better. PAIRS.tsv is that of
`minitx eval`; choose other sentences than those of TEXT.txt. A mix is int8 with some of its parts in int4.
"""

BASE, SMALL = "int8", "int4"  # what a mix is made of
Mix = tuple[str, ...]  # its parts that are SMALL


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    parser.add_argument("out", metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("pairs", metavar="PAIRS.tsv", nargs="?", help="sources and references, for --auto")
    parser.add_argument("--to", metavar="Q", help="how matrices are stored: int8, int8w, int4, f16, bf16")
    parser.add_argument("--keep", metavar="PART=Q", action="append", default=[], help="store a part otherwise")
    parser.add_argument("--calibrate", metavar="TEXT.txt", help="sentences to measure by what int4 must keep")
    parser.add_argument("--auto", action="store_true", help="the smallest mix of int8 and int4, by BLEU on PAIRS.tsv")
    parser.add_argument("--max-bleu-drop", type=float, default=0.3, metavar="F", help="that it may cost (default: 0.3)")
    parser.add_argument("--limit", type=common.positive, metavar="N", help="only the first N pairs")
    common.small_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..weights.names import open_model
    from ..weights.quant import quantized

    common.check_output(args.out)
    if args.auto == bool(args.to) or args.auto != bool(args.pairs) or (args.auto and args.keep):
        raise InputError("give either --to Q, with --keep if you like, or --auto and PAIRS.tsv")
    status, checkpoint = common.Status(), open_model(args.model)
    if not args.auto:
        quantized(checkpoint, args.to, args.keep)  # what is wrong with them is told before anything takes long
    moments = calibrate(args.model, args.calibrate, status) if args.calibrate else {}

    def make(quantization: str, keep: Iterable[str]) -> Checkpoint:
        return quantized(checkpoint, quantization, keep, moments)

    chosen = automatic(args, checkpoint, make, status) if args.auto else make(args.to, args.keep)
    common.write(chosen, args)


def load(name: str, status: common.Status) -> Model:
    """A model on the engine that is fastest here."""
    from ..model import load

    return load(name, notice=status, warn=status.note)


def calibrate(name: str, path: str, status: common.Status) -> Mapping[str, Any]:
    """The moments of the inputs of a model's matrices on the lines of a text; raises `Error`."""
    from ..weights.calibration import moments

    model = load(name, status)
    texts = common.read_lines(path, "a text file")
    sources = [tokens for text in texts if 0 < len(tokens := model.encode(text)) <= model.config.max_length]
    if not sources:
        raise InputError(f"{path}: holds no sentence; write one on each line")
    status(f"translating {len(sources)} sentences ...")
    targets = [found[0].tokens if found else () for found in model.generate(sources, beam=1)]
    status(f"calibrating on {len(sources)} sentences ...")
    found = moments(model.checkpoint, sources, targets)
    status("")
    return found


def automatic(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    make: Callable[[str, Iterable[str]], Checkpoint],
    status: common.Status,
) -> Checkpoint:
    """The smallest mix whose BLEU on the pairs is near enough to the plain model's; a table of all that was tried."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise Error("--auto needs the package sacrebleu; install it with: pip install sacrebleu")
    from .eval import read_pairs

    pairs = read_pairs(args.pairs, args.limit)
    plain = score(checkpoint, pairs, status)
    print(ROW.format("stored as", "size", "BLEU", "drop"), flush=True)
    report("as it is", checkpoint, plain, plain)

    def keep(mix: Mix) -> tuple[str, ...]:
        return tuple(f"{part}={SMALL}" for part in mix)

    def measure(mix: Mix) -> float:
        made = make(BASE, keep(mix))
        found = score(made, pairs, status)
        report(f"{BASE}, {SMALL} in {', '.join(mix) or 'nothing'}", made, found, plain)
        return plain - found

    def size(mix: Mix) -> int:
        return stored_bytes(dataclasses.replace(checkpoint.config, quantization=BASE, keep=keep(mix)))

    mix = smallest(parts(checkpoint), size, measure, args.max_bleu_drop)
    if mix is None:
        raise Error(f"even {BASE} costs more than {args.max_bleu_drop} BLEU; allow more, or choose f16")
    return make(BASE, keep(mix))


ROW = "{:<44} {:>9}  {:>6}  {:>5}"


def report(name: str, checkpoint: Checkpoint, bleu: float, plain: float) -> None:
    size = common.size(stored_bytes(checkpoint.config))
    print(ROW.format(name, size, f"{bleu:.2f}", f"{plain - bleu:.2f}"), flush=True)


def stored_bytes(config: Config) -> int:
    """Bytes of a model's weights, however they are stored, without making them."""
    import numpy as np

    from ..weights.shapes import stored

    return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in stored(config).values())


def parts(checkpoint: Checkpoint) -> list[str]:
    """What a mix stores one way or the other: the rules' parts that are matrices of their own."""
    from ..nn.quant import output_place

    own = output_place(checkpoint.config) == "output"
    return ["embedding", *(["output"] if own else []), "encoder", "decoder"]


def smallest(
    parts: Iterable[str], size: Callable[[Mix], int], measure: Callable[[Mix], float], allowed: float
) -> Mix | None:
    """The smallest mix that costs at most `allowed`, or None; `measure` is asked once for a mix.

    First each part alone. Then the mixes from the smallest on, but for those that hold a part too dear alone: what a
    mix costs is near the sum of its parts.
    """
    costs: dict[Mix, float] = {mix: measure(mix) for mix in ((), *((part,) for part in parts))}
    dear = {mix[0] for mix, cost in costs.items() if mix and cost > allowed}
    for mix in sorted(mixes([part for part in parts if part not in dear]), key=size):
        if mix not in costs:
            costs[mix] = measure(mix)
        if costs[mix] <= allowed:
            return mix
    return None


def mixes(parts: list[str]) -> Iterator[Mix]:
    return itertools.chain.from_iterable(itertools.combinations(parts, n) for n in range(len(parts) + 1))


def score(checkpoint: Checkpoint, pairs: list[tuple[str, str]], status: common.Status) -> float:
    """BLEU of a model on pairs, by sacrebleu with its defaults and greedy search."""
    from sacrebleu.metrics import BLEU

    from ..weights.checkpoint import save

    sources, references = zip(*pairs, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        save(checkpoint, path)
        model = load(path, status)
        status(f"translating {len(pairs)} sentences ...")
        hypotheses = model(list(sources), beam=1)
    status("")
    found: float = BLEU().corpus_score(hypotheses, [list(references)]).score
    return found
