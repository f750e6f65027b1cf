"""`minitx info`: what a model is made of."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import common

if TYPE_CHECKING:
    from ..weights.checkpoint import Checkpoint

EXAMPLES = """examples:
  minitx info en-pt
  minitx info model.safetensors --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common.model_argument(parser)
    common.json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from ..engines.ready import standing
    from ..weights.names import open_model

    facts = describe(open_model(args.model))
    facts["engine"] = dict(zip(("name", "reason"), standing(args.model), strict=True))
    if args.json:
        common.print_json(facts)
        return
    for part, values in facts.items():
        print(part)
        for key, value in values.items():
            shown = common.size(value) if part == "bytes" else ", ".join(value) if isinstance(value, dict) else value
            print(f"  {key:<24} {shown}")


def describe(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What `minitx info` tells of a model, part by part."""
    from ..weights.shapes import parts

    sides = {"source": checkpoint.source, "target": checkpoint.target}
    sizes, shortlist = parts(checkpoint.weights), checkpoint.shortlist
    if shortlist:
        sizes["shortlist"] = shortlist.nbytes
    return {
        "architecture": {**checkpoint.config.to_dict(), "parameters": sum(w.size for w in checkpoint.weights.values())},
        "bytes": {**sizes, "total": sum(sizes.values())},
        "tokenizer": {side: f"{t.kind}, {len(t.pieces)} pieces" for side, t in sides.items()},
        **({"shortlist": {"always": shortlist.first, "candidates": len(shortlist.ids)}} if shortlist else {}),
        "generation": checkpoint.generation.to_dict(),
        "provenance": checkpoint.provenance,
    }
