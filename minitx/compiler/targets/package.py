"""A model as a folder of C that needs nothing but libc and pthread: `targets/c.py`'s code of the plan, the runtime and
search of the native engine, the fixed parts in compiler/package, and one file of weights.

The weight file is described in package/model.h. All names that C exports begin with the model's own, so that one
program can hold several models: `minitx_` becomes that prefix in every source, and a file that is included before all
others renames the rest.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import InputError
from ...version import __version__
from ...weights.checkpoint import Checkpoint
from ...weights.shortlist import Shortlist
from .. import build, entry, tokenizers
from ..packing import MAX_THREADS
from ..plan import Function, Plan, plan
from . import c

MAGIC, FORMAT, ORDER = b"minitxw\0", 1, 0x01020304
HEAD = struct.Struct("<8sIIQQQ8Q4iddii")  # `Head` of package/model.h
SUMMED = 24  # where in it the checksummed part begins, and the checksum ends
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PENALTIES = ("power", "wu")  # as runtime/search.h numbers them
FIXED = ("open", "file", "translate", "turns", "tokenizer", "normalizer", "segment")  # sources of package/
HEADERS = ("model.h", "tokenizer.h", "tables.h")
RENAMED = (  # what the other sources export
    *(f"search_{name}" for name in ("bytes", "start", "prepare", "step", "rows", "advance", "hypothesis")),
    *(f"team_{name}" for name in ("bytes", "start", "size", "stop", "run", "wait")),
    *(f"tokenizer_{name}" for name in ("open", "workspace", "encode", "replaced", "decode")),
    *(f"tokenizer_{name}" for name in ("character", "repair", "normalize", "piece")),
    *("TOKENIZER_SEGMENTERS", "nanoseconds"),
)
# The areas of a workspace that every model has, as package/model.h numbers them; what differs by function has both.
AREAS = {
    "encode": {"tokens": 0, "positions": 1, "starts": 2, "candidates": 3},
    "step": {
        "starts": 2,
        "candidates": 3,
        "allowed": 4,
        "tokens": 5,
        "sources": 6,
        "slots": 7,
        "ids": 8,
        "scores": 9,
    },
}
FIXED_AREAS = 10
EXTENTS = {"rows": "OF_ROWS", "source": "OF_SOURCE", "cache": "OF_CACHE", "chosen": "OF_CHOSEN"}
Content = str | bytes | Callable[[IO[bytes]], object]  # of a file, or what writes the file, which can also be read


@dataclass(frozen=True)
class Options:
    """What a package is made like: the name of its files and the most threads that it can use.

    `notice` is told how far it is.
    """

    name: str
    threads: int = MAX_THREADS
    notice: Callable[[str], object] = lambda message: None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            what = f"name {self.name!r} must be letters, digits, '.', '_' and '-'"
            raise InputError(f"{what}; choose another with --name")
        if not 1 <= self.threads <= MAX_THREADS:
            raise InputError(f"threads must be from 1 to {MAX_THREADS}, not {self.threads}")


def files(checkpoint: Checkpoint, options: Options) -> dict[str, Content]:
    """The package's files by their place in it."""
    name, threads = options.name, options.threads
    options.notice("planning the model ...")
    planned = plan(checkpoint.config)
    texts = fill(sources(planned, name, threads), words(checkpoint, planned, options))
    made: dict[str, Content] = {**texts, "src/prefix.h": renames(identifier(name))}
    made[f"{name}.weights"] = lambda file: write_weights(planned, checkpoint, name, file)
    return made


def words(checkpoint: Checkpoint, planned: Plan, options: Options) -> dict[str, str]:
    """What stands for what in the package's texts."""
    name, threads, prefix = options.name, options.threads, identifier(options.name)
    languages = [str(checkpoint.provenance.get(key)) for key in ("source", "target")]
    known = all(re.fullmatch("[a-z]{2,3}", language) for language in languages)
    return {
        **{
            f"MODEL_{end}": language if known else "" for end, language in zip(("FROM", "INTO"), languages, strict=True)
        },
        "MODEL_NAME": name,
        "MODEL_TITLE": f"{name}: translates {' to '.join(languages)}" if known else f"{name}: translates",
        "MODEL_LONGEST": str(checkpoint.config.max_length),
        "MODEL_THREADS": str(threads),
        "MODEL_SETS": sets_of_machines(),
        "MODEL_SOURCES": " ".join(parts(threads)),
        "MODEL_FLAGS": " ".join(flag for flag in build.FLAGS if not flag.startswith(("-O", "-std="))),
        "MODEL_VERSION": __version__,
        "MODEL_BYTES": f"{planned.weight_bytes:,}",
        "minitx_": f"{prefix}_",
        "MINITX_": f"{prefix.upper()}_",
    }


def fill(texts: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Texts with the model's own words in them."""
    pattern = re.compile("|".join(words))
    return {place: pattern.sub(lambda m: words[m[0]], text) for place, text in texts.items()}


def parts(threads: int) -> list[str]:
    """The sources that are compiled once, by name."""
    return [*FIXED, "search", "team" if threads > 1 else "alone"]


def units(machine: str, threads: int) -> list[build.Unit]:
    """What is compiled of a package for a kind of machine, but for the command."""
    once = [*parts(threads), "model", f"sets_{machine if machine in machines() else 'plain'}"]
    places = {"search": "runtime/search.c"}
    return [
        *(build.Unit(part, f'#include "src/{places.get(part, f"{part}.c")}"\n') for part in once),
        *(
            build.Unit(
                f"functions_{row.name}", '#include "src/functions.c"\n', (*row.flags, f"-DSET(x)=x##_{row.name}")
            )
            for row in build.instruction_sets(machine)
        ),
    ]


def command(name: str) -> build.Unit:
    """The command, whose weights are beside it."""
    return build.Unit("main", f'#define MODEL_WEIGHTS "{name}.weights"\n#include "src/main.c"\n')


def sources(planned: Plan, name: str, threads: int) -> dict[str, str]:
    """The package's texts before the model's name is in them."""
    team = [entry.HERE / "runtime/team.c"] if threads > 1 else [entry.HERE / "package/alone.c"]
    found = [
        *(entry.HERE / f"package/{part}.c" for part in (*FIXED, "main")),
        *(entry.HERE / f"package/{part}" for part in HEADERS),
        *team,
    ]
    texts = {f"src/{file.name}": read(file) for file in found}
    shared = [*(entry.HERE / "kernels").glob("*.h"), *(entry.HERE / "runtime").glob("*.h")]
    shared.append(entry.HERE / "runtime/search.c")
    texts |= {f"src/{file.parent.name}/{file.name}": read(file) for file in sorted(shared)}
    texts |= {f"src/sets_{machine}.c": c.sets(planned, supported) for machine, supported in machines().items()}
    texts["src/functions.c"] = c.functions(planned)
    texts["src/model.c"] = description(planned, name, threads)
    texts["Makefile"] = read(entry.HERE / "package/Makefile.in")
    texts["README.md"] = read(entry.HERE / "package/README.in")
    texts[f"{name}.h"] = read(entry.HERE / "package/interface.h")
    return texts


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def machines() -> dict[str, dict[str, str]]:
    """For each kind of machine that has instruction sets of its own on Linux, and for all others: where each runs."""
    rows = {name: build.instruction_sets(name) for name in ("x86_64", "aarch64", "plain")}
    return {machine: {row.name: row.supported for row in own} for machine, own in rows.items()}


def sets_of_machines() -> str:
    """The same for make, with the flags of each set."""
    lines = [f"SETS_{machine} := {' '.join(rows)}" for machine, rows in machines().items() if machine != "plain"]
    own = [row for machine in ("x86_64", "aarch64") for row in build.instruction_sets(machine)]
    return "\n".join([*lines, *(f"FLAGS_{row.name} := {' '.join(row.flags)}".rstrip() for row in own)])


def identifier(name: str) -> str:
    """A model's name as C can have it."""
    word = re.sub(r"\W", "_", name)
    return f"m{word}" if word[0].isdigit() else word


def renames(prefix: str) -> str:
    """Renames what the sources export beside what already has the model's name."""
    sets = [f"{part}_{name}" for rows in machines().values() for name in rows for part in ("functions", "scratch")]
    return "".join(f"#define {name} {prefix}_{name}\n" for name in (*RENAMED, *sets))


def fingerprint(planned: Plan, name: str) -> int:
    """Tells the weight files of one model from those of others, and of other plans of the same."""
    return int.from_bytes(hashlib.sha256(f"{name} {planned.to_json()}".encode()).digest()[:8], "little")


def description(planned: Plan, name: str, threads: int) -> str:
    """What package/ knows of the model."""
    own: dict[str, int] = {}
    rows: list[str] = []

    def area(function: Function, i: int) -> int:
        buffer = function.buffers[i]
        if buffer.role == "input" or buffer.name in ("ids", "scores"):
            return AREAS[function.name][buffer.name]
        if buffer.name not in own:
            extent = "source" if function.name == "encode" and buffer.extent == "rows" else buffer.extent
            own[buffer.name] = FIXED_AREAS + len(own)
            rows.append(f"{{{EXTENTS[extent]}, {buffer.bytes}}}, ")
        return own[buffer.name]

    both = [[area(f, i) for i in c.externals(f.buffers)] for f in planned.functions]
    tables = [
        f"static const int16_t {f.name}[] = {{ {', '.join(map(str, numbers))}, -1 }};"
        for f, numbers in zip(planned.functions, both, strict=True)
    ]
    config = planned.config
    return "\n".join(
        [
            '#include "model.h"\n',
            f"static const Area areas[] = {{ {''.join(rows)}{{0, 0}} }};",
            *tables,
            "const Description minitx_description = {",
            f"    .fingerprint = {fingerprint(planned, name)}u, .weight_bytes = {planned.weight_bytes},",
            f"    .source_vocabulary = {config['source_vocab']}, .target_vocabulary = {config['target_vocab']},",
            f"    .longest = {config['max_length']}, .threads = {threads}, .areas = areas,",
            f"    .buffers = {{ {', '.join(f.name for f in planned.functions)} }},",
            "};",
            "",
        ]
    )


def write_weights(planned: Plan, checkpoint: Checkpoint, name: str, file: IO[bytes]) -> None:
    """The weight file; `file` can also be read."""
    places: list[int] = []
    file.write(b"\0" * HEAD.size)

    def section(write: Callable[[], object]) -> None:
        file.write(b"\0" * (-file.tell() % 64))
        start = file.tell()
        write()
        places.extend([start, file.tell() - start])

    source = tokenizers.pack(checkpoint.source)
    target = source if checkpoint.target is checkpoint.source else tokenizers.pack(checkpoint.target)
    section(lambda: entry.write_weights(planned, checkpoint, file))
    section(lambda: file.write(source))
    if target is source:
        places.extend(places[-2:])
    else:
        section(lambda: file.write(target))
    shortlist, number = checkpoint.shortlist, 2 if checkpoint.config.target_vocab <= 1 << 16 else 4
    section(lambda: file.write(pack_shortlist(shortlist, number) if shortlist else b""))
    file.write(b"\0" * (-file.tell() % 64))
    size, own = file.tell(), checkpoint.generation
    penalty = PENALTIES.index(own.length_penalty)
    options = own.start, own.end, own.beam, penalty, own.alpha, own.length_factor
    listed = shortlist.first if shortlist else 0, number
    head = fingerprint(planned, name), size, *places, *options, *listed
    file.seek(0)
    file.write(HEAD.pack(MAGIC, FORMAT, ORDER, 0, *head))
    file.flush()
    file.seek(0)
    file.write(HEAD.pack(MAGIC, FORMAT, ORDER, checksum(file), *head))


def pack_shortlist(shortlist: Shortlist, number: int) -> bytes:
    """Where the ids of each source token begin, and the ids."""
    return shortlist.starts.astype("<u4").tobytes() + shortlist.ids.astype(f"<u{number}").tobytes()


def checksum(file: IO[bytes]) -> int:
    """The sum of a file's 64-bit words behind its own, each times 2 * its index + 1; leaves the file at its start."""
    total, index = 0, 0
    file.seek(SUMMED)
    while block := file.read(1 << 23):
        words = np.frombuffer(block, "<u8")
        factors = 2 * np.arange(index, index + len(words), dtype=np.uint64) + np.uint64(1)
        total, index = (total + int((words * factors).sum())) % (1 << 64), index + len(words)
    file.seek(0)
    return total
