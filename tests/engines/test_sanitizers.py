"""The compiled library under the address and undefined-behaviour sanitizers: whole searches on models of odd sizes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_models import CONFIGS, checkpoint, runnable

from minitx.compiler import build, entry, plan
from minitx.compiler.store import LIBRARY, WEIGHTS

RUN = """
import json, sys
import numpy as np
from pathlib import Path
from minitx.config import Config, Generation
from minitx.engines.native import Library, NativeEngine
from minitx.generation.search import generate

folder = Path(sys.argv[1])
described = json.loads((folder / "description.json").read_text())
engine = NativeEngine(Config.restore(described["config"]), Library(folder, 3), described["functions"])
random = np.random.default_rng(0)
tables = [np.sort(random.permutation(96)[:n]).astype(np.int32) for n in (1, 17, 40)]
shortlists = (None, *(lambda source, n=n: np.union1d(tables[len(source) % n], [0]).astype(np.int32) for n in (2, 3)))
for lengths, engine._allowed in ((n, s) for n in ([1], [64], [2, 1, 7, 33], [5] * 9) for s in shortlists):
    batch = [random.integers(0, 96, n).tolist() for n in lengths]
    for beam in (1, 4, 64):
        generation = Generation(start=-1, end=0, beam=beam)
        generate(engine, batch, generation, max_length=7, min_length=beam)
state = engine.encode(np.array([[-5, 2**30, 96]], np.int32), np.array([3]), 64)
for _ in range(64):  # to the last position of the model
    engine.step(state, np.array([2**31 - 1], np.int32), 80)
"""


def runtime() -> str | None:
    """The sanitizers' own library, which has to be loaded before Python's."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    name = subprocess.run(
        [clang, "-print-file-name=libclang_rt.asan-x86_64.so"], capture_output=True, text=True
    ).stdout.strip()
    return name if os.path.exists(name) else None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantization"), [("odd", "none"), ("post", "int4"), ("ssru", "int8")])
def test_a_search_reads_and_writes_nothing_out_of_bounds(tmp_path, name, quantization):
    asan = runtime()
    if asan is None:
        assert "CI" not in os.environ or sys.platform != "linux", "install clang with its sanitizers"
        pytest.skip("clang's sanitizers are not installed")
    model = checkpoint(name, quantization)
    planned = plan.plan(model.config)
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared-libasan"]
    objects = []
    for unit in entry.units(planned, runnable()[:1]):
        source, output = tmp_path / f"{unit.name}.c", tmp_path / f"{unit.name}.o"
        source.write_text(unit.source)
        flags = ["-O1", "-g", "-std=gnu11", "-fPIC", "-pthread", f"-I{entry.HERE}", *unit.flags, *sanitize]
        subprocess.run(["clang", *flags, "-c", str(source), "-o", str(output)], check=True)
        objects.append(str(output))
    subprocess.run(["clang", "-shared", "-pthread", *sanitize, *objects, "-o", str(tmp_path / LIBRARY)], check=True)
    with (tmp_path / WEIGHTS).open("wb") as file:
        entry.write_weights(planned, model, file)
    description = {"config": CONFIGS[name].to_dict(), "functions": entry.interfaces(planned)}
    (tmp_path / "description.json").write_text(json.dumps(description))
    root = str(Path(build.__file__).parents[2])
    options = {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": root, "PYTHONMALLOC": "malloc"}
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)], env={**os.environ, **options}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
