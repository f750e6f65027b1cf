"""An entry of the cache is whole or not there, whoever writes, whatever happens to its files, whatever else runs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from minitx.compiler import sealed, store, trust
from minitx.compiler.trust import UntrustedError
from minitx.errors import DeviceError, FileError, InputError

BIG = bytes(range(251)) * 25_000  # 6.3 MB: sampled
FILES = {"library.so": b"code" * 1000, "weights.bin": lambda file: file.write(BIG), "model.json": memoryview(b"{}")}
META = {"model": "en-pt", "base": "b"}
KEY = store.key("a")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MINITX_CACHE_LIMIT", raising=False)
    monkeypatch.setattr(store, "_scratch", {})
    return tmp_path / "cache" / "native"


def child(code: str) -> subprocess.Popen[str]:
    """A process that has the cache as `store`, and these files and this key."""
    head = "import os, sys, time\nfrom minitx.compiler import store\n"
    head += f"KEY, FILES = {KEY!r}, {{'library.so': b'code', 'weights.bin': b'w' * 1000}}\n"
    argv = [sys.executable, "-c", head + code]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_was_put_is_found_again(cache):
    assert store.get(KEY) is None and store.entries() == []
    path = store.put(KEY, FILES, META)
    assert path == cache / KEY == store.get(KEY) == store.get(KEY, ["library.so", "weights.bin"])
    assert [(path / name).read_bytes() for name in FILES] == [b"code" * 1000, BIG, b"{}"]
    (entry,) = store.entries()
    assert (entry.path, entry.meta) == (path, META) and entry.bytes > len(BIG)
    assert {p.name for p in cache.iterdir()} == {KEY}
    assert cache.stat().st_mode & 0o777 == 0o700 and (path / "library.so").stat().st_mode & 0o777 == 0o600


def test_a_key_depends_on_every_part_and_where_parts_end():
    keys = {store.key(*parts) for parts in [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), (), ("",)]}
    assert len(keys) == 6 and all(len(key) == 32 and int(key, 16) for key in keys)
    assert store.key("é") == store.key("é".encode())


DAMAGES = {
    "shorter": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "zeroed": lambda data: bytes(len(data)),
    "half zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "gone": None,
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, sealed.MANIFEST])
def test_a_damaged_file_is_noticed_and_its_entry_removed(cache, name, how):
    file = store.put(KEY, FILES, META) / name
    file.write_bytes(DAMAGES[how](file.read_bytes())) if DAMAGES[how] else file.unlink()
    if (name, how) == (sealed.MANIFEST, "longer"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert store.get(KEY) is None
    assert list(cache.iterdir()) == []
    assert store.put(KEY, FILES, META) == store.get(KEY)


@pytest.mark.parametrize(("name", "check"), [("library.so", []), ("weights.bin", ["weights.bin"])])
def test_one_wrong_byte_is_noticed_in_a_small_file_and_in_one_that_is_to_be_read(cache, name, check):
    file = store.put(KEY, FILES, META) / name
    data = bytearray(file.read_bytes())
    data[-1500] ^= 1
    file.write_bytes(data)
    assert store.get(KEY, check) is None


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"files": 3, "meta": {}}', '{"files": {"a": 1}, "meta": {}}', '{"files": {}, "meta": {"a": 1}}'],
)
def test_a_manifest_of_another_shape_is_damage(cache, text):
    (store.put(KEY, FILES, META) / sealed.MANIFEST).write_text(text)
    assert store.entries() == [] or store.entries()[0].meta == {}
    assert store.get(KEY) is None


def test_a_manifest_that_leaves_out_a_file_or_names_one_elsewhere_is_damage(cache):
    path = store.put(KEY, FILES, META)
    told = json.loads((path / sealed.MANIFEST).read_text())
    (cache / "outside").write_bytes(b"code" * 1000)
    for files in ({}, {"../outside": told["files"]["library.so"]}):
        path = store.put(KEY, FILES, META)
        (path / sealed.MANIFEST).write_text(json.dumps({**told, "files": files}))
        assert store.get(KEY, ["library.so"]) is None


def test_links_are_not_followed(cache, tmp_path):
    path = store.put(KEY, FILES, META)
    library = path / "library.so"
    library.rename(tmp_path / "library.so")
    library.symlink_to(tmp_path / "library.so")
    assert store.get(KEY) is None and (tmp_path / "library.so").exists()
    store.put(KEY, FILES, META).rename(tmp_path / "entry")
    path.symlink_to(tmp_path / "entry")
    assert store.get(KEY) is None and not path.is_symlink() and (tmp_path / "entry").is_dir()
    assert store.put(KEY, FILES, META) == store.get(KEY)


@pytest.mark.parametrize("what", ["file", "folder", "fifo"])
def test_something_else_in_the_place_of_an_entry_or_file_is_replaced(cache, what):
    path = store.put(KEY, FILES, META)
    (path / "library.so").unlink()
    make = {"file": Path.touch, "folder": Path.mkdir, "fifo": os.mkfifo}[what]
    make(path / "library.so")
    assert store.get(KEY) is None
    make(path)
    assert store.put(KEY, FILES, META) == store.get(KEY)


# ---- who may write ----


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_cache_that_others_can_write_to_is_not_used(cache, mode):
    store.put(KEY, FILES, META)
    cache.chmod(mode)
    for call in (lambda: store.get(KEY), lambda: store.put(KEY, FILES, META)):
        with pytest.raises(UntrustedError, match=f"{cache} .*chmod go-w.*MINITX_CACHE"):
            call()
    cache.chmod(0o755)
    assert store.get(KEY)


def test_a_folder_on_the_way_must_not_let_others_replace_the_cache(cache, tmp_path):
    store.put(KEY, FILES, META)
    tmp_path.chmod(0o777)
    with pytest.raises(UntrustedError, match=f"{tmp_path} "):
        store.get(KEY)
    tmp_path.chmod(0o1777)  # like /tmp
    assert store.get(KEY)


def test_a_group_counts_unless_it_is_the_users_own(cache, monkeypatch):
    store.put(KEY, FILES, META)
    cache.chmod(0o770)
    monkeypatch.setattr(trust, "_own_group", lambda group: False)
    with pytest.raises(UntrustedError):
        store.get(KEY)
    monkeypatch.setattr(trust, "_own_group", lambda group: True)
    assert store.get(KEY)


@pytest.mark.skipif(os.name != "posix", reason="has no user ids")
def test_another_users_cache_is_not_used(cache, monkeypatch):
    owner = os.geteuid()
    if owner == 0:  # then what is root's is everybody's: it is given away
        store.put(KEY, FILES, META)
        os.chown(cache, 4321, -1)
    else:
        store.put(KEY, FILES, META)
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UntrustedError, match="belongs to another user"):
        store.get(KEY)


@pytest.mark.parametrize("name", ["", "library.so", sealed.MANIFEST])
def test_an_entry_that_another_user_could_have_written_is_removed(cache, monkeypatch, name):
    path = store.put(KEY, FILES, META) / name
    path.chmod(0o777)
    assert store.get(KEY) is None and not (cache / KEY).exists()
    path = store.put(KEY, FILES, META) / name
    inode = path.stat().st_ino
    monkeypatch.setattr(sealed, "private", lambda status: status.st_ino != inode and trust.private(status))
    assert store.get(KEY) is None and not (cache / KEY).exists()


def test_a_link_to_the_cache_is_followed_if_nobody_else_can_change_its_way(cache, tmp_path, monkeypatch):
    for name in ("real", "open"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("open/next")
    (tmp_path / "open" / "next").symlink_to("../real")
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "link"))
    assert store.put(KEY, FILES, META) == store.get(KEY)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UntrustedError, match=f"{tmp_path / 'open'} "):
        store.get(KEY)


def test_a_loop_of_links_is_one_error(cache, tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    monkeypatch.setenv("MINITX_CACHE", str(tmp_path / "a"))
    assert store.get(KEY) is None
    with pytest.raises(FileError, match="MINITX_CACHE"):
        store.put(KEY, FILES, META)


# ---- a cache that cannot be used ----


def full(file):
    file.write(b"x")
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse(*arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture(params=["file", "full", "read-only", "others"])
def unusable(request, cache, monkeypatch):
    """(the files, what is said) where the cache cannot be written."""
    if request.param == "file":
        cache.parent.write_text("")
        return FILES, "Not a directory|File exists"
    if request.param == "full":
        return {**FILES, "weights.bin": full}, "No space left"
    cache.mkdir(parents=True)
    if request.param == "others":
        cache.chmod(0o777)
        return FILES, "can be written by one"
    if os.geteuid():
        cache.chmod(0o500)
    else:  # root may write everywhere
        made = tempfile.mkdtemp
        monkeypatch.setattr(tempfile, "mkdtemp", lambda **o: refuse() if o.get("dir") == cache else made(**o))
    return FILES, "Permission denied"


def test_a_cache_that_cannot_be_written_is_one_line_and_nothing_is_left(cache, unusable):
    files, said = unusable
    with pytest.raises((FileError, UntrustedError), match=f"({said}).*MINITX_CACHE") as e:
        store.put(KEY, files, META)
    assert "\n" not in str(e.value)
    assert not cache.is_dir() or list(cache.iterdir()) == []


def test_then_the_entry_is_made_for_this_process_alone(cache, unusable):
    files, _ = unusable
    made, told, writers = [], [], iter([files["weights.bin"]])
    files = {**files, "weights.bin": lambda file: next(writers, lambda file: file.write(BIG))(file)}  # room elsewhere

    def make():
        made.append(1)
        return files, META

    path = store.ensure(KEY, make, warn=told.append)
    assert sealed.whole(path, FILES) and not path.is_relative_to(cache)
    assert len(told) == 1 and told[0].startswith("the compiled model is not kept: ") and "MINITX_CACHE" in told[0]
    assert store.ensure(KEY, make) == path and made == [1]
    store._forget(path, os.getpid() + 1)
    assert path.exists()
    store._forget(path, os.getpid())
    assert not path.exists()
    assert store.ensure(KEY, make).exists() and made == [1, 1]


def test_an_entry_of_one_process_goes_with_it(cache, tmp_path):
    process = child("print(store.scratch(FILES, {}))")
    out, err = process.communicate(timeout=60)
    assert err == "" and out.startswith(tempfile.gettempdir()) and not os.path.exists(out.strip())


def test_no_room_for_temporary_files_either_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(FileError, match=r"No space left.*TMPDIR"):
        store.scratch({"a": full}, META)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_make_raises_is_raised_and_nothing_is_kept(cache):
    def make():
        raise DeviceError("no compiler")

    with pytest.raises(DeviceError, match="no compiler"):
        store.ensure(KEY, make)
    assert store.entries() == []


# ---- several processes ----


def test_the_second_of_two_writers_uses_what_the_first_wrote(cache):
    def slow(file):
        file.write(b"second")
        store.put(KEY, {"a": b"first"}, META)

    path = store.put(KEY, {"a": slow}, META)
    assert (path / "a").read_bytes() == b"first" and [p.name for p in cache.iterdir()] == [KEY]


def test_a_writer_replaces_what_is_damaged(cache):
    (store.put(KEY, {"a": b"first"}, META) / "a").write_bytes(b"")
    assert (store.put(KEY, {"a": b"second"}, META) / "a").read_bytes() == b"second"


@pytest.mark.parametrize("locks", [True, False])
def test_of_eight_processes_with_an_empty_cache_one_makes_the_entry(cache, tmp_path, locks):
    """Without locks all make it, and one of theirs is kept."""
    code = "" if locks else "from minitx.compiler import locks; del locks.fcntl\n"
    code += f"""
def make():
    with open({str(tmp_path / "made")!r}, "a") as file:
        print(os.getpid(), file=file)
    time.sleep(0.5)
    return FILES, {{}}
sys.stdin.readline()
path = store.ensure(KEY, make, ["library.so"])
print(path, (path / "library.so").read_text(), store.whole(path, FILES))
"""
    children = [child(code) for _ in range(8)]
    time.sleep(1.5)  # until all have started
    for process in children:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=120) for process in children}
    assert answers == {(f"{cache / KEY} code True\n", "")}
    assert len((tmp_path / "made").read_text().split()) == 1 if locks else True
    assert {p.name for p in cache.iterdir()} - {f".lock-{KEY[:2]}"} == {KEY}


def test_who_waits_for_the_lock_is_told_and_gets_it_when_the_other_is_killed(cache):
    process = child("with store.lock(KEY):\n    print('in', flush=True)\n    time.sleep(60)")
    assert process.stdout.readline() == "in\n"
    told = []

    def notice(message):
        told.append(message)
        process.kill()

    with store.lock(KEY, notice):
        pass
    assert told == ["waiting for another process that compiles ..."]
    process.communicate()
    with store.lock(KEY, told.append):  # at once
        pass
    assert len(told) == 1


def test_where_nothing_can_be_locked_one_goes_on_without(cache, monkeypatch):
    cache.parent.write_text("")
    with store.lock(KEY):
        pass


def test_a_writer_that_is_killed_leaves_nothing_that_is_found(cache):
    code = "FILES['b'] = lambda file: (print('in', flush=True), time.sleep(60))\nstore.put(KEY, FILES, {})"
    process = child(code)
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.communicate()
    assert store.get(KEY) is None and store.entries() == []
    (left,) = cache.iterdir()
    store.put(KEY, FILES, META)
    assert left.exists()  # it might be another's that is at work
    os.utime(left, (1, 1))
    store.put(store.key("b"), FILES, META)
    assert not left.exists()


# ---- the limit ----


def fill(monkeypatch, **used: float) -> list[str]:
    """Entries of 10 kB and what goes with them, with the time of their last use."""
    for name, when in used.items():
        path = store.put(store.key(name), {"a": bytes(10_000)}, {"name": name})
        os.utime(path, (when, when))
    return names()


def names() -> list[str]:
    return [entry.meta["name"] for entry in store.entries()]


def test_what_was_not_used_for_longest_makes_room(monkeypatch):
    assert fill(monkeypatch, old=1000, older=500, new=2000) == ["new", "old", "older"]
    monkeypatch.setenv("MINITX_CACHE_LIMIT", "35k")
    assert store.get(store.key("older"))  # which is a use
    store.put(store.key("next"), {"a": bytes(10_000)}, {"name": "next"})
    assert sorted(names()) == ["new", "next", "older"]


def test_an_entry_larger_than_the_limit_is_kept_alone(monkeypatch):
    monkeypatch.setenv("MINITX_CACHE_LIMIT", "1000")
    assert fill(monkeypatch, one=1000, two=2000) == ["two"]


def test_what_a_process_has_in_use_is_not_removed(monkeypatch):
    fill(monkeypatch, used=1000, free=2000)
    path = store.get(store.key("used"))
    os.utime(path, (1000, 1000))
    process = child(f"held = store.use(store.folder() / {path.name!r})\nprint('in', flush=True)\nsys.stdin.read()")
    assert process.stdout.readline() == "in\n"
    assert store.in_use(path)
    assert store.evict(0) > 10_000 and names() == ["used"]
    assert store.clear() == 0 and names() == ["used"]
    process.communicate("")
    assert not store.in_use(path)
    assert store.clear() > 10_000 and names() == []


def test_use_ends_when_it_is_closed_or_forgotten(monkeypatch):
    fill(monkeypatch, a=1)
    path = store.folder() / store.key("a")
    with store.use(path), store.use(path):
        assert store.in_use(path)
    assert not store.in_use(path)
    held = store.use(path)
    assert store.in_use(path)
    del held
    assert not store.in_use(path)
    store.use(path / "nothing").close()  # never fails


def test_an_entry_that_another_process_removes_before_it_is_in_use_is_made_again(monkeypatch):
    monkeypatch.setattr(store, "flock", unlucky := Unlucky(store.flock, 1))
    path, held = store.hold(lambda: store.ensure("0" * 32, lambda: (FILES, META)))
    assert unlucky.removed == 1 and held.there and store.in_use(path) and store.get("0" * 32) == path
    held.close()
    monkeypatch.setattr(store, "flock", unlucky := Unlucky(store.flock, 100))
    with pytest.raises(FileError, match="is cleared all the time by another process"):
        store.hold(lambda: store.ensure("0" * 32, lambda: (FILES, META)))
    assert not store.use(path / "nothing").there


class Unlucky:
    """Stands for `flock`: an entry is removed as it is about to be locked for use, so many times."""

    def __init__(self, flock, times):
        self.flock, self.times, self.removed = flock, times, 0

    def __call__(self, path, kind, wait):
        if kind == "LOCK_SH" and self.removed < self.times:
            self.removed += 1
            shutil.rmtree(path.parent, ignore_errors=True)
        return self.flock(path, kind, wait)


def test_clear_removes_all_or_what_is_old(cache, monkeypatch):
    now = time.time()
    fill(monkeypatch, old=now - 1000, new=now)
    assert store.clear(older_than=500) > 10_000 and names() == ["new"]
    (cache / "something").mkdir()
    (cache / "something" / "else").write_bytes(bytes(500))
    assert 10_500 < store.clear() < 12_000 and list(cache.iterdir()) == []
    assert store.clear() == 0


def test_an_entry_is_found_by_what_it_says_of_itself(monkeypatch):
    for name in ("a", "b", "c"):
        path = store.put(store.key(name), FILES, {"base": "x" if name < "c" else "y", "name": name})
        os.utime(path, (ord(name), ord(name)))
    assert store.find(base="x") == store.folder() / store.key("b")
    (store.folder() / store.key("b") / "library.so").write_bytes(b"")
    os.utime(store.folder() / store.key("b"), (1e9, 1e9))
    assert store.find(base="x") == store.folder() / store.key("a")
    assert store.find(base="z") is None and store.find(base="y", name="a") is None


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500", 500), ("500M", 500_000_000), ("1.5 GB", 1_500_000_000), ("2k", 2000)]
)
def test_sizes_are_read(text, size, monkeypatch):
    assert store.parse_size(text) == size
    monkeypatch.setenv("MINITX_CACHE_LIMIT", text)
    assert store.limit() == size


@pytest.mark.parametrize("text", ["x", "-1", "1X", "M", "nan", "inf", "1e400"])
def test_a_limit_that_is_no_size_is_one_line(text, monkeypatch, cache):
    monkeypatch.setenv("MINITX_CACHE_LIMIT", text)
    with pytest.raises(InputError, match=r"MINITX_CACHE_LIMIT: .* is not a size"):
        store.ensure(KEY, lambda: (FILES, META))
    assert not cache.exists()


def test_a_warm_start_reads_little(cache):
    huge = {"weights.bin": lambda file: file.truncate(1 << 30)}  # a hole
    with contextlib.suppress(FileError):
        path = store.put(KEY, huge, META)
        started = time.perf_counter()
        assert store.get(KEY) == path
        assert time.perf_counter() - started < 0.5
