"""`minitx cache` shows what is kept and removes it, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from minitx.compiler import store

META = {"model": "en-pt", "quantization": "int8", "instruction sets": "avx2 sse2", "compiler": "clang 14", "base": "x"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two entries, kernels of tinygrad and files of zig."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINITX_CACHE", str(folder))
    monkeypatch.delenv("MINITX_CACHE_LIMIT", raising=False)
    for name, used in [("en-pt", 2000), ("pt-en", 1000)]:
        path = store.put(store.key(name), {"library.so": bytes(100_000)}, META | {"model": name})
        os.utime(path, (used, used))
    for name in ("tinygrad-0.db", "tinygrad-0.db-wal", "kept"):
        (folder / name).write_bytes(bytes(5000))
    (folder / "zig" / "o").mkdir(parents=True)
    (folder / "zig" / "o" / "object").write_bytes(bytes(7000))
    return folder


def minitx(*arguments):
    """(exit status, standard output, standard error)"""
    run = subprocess.run([sys.executable, "-m", "minitx", "cache", *arguments], capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


def test_what_is_kept_is_a_table_and_the_sizes_of_the_rest(cache):
    status, out, err = minitx()
    assert (status, err) == (0, "")
    head, first, second, blank, place, *rest = out.splitlines()
    assert head.split() == ["model", "quantization", "instruction", "sets", "compiler", "size", "last", "used"]
    assert first.startswith("en-pt  int8") and second.startswith("pt-en") and blank == "" and place == f"{cache}:"
    assert "avx2 sse2" in first and "clang 14" in first and "kB" in first and "1970-01-01" in first
    assert [line.split()[-2:] for line in rest[1:]] == [["10.0", "kB"], ["7.0", "kB"]]
    assert "of at most 4000.0 MB" in rest[0]


def test_json_has_the_same(cache):
    status, out, _ = minitx("--json")
    told = json.loads(out)
    assert status == 0 and told["folder"] == str(cache / "native") and told["limit"] == 4_000_000_000
    assert [entry["meta"]["model"] for entry in told["entries"]] == ["en-pt", "pt-en"]
    assert told["entries"][0]["key"] == store.key("en-pt") and told["entries"][0]["in_use"] is False
    assert sorted(told["others"].values()) == [7000, 10_000]


def test_clear_removes_all_that_is_compiled_and_nothing_else(cache):
    status, out, err = minitx("--clear", "--json")
    assert (status, err) == (0, "") and json.loads(out)["left"] == 0 and json.loads(out)["freed"] > 217_000
    assert {path.name for path in cache.iterdir()} == {"kept", "native"} and store.entries() == []
    assert minitx("--clear") == (0, "0.0 kB freed\n", "")
    assert minitx()[1].startswith(f"{cache}:\n")


def test_what_is_in_use_stays(cache):
    with store.use(store.folder() / store.key("pt-en")):
        assert "; 1 in use or within the limit was kept" in minitx("--clear")[1]
    assert [entry.meta["model"] for entry in store.entries()] == ["pt-en"]


def test_limit_removes_what_was_not_used_for_longest(cache):
    assert minitx("--limit", "1G") == (0, "0.0 kB freed; 2 in use or within the limit were kept\n", "")
    assert minitx("--limit", "150k")[0] == 0
    assert [entry.meta["model"] for entry in store.entries()] == ["en-pt"]


@pytest.mark.parametrize("arguments", [["--limit", "much"], ["--limit"], ["--clear", "--limit", "1G"], ["en-pt"]])
def test_wrong_usage_is_exit_status_2(cache, arguments):
    status, out, err = minitx(*arguments)
    assert (status, out) == (2, "") and "minitx cache: error:" in err
    assert len(store.entries()) == 2


def test_a_folder_that_is_not_there_or_a_bad_limit_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "nothing"))
    assert minitx()[0] == 0 and minitx("--clear")[0] == 0 and not (tmp_path / "nothing" / "native").exists()
    monkeypatch.setenv("MINITX_CACHE_LIMIT", "x")
    status, out, err = minitx()
    assert (status, out) == (1, "") and err.startswith("minitx: error: MINITX_CACHE_LIMIT: 'x' is not a size")


def test_help_has_examples():
    status, out, _ = minitx("--help")
    assert status == 0 and "minitx cache --clear" in out and "MINITX_CACHE_LIMIT" in out
