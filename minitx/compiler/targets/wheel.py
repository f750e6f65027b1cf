"""A model as a Python wheel: the compiled library of the C package, the weight file, and an interface in one file.

The wheel is written as the format asks (https://packaging.python.org/en/latest/specifications/binary-distribution-format),
with the same time on every file, so that the same model and compiler give the same wheel.
"""

from __future__ import annotations

import base64
import hashlib
import keyword
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ...errors import InputError
from ...version import __version__
from ...weights.checkpoint import Checkpoint
from .. import entry
from ..content import Content
from ..shared import Shared, shared
from . import package

FIXED, MODULES = entry.HERE / "package/python", ("__init__.py", "__main__.py")
PYTHON = "3.9"  # the oldest that the interface runs on
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can say
FIELDS = re.compile(r"\bint (?P<ints>\w+(?:, \w+)*);|\(\*(?P<call>\w+)\)\([^)]*\);|\bvoid \*(?P<pointer>\w+);")


def files(checkpoint: Checkpoint, options: package.Options) -> dict[str, Content]:
    """The wheel, by its name. Raises `DeviceError` where the library cannot be compiled."""
    check_name(options.name)
    made = package.files(checkpoint, options)
    texts = {place: content for place, content in made.items() if isinstance(content, str)}
    library = shared(texts, options.threads, options.arch, options.notice)
    content = contents(checkpoint, options, made, library)
    name = f"{distribution(options.name)}-{__version__}-py3-none-{library.tag}.whl"
    return {name: lambda file: write(content, file)}


def check_name(name: str) -> None:
    """Raises `InputError` for a model's name that a distribution or a module cannot have."""
    taken = module(name) in sys.stdlib_module_names or keyword.iskeyword(module(name))
    if taken or not DISTRIBUTION.fullmatch(name):
        why = "is a module of Python's own or a keyword" if taken else "must end in a letter or digit, for a wheel"
        raise InputError(f"name {name!r} {why}; choose another with --name")


def distribution(name: str) -> str:
    """A model's name as the names of wheels have it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def module(name: str) -> str:
    """The package to import."""
    return package.identifier(distribution(name))


def contents(
    checkpoint: Checkpoint, options: package.Options, made: Mapping[str, Content], library: Shared
) -> dict[str, Content]:
    """The wheel's files by their place in it, but for RECORD; `made` is the C package."""
    name, own = options.name, module(options.name)
    header = made[f"{name}.h"]
    assert isinstance(header, str)
    words = package.words(checkpoint, options) | {
        "MODEL_MODULE": own,
        "MODEL_LIBRARY": f"lib{own}{library.suffix}",
        "MODEL_PYTHON": PYTHON,
        "MODEL_SOURCE_TOKENS": str(checkpoint.config.source_vocab),
        "MODEL_TARGET_TOKENS": str(checkpoint.config.target_vocab),
        "MODEL_MOST_BEAM": str(package.MAX_BEAM),
        "MODEL_BEAM": str(max(package.DEFAULT_BEAM, checkpoint.generation.beam)),
        **structures(header, package.identifier(name)),
    }
    texts = {place: package.fill(package.read(FIXED / place), words) for place in ("README.in", *MODULES)}
    info = f"{distribution(name)}-{__version__}.dist-info"
    return {
        **{f"{own}/{place}": texts[place] for place in MODULES},
        f"{own}/py.typed": "",
        f"{own}/{words['MODEL_LIBRARY']}": library.data,
        f"{own}/{name}.weights": made[f"{name}.weights"],
        f"{info}/METADATA": metadata(checkpoint, name, words["MODEL_TITLE"]) + texts["README.in"],
        f"{info}/WHEEL": "".join([wheel_head(), *(f"Tag: py3-none-{tag}\n" for tag in library.tag.split("."))]),
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {own}.__main__:main\n",
        f"{info}/top_level.txt": f"{own}\n",
    }


def structures(header: str, prefix: str) -> dict[str, str]:
    """What the interface has to know of the C header: the names of errors, and of the fields of its structures.

    They are written between the quotes of a list.
    """

    def fields(structure: str) -> str:
        body = re.search(rf"typedef struct {{([^{{}}]*)}} {prefix}_{structure};", header)
        assert body, f"the header has no structure {structure}"
        code = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
        found = [m[m.lastgroup or 0] for m in FIELDS.finditer(code)]
        assert not FIELDS.sub("", code).replace("int", "").strip(), f"the interface cannot have all of {code}"
        return '", "'.join(", ".join(found).split(", "))

    errors = re.findall(rf"^    {prefix.upper()}_(\w+),", header, flags=re.M)
    return {
        "MODEL_ERRORS": '", "'.join(errors),
        "MODEL_LIMITS": fields("limits"),
        "MODEL_OPTIONS": fields("options"),
    }


def metadata(checkpoint: Checkpoint, name: str, title: str) -> str:
    licence = checkpoint.provenance.get("licence")
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {__version__}",
        f"Summary: {title}",
        *([f"License: {' '.join(licence.split())}"] if isinstance(licence, str) else []),
        f"Requires-Python: >={PYTHON}",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join([*lines, "", ""])


def wheel_head() -> str:
    return f"Wheel-Version: 1.0\nGenerator: minitx {__version__}\nRoot-Is-Purelib: false\n"


def write(content: Mapping[str, Content], file: IO[bytes]) -> None:
    """Writes the wheel, with the hash of each file in RECORD at its end."""
    record = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel, tempfile.TemporaryFile() as whole:
        for place, what in content.items():
            whole.seek(0)
            whole.truncate()
            if callable(what):
                what(whole)
            else:
                whole.write(what.encode() if isinstance(what, str) else what)
            whole.seek(0)
            digest = base64.urlsafe_b64encode(hashlib.file_digest(whole, "sha256").digest()).decode().rstrip("=")
            record.append(f"{place},sha256={digest},{whole.tell()}\n")
            info = entry_of(place, whole.tell())
            whole.seek(0)
            with wheel.open(info, "w") as to:
                shutil.copyfileobj(whole, to, 1 << 20)
        place = next(Path(place) for place in content if place.endswith("/WHEEL")).with_name("RECORD").as_posix()
        wheel.writestr(entry_of(place), "".join([*record, f"{place},,\n"]))


def entry_of(place: str, size: int = 0) -> zipfile.ZipInfo:
    """How a file of so many bytes is entered; one of more than 2 GB is entered otherwise, which zipfile sees to."""
    info = zipfile.ZipInfo(place, TIME)
    info.file_size = size
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, wherever it is written
    info.external_attr = 0o100644 << 16
    return info
