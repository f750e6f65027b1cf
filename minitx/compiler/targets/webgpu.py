"""A model as a folder for browsers that have WebGPU: the wasm package, and kernels in WGSL that take the model over.

The tokenizer and the search stay in WebAssembly, and so does the whole model wherever there is no GPU that computes the
same: package/web/gpu.js runs what `compiler/gpu.py` planned, package/web/webgpu.js says when.
"""

from __future__ import annotations

import json
from typing import Any

from ...weights.checkpoint import Checkpoint
from .. import gpu
from ..plan import Plan, plan
from ..weights import LOGIT_BIAS
from . import package, wasm

PARTS = """\
| `MODEL_NAME.gpu.json` | the kernels for a GPU and the order of their calls |
| `MODEL_NAME.gpu.js`, `MODEL_NAME.webgpu.js` | what runs them, and what decides whether they are used |
"""
CODE = """
  code: () => import("./MODEL_NAME.webgpu.js"),
  plan: new URL("./MODEL_NAME.gpu.json", import.meta.url),
"""
WORDS = {
    "MODEL_GPU": f"{{{CODE}}}",
    "MODEL_BACKENDS": f'"webgpu" | {wasm.BACKENDS}',
    "MODEL_PARTS": PARTS,
    "MODEL_KEPT": "".join(f', "MODEL_NAME.{part}"' for part in ("webgpu.js", "gpu.js", "gpu.json")),
}


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, package.Content]:
    """The package's files by their place in it; raises `ConfigError` for weights that no kernel here reads."""
    options.notice("planning the model ...")
    native, name = plan(checkpoint.config), options.name
    beam = max(gpu.BEAM, checkpoint.generation.beam)
    described = description(gpu.plan(checkpoint.config, native, beam), native, name, beam)
    texts = {f"{name}.{part}.js": package.read(wasm.WEB / f"{part}.js") for part in ("gpu", "webgpu")}
    texts[f"{name}.gpu.json"] = json.dumps(described, separators=(",", ":")) + "\n"
    words = {word: text.replace("MODEL_NAME", name) for word, text in WORDS.items()}
    return wasm.folder(checkpoint, native, options, wasm.Addition(texts, words))


def description(planned: Plan, native: Plan, name: str, beam: int) -> dict[str, Any]:
    """What package/web/gpu.js runs; a weight is a place in the first section of the weight file."""
    return {
        "fingerprint": f"{package.fingerprint(native, name):016x}",
        "beam": beam,
        "forbidden": gpu.FORBIDDEN,
        "bias": next(place for weight, place in native.weights if weight.kind == LOGIT_BIAS),
        "functions": [
            {
                "name": f.name,
                "arena": f.arena,
                "buffers": [
                    {"name": b.name, "role": b.role, "extent": b.extent, "bytes": b.bytes, "offset": b.offset}
                    for b in f.buffers
                ],
                "calls": [{"kernel": c.kernel, "arguments": c.arguments, "groups": c.groups} for c in f.calls],
            }
            for f in planned.functions
        ],
        "sources": planned.sources,
    }
