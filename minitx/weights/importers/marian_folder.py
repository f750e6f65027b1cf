"""The folder of a Marian, Firefox Translations or Bergamot model: a binary, one or two vocabularies and a `.yml`.

The `.yml`, by any name, is the decoder's configuration: it names the files and says how to search. Options that it
leaves out have Marian's defaults; without one, the only files there are and minitx's own defaults are taken.
"""

from __future__ import annotations

from pathlib import Path

from ...config import Generation
from ...errors import Error, FileError, several
from ...paths import map_file
from ...text import tokenizer as tokenizers
from ...text.tokenizer import Tokenizer
from ...version import __version__
from ..checkpoint import Checkpoint, check
from .engine import YAML_CAP, fingerprint, plain, read_yaml, show
from .marian import Options, read_model
from .marian_shortlist import read_shortlist


def one(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    """The only file of `folder` that matches; raises `FileError` where there are none or several."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not found:
        raise FileError(f"{folder}: has no {what} ({' or '.join(patterns)}); put it there")
    if len(found) > 1:
        names = several(path.name for path in found)
        raise FileError(f"{folder}: has several files that may be the {what}: {names}; name one in the .yml")
    return found[0]


def decoder_options(folder: Path) -> tuple[Path | None, Options]:
    """The `.yml` for the decoder, by whatever name, and its options; nothing where there is none."""
    paths = [p for pattern in ("*.yml", "*.yaml") for p in folder.glob(pattern) if not p.name.startswith("vocab")]
    texts = {path: read_yaml(map_file(path)[: YAML_CAP + 1], str(path)) for path in sorted(paths)}
    decoders = {path: options for path, options in texts.items() if "models" in options}
    decoders = decoders or {path: options for path, options in texts.items() if "vocabs" in options}
    if len(decoders) > 1:
        raise FileError(f"{folder}: {several(p.name for p in decoders)} all describe a decoder; leave only one")
    return next(iter(decoders.items()), (None, {}))


def named(folder: Path, options: Options, key: str, lengths: tuple[int, ...]) -> list[Path]:
    """The files of `folder` that the `.yml` lists under `key`; an empty list where it lists none."""
    names = options.get(key, [])
    if not names:
        return []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(names) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise FileError(f"{folder}: {key} of the .yml is {show(names)}; minitx reads a list of {wanted} file names")
    return [folder / Path(name).name for name in names]


def files(folder: Path, options: Options) -> tuple[Path, Path, Path]:
    """Model, source vocabulary and target vocabulary: what the `.yml` names, or else the only ones there are."""
    (model,) = named(folder, options, "models", (1,)) or [one(folder, ("model*.bin",), "model")]
    vocabs = named(folder, options, "vocabs", (2,))
    if not vocabs and any(folder.glob("srcvocab*.spm")):
        vocabs = [one(folder, ("srcvocab*.spm",), "source vocabulary"), one(folder, ("trgvocab*.spm",), "target's")]
    return model, *(vocabs or [one(folder, ("vocab*.spm",), "vocabulary")] * 2)  # type: ignore[return-value]


def shortlist_file(folder: Path, options: Options) -> Path | None:
    """The binary shortlist, where there is one: what the `.yml` names, or else the only one."""
    named = options.get("shortlist")
    first = named[0] if isinstance(named, list) and named else None
    if isinstance(first, str) and first.endswith(".bin") and (path := folder / Path(first).name).is_file():
        return path
    return one(folder, ("lex*.bin",), "shortlist") if any(folder.glob("lex*.bin")) else None


def generation(options: Options, source: Tokenizer, target: Tokenizer, where: Path) -> Generation:
    """How the decoder's `.yml` searches, with Marian's defaults; without a `.yml`, minitx's own."""
    pieces = [tokenizer.pieces for tokenizer in (source, target)]
    if not all("</s>" in p for p in pieces) or len({p.index("</s>") for p in pieces}) != 1:
        raise FileError(f"{where}: source and target vocabulary need one </s> of the same id; choose another model")
    fields: Options = {"start": -1, "end": pieces[1].index("</s>")}
    unknown = [i for i, piece in enumerate(pieces[1]) if piece == "<unk>"]
    fields["suppress"] = [] if options.get("allow-unk", False) is True else unknown
    if options:
        if options.get("word-penalty", 0) != 0:
            raise FileError(f"{where}: not supported: word-penalty {show(options['word-penalty'])}; set it to 0")
        fields["beam"] = options.get("beam-size", 12)
        fields["alpha"] = options.get("normalize", 0.0)
        fields["length_factor"] = options.get("max-length-factor", 3.0)
    try:
        return Generation(**fields)
    except (Error, ValueError) as e:  # ValueError: an integer of thousands of digits, when it is shown
        raise FileError(f"{where}: {e}; correct it") from None


def matches(folder: Path) -> bool:
    """Whether a folder looks like a Marian model: a binary and SentencePiece vocabularies."""
    return any(folder.glob("model*.bin")) and any(folder.glob("*.spm"))


def read(folder: Path) -> Checkpoint:
    """The model in a folder that Marian, Firefox Translations or Bergamot made; raises `Error`."""
    yml, options = decoder_options(folder)
    model, source, target = files(folder, options)
    found = read_model(model)
    tokenizer = tokenizers.read(source)
    other = tokenizer if source == target else tokenizers.read(target)
    lexical = shortlist_file(folder, options)
    shortlist = read_shortlist(lexical, found.config, source == target) if lexical else None
    used = dict.fromkeys(path for path in (model, source, target, yml, lexical) if path is not None)
    provenance = {
        "family": "marian",
        "name": plain(folder.resolve()),
        "files": {plain(path): fingerprint(path) for path in used},
        "trained_with": show(found.options.get("version", "unknown")).strip("' "),
        "minitx": __version__,
    }
    search = generation(options, tokenizer, other, yml or folder)
    checkpoint = Checkpoint(found.config, search, tokenizer, other, found.weights, provenance, found.steps, shortlist)
    check(checkpoint, folder)
    return checkpoint
