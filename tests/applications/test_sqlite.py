"""Exported packages inside another program: a SQLite extension, `SELECT translate('en-pt', text) FROM notes`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import native_models
import pytest

import minitx
from minitx.compiler.export import export
from minitx.compiler.targets import package
from minitx.generation.search import generate
from minitx.weights.checkpoint import Checkpoint
from minitx.weights.names import open_model

HERE = Path(__file__).parent / "sqlite"
NOTES = ["abc", "", None, "a b\nc", "gfedcba" * 6, "\u00e9t\u00e9", 12]


def needs(what: str, there: bool) -> None:
    if not there:
        assert "CI" not in os.environ, f"install {what}"
        pytest.skip(f"{what} is not installed")


def build(out: Path, models: dict[str, Checkpoint], flags: str = "-O0") -> Path:
    """The extension with these models, and the program that asks it from several threads."""
    needs("clang", shutil.which("clang") is not None)
    header = subprocess.run(["clang", "-E", "-include", "sqlite3ext.h", "-x", "c", "/dev/null"], capture_output=True)
    needs("libsqlite3-dev", header.returncode == 0)
    for name, checkpoint in models.items():
        export(checkpoint, "c", out / "packages" / name, package.Options(name, 1, embed=True))
    own = [f"OUT={out}", f"PACKAGES={out}/packages", f"MODELS={' '.join(models)}", "CC=clang", f"CFLAGS={flags}"]
    done = subprocess.run(["make", "-j2", "-f", HERE / "Makefile", *own], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "translate.so"


def database(out: Path, notes: list[object]) -> Path:
    connection = sqlite3.connect(out / "notes.db")
    with connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.executemany("INSERT INTO notes VALUES (?)", [(note,) for note in notes])
    connection.close()
    return out / "notes.db"


class SqlError(Exception):
    """What SQLite said."""


def by_python(extension: Path, file: Path, sql: str) -> list[str]:
    connection = sqlite3.connect(file)
    connection.enable_load_extension(True)
    connection.load_extension(str(extension))
    try:
        return [row[0] for row in connection.execute(sql)]
    except sqlite3.Error as e:
        raise SqlError(str(e)) from e
    finally:
        connection.close()


def by_command(extension: Path, file: Path, sql: str) -> list[str]:
    commands = ["sqlite3", "-bail", file, f".load {extension}", sql]
    done = subprocess.run(commands, capture_output=True, text=True)
    if done.returncode:
        raise SqlError(done.stderr)
    return done.stdout.splitlines()


def asking() -> Callable[[Path, Path, str], list[str]]:
    """Python's own SQLite if it loads extensions, which not every build does, else the command."""
    if hasattr(sqlite3.Connection, "enable_load_extension"):
        return by_python
    needs("sqlite3", shutil.which("sqlite3") is not None)
    return by_command


def expected(name: str, text: str) -> str:
    """The translation of a text of lines by the native engine of a small model."""
    checkpoint, engine, lines = native_models.with_letters(name, "int8"), native_models.native(name, "int8"), []
    for line in text.split("\n"):
        tokens = checkpoint.source.encode(line)
        found = generate(engine, [[*tokens, 0]], checkpoint.generation)[0][0].tokens if tokens else []
        lines.append(checkpoint.target.decode([*found]))
    return "\n".join(lines)


def hexadecimal(text: str) -> str:
    return text.encode().hex().upper()


def test_rows_are_translated(tmp_path: Path) -> None:
    models = {"tiny.post": "post", "tiny-odd": "odd"}
    extension = build(tmp_path, {name: native_models.with_letters(model, "int8") for name, model in models.items()})
    file, ask = database(tmp_path, NOTES), asking()
    for name, model in models.items():
        sql = f"SELECT ifnull(hex(translate('{name}', text)), 'NULL') FROM notes WHERE text IS NOT NULL"
        texts = [str(note) for note in NOTES if note is not None]
        assert ask(extension, file, sql) == [hexadecimal(expected(model, text)) for text in texts]
        assert ask(extension, file, f"SELECT translate('{name}', NULL) IS NULL AND translate(NULL, 'a') IS NULL") in (
            ["1"],
            [1],
        )
    sql = "SELECT ifnull(hex(translate('tiny.post', text)), 'NULL'), length(translate('tiny-odd', text)) FROM notes"
    one, four = (
        subprocess.run([tmp_path / "threads", extension, file, threads, "20", sql], capture_output=True, text=True)
        for threads in ("1", "4")
    )
    assert one.returncode == four.returncode == 0 and one.stdout == four.stdout
    assert one.stdout.splitlines()[0].split("|")[0] == hexadecimal(expected("post", "abc"))


def test_errors_are_those_of_sql(tmp_path: Path) -> None:
    extension = build(tmp_path, {"tiny.model": native_models.with_letters("post", "int8")})
    file, ask = database(tmp_path, ["a" * 200]), asking()
    for sql, message in [
        (
            "SELECT translate('pt-en', text) FROM notes",
            "translate: pt-en: there is no such model; there are tiny.model",
        ),
        ("SELECT translate('tiny.model')", "wrong number of arguments to function translate"),
    ]:
        with pytest.raises(SqlError, match=message):
            ask(extension, file, sql)
    failed = subprocess.run(
        [tmp_path / "threads", extension, file, "2", "1", "SELECT translate('x', 'y')"], capture_output=True, text=True
    )
    assert failed.returncode == 1 and failed.stdout.count("error: translate: x: there is no such model") == 2


@pytest.mark.slow
def test_many_connections_under_the_sanitizers(tmp_path: Path) -> None:
    """Memory that is used after its connection, or by two of them, is seen."""
    for kind in ("thread", "address,undefined"):
        out = tmp_path / kind[:4]
        out.mkdir()
        extension = build(out, {"tiny.model": native_models.with_letters("ssru", "int8")}, f"-O1 -g -fsanitize={kind}")
        sql = "SELECT hex(translate('tiny.model', text)) FROM notes"
        command = [out / "threads", extension, database(out, NOTES), "4", "5", sql]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, (
            done.stderr
        )
        assert done.stdout.splitlines()[0] == hexadecimal(expected("ssru", "abc"))


@pytest.mark.slow
def test_notes_in_english_are_portuguese(tmp_path: Path) -> None:
    texts = (Path(__file__).parents[1] / "data/sentences.en.txt").read_text().splitlines()[:40]
    extension = build(tmp_path, {"en-pt": open_model("en-pt", "int8")}, "-O3")
    found = asking()(extension, database(tmp_path, [*texts]), "SELECT translate('en-pt', text) FROM notes")
    assert found == minitx.load("en-pt", quantize="int8")(texts, split=False)
