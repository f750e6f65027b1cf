"""The levels of minitx: a module imports only from an earlier stage, and the command line imports nothing heavy.

The levels, lowest first: version, errors, config, paths, toolchain; one folder for each stage a model passes through;
what users hold (model, measuring, cli, commands and the package itself). Inside a level imports go round in no circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from minitx.config import CHOICES

PACKAGE = Path(__file__).resolve().parents[1] / "minitx"
LOWEST = ("version", "errors", "config", "paths", "toolchain")
FOLDERS = ("text", "nn", "weights", "compiler", "engines", "generation", "training")
HIGHEST = ("model", "measuring", "cli", "commands", "__main__", "__init__")


def name_of(path: Path) -> str:
    """A file's module, without `minitx.`: nn.norm, nn, or __init__ for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def level(module: str) -> int:
    top = module.partition(".")[0]
    if top in LOWEST:
        return 0
    if top in FOLDERS:
        return 1 + FOLDERS.index(top)
    assert top in HIGHEST, f"minitx/{top} has no level; give it one here and in the README"
    return 1 + len(FOLDERS)


def imports(module: str) -> set[str]:
    """The modules of minitx that `module` imports, anywhere in it."""
    path = MODULES[module]
    package = ["minitx", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            # a name that is imported from a package may be a module in it
            names = {f"{start}.{alias.name}" for alias in node.names}
            modules = {name for name in names if name.removeprefix("minitx.") in MODULES}
            found |= modules | ({start} if names - modules else set())
    own = {name for name in found if name.partition(".")[0] == "minitx"}
    return {"__init__" if name == "minitx" else name.removeprefix("minitx.") for name in own}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_an_earlier_level_or_its_own(module):
    wrong = {other for other in imports(module) if level(other) > level(module)}
    assert not wrong, f"minitx.{module} imports {wrong}, which come after it"


@pytest.mark.parametrize("module", [m for m in MODULES if level(m) <= len(FOLDERS)])
def test_a_stage_imports_no_other_that_only_looks_earlier(module):
    """Files at the top are the lowest or the highest level, so that a stage never reaches over to its users."""
    assert not {other for other in imports(module) if other.partition(".")[0] in HIGHEST}


def test_no_imports_go_round_in_a_circle():
    TopologicalSorter({module: imports(module) - {module} for module in MODULES}).prepare()


def test_choices_are_the_only_deferred_imports_below_the_command_line():
    users = {m for m, path in MODULES.items() if "import_module" in path.read_text(encoding="utf-8")}
    assert {m for m in users if level(m) <= len(FOLDERS)} == {"config"}
    assert {place.partition(":")[0].partition(".")[0] for place in CHOICES.values()} <= set(FOLDERS)
    assert {place.partition(":")[0] for place in CHOICES.values()} <= set(MODULES)


def test_the_toolchain_needs_nothing_but_the_standard_library():
    assert imports("toolchain") <= {"errors", "paths"}
    for module in LOWEST:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
        assert names <= sys.stdlib_module_names


def test_the_command_line_starts_without_anything_heavy():
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import minitx.cli"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in child.stderr.splitlines()}
    assert "minitx" in loaded and not loaded & {"tinygrad", "numpy", "tokenizers", "safetensors", "yaml", "sacrebleu"}


def test_the_tests_mirror_the_package():
    tests = Path(__file__).parent
    folders = {p.name for p in tests.iterdir() if p.is_dir() and any(p.glob("test_*.py"))}
    assert folders <= {*FOLDERS, *HIGHEST, "tools", "applications"}


@pytest.mark.parametrize("module", ["engines.jit", "nn.ops", "compiler.render", "model"])
def test_tinygrad_is_prepared_whatever_is_imported_first(module):
    code = f"import os; os.environ.pop('CACHEDB', 0); import minitx.{module}; print(os.environ['CACHEDB'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "minitx" in child.stdout or "tinygrad-" in child.stdout, child.stderr
