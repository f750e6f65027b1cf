"""`minitx eval`: how good the translations of a model are, against references."""

from __future__ import annotations

import argparse
import importlib.util
import time

from ..config import pick
from ..errors import Error, InputError
from . import common

EXAMPLES = """examples:
  minitx eval en-pt pairs.tsv
  minitx eval en-pt pairs.tsv --limit 200 --json
  minitx eval pt-en pairs.tsv --swap          the second column is the source

PAIRS.tsv holds a source, a tab and its reference on each line, in UTF-8. Scores are sacrebleu's with its defaults.
"""

METRICS = {"bleu": "BLEU", "chrf": "CHRF"}  # a name here, and the class of sacrebleu.metrics


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    parser.add_argument("pairs", metavar="PAIRS.tsv", help="sources and references")
    parser.add_argument("--limit", type=common.positive, metavar="N", help="only the first N pairs")
    parser.add_argument("--swap", action="store_true", help="the second column is the source")
    parser.add_argument("--metric", action="append", choices=list(METRICS), help="what to compute (default: all)")
    common.search_arguments(parser)
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("sacrebleu") is None:
        raise Error("eval needs the package sacrebleu; install it with: pip install sacrebleu")
    from sacrebleu import metrics
    from tqdm import tqdm

    pairs = read_pairs(args.pairs, args.limit)
    sources, references = zip(*(pair[::-1] if args.swap else pair for pair in pairs), strict=True)
    status = common.Status()
    model = common.load(args, status)
    status.shown = False
    started = time.perf_counter()
    with tqdm(unit="sentence", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        hypotheses = model(list(sources), progress=progress, **common.search_options(args))
    seconds = time.perf_counter() - started
    result: dict[str, object] = {"model": args.model, "pairs": len(pairs), "seconds": round(seconds, 2)}
    for name in args.metric or METRICS:
        metric = getattr(metrics, pick(METRICS, name, "metric"))()
        result[name] = round(metric.corpus_score(hypotheses, [list(references)]).score, 2)
        result[f"{name}_signature"] = str(metric.get_signature())
    if args.json:
        common.print_json(result)
    else:
        print("\n".join(f"{key:<16} {value}" for key, value in result.items()))


def read_pairs(path: str, limit: int | None) -> list[tuple[str, str]]:
    """The first `limit` pairs of a file of two columns; raises `FileError` or `InputError` that names the line."""
    pairs = []
    for number, line in enumerate(common.read_lines(path, "a file of tab-separated pairs", limit), 1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {number}: {len(columns)} columns; a line is a source, a tab and a reference"
            )
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise InputError(f"{path}: empty; a line is a source, a tab and a reference")
    return pairs
