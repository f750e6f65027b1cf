"""A model as a folder of C for machines without a system: the package of package.py, less what needs one.

What the sources include of a C library is in package/bare, which stands first where headers are looked for. The
weights are linked in, and a program for a Cortex-M shows how all is used.
"""

from __future__ import annotations

from ...weights.checkpoint import Checkpoint
from .. import entry
from ..content import Content
from ..plan import plan
from . import c, package

BARE = entry.HERE / "package/bare"
FIXED = (  # of the other package
    *("open", "translate", "generate", "steps", "split", "tokenizer", "normalizer", "segment"),
    *("search", "alone", "linked"),
)
OWN = ("string.h", "math.h", "bare.c")
EXAMPLE = ("main.c", "machine.c", "machine.h", "machine.ld")
SOFT = """\
#if (defined(__arm__) && !defined(__ARM_FP)) || (defined(__riscv) && !defined(__riscv_flen)) || defined(MODEL_SOFT)
float {0}_bare_root(float x); /* the processor has no square root */
#define __builtin_sqrtf {0}_bare_root
#endif
"""


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The package's files by their place in it."""
    options.notice("planning the model ...")
    planned = plan(checkpoint.config)
    name = options.name
    kept = {f"src/{part}.c" for part in FIXED} | {"src/functions.c", "src/model.c", "src/runtime/search.c", f"{name}.h"}
    texts = {
        place: text
        for place, text in package.sources(planned, name, 1, embed=True).items()
        if place in kept or (place.startswith("src/") and place.endswith(".h"))
    }
    texts["src/sets_plain.c"] = c.sets(planned, package.machines()["plain"])
    texts |= {f"src/bare/{file}": package.read(BARE / file) for file in OWN}
    texts |= {f"example/{file}": package.read(BARE / file) for file in EXAMPLE}
    texts |= {"Makefile": package.read(BARE / "Makefile.in"), "README.md": package.read(BARE / "README.in")}
    flags = [flag for flag in package.flags() if flag not in ("-fPIC", "-pthread")]
    words = package.words(checkpoint, options) | {
        "MODEL_BYTES": f"{planned.weight_bytes:,}",
        "MODEL_SOURCES": " ".join([*FIXED, "bare"]),
        "MODEL_FLAGS": " ".join(flags),
    }
    made: dict[str, Content] = {place: package.fill(text, words) for place, text in texts.items()}
    prefix = package.identifier(name)
    made["src/prefix.h"] = package.renames(prefix) + SOFT.format(prefix)
    made[f"{name}.weights"] = lambda file: package.write_weights(planned, checkpoint, name, file)
    return made
