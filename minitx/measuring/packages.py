"""Exported packages as a worker holds them: their command, natively or under an emulator, which is given lines of ids.

A command ends a sentence at the model's end token. So that it makes all the steps that are asked for, it is given a
copy of its weight file that names another end: a token that the model never proposes, or has not so far.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from .turns import Tokens, WorkerError, clock, most_memory

# What an ELF file calls a kind of machine: its name, and that of its folder of libraries on Debian.
MACHINES = {
    62: ("x86_64", "x86_64-linux-gnu"),
    183: ("aarch64", "aarch64-linux-gnu"),
    40: ("arm", "arm-linux-gnueabihf"),
    243: ("riscv64", "riscv64-linux-gnu"),
}
OWN = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "arm"}  # other names of the same
BUILD_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """A package that can be run: the words before its options, its weights, the emulator, or "" for none.

    `digest` tells the weights of one model at one precision from all others; `weights` are their bytes.
    """

    name: str
    command: tuple[str, ...]
    file: Path
    emulator: str
    digest: str
    weights: int
    suppressed: tuple[int, ...]
    vocabulary: int
    temporary: Path
    threads: int


def prepare(folder: Path, temporary: Path, suppressed: tuple[int, ...], vocabulary: int, threads: int) -> Package:
    """What is needed to run the C package in a folder; its command is built in `temporary` where it has none.

    Raises `Error` for a folder without such a package and for one that does not build.
    """
    file = weight_file(folder)
    name = file.name.removesuffix(".weights")
    command = folder / name
    if not command.is_file():
        command = build(folder, name, temporary)
    emulator = emulator_of(command)
    digest, size = weights_of(file)
    words = (*emulator, str(command.absolute()))
    kept = (digest, size, suppressed, vocabulary, temporary, threads)
    return Package(name, words, file, emulator[0] if emulator else "", *kept)


def weight_file(folder: Path) -> Path:
    """The one weight file of a folder; raises `FileError`."""
    if not folder.is_dir():
        raise FileError(f"{folder}: is no folder; name one that minitx export wrote")
    files = sorted(folder.glob("*.weights"))
    if len(files) != 1:
        raise FileError(f"{folder}: holds {len(files)} .weights files, not one; name a folder of `--target c`")
    return files[0]


def build(folder: Path, name: str, temporary: Path) -> Path:
    """The command, made by the package's Makefile in a copy of the folder."""
    if not (folder / "Makefile").is_file():
        raise FileError(f"{folder}: has neither a command {name} nor a Makefile; export it again")
    copy = temporary / "build"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.weights", "obj", "*.a", "*.so"))
    try:
        done = subprocess.run(
            ["make", "-C", str(copy), f"-j{os.cpu_count()}", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BUILD_SECONDS,
        )
    except OSError as e:
        raise FileError(f"{folder}: make cannot be run ({e.strerror}); build the package first") from None
    except subprocess.TimeoutExpired:
        raise FileError(f"{folder}: make took over {BUILD_SECONDS} seconds; build the package first") from None
    if done.returncode or not (copy / name).is_file():
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason was given"]
        raise FileError(f"{folder}: make failed ({told[0][:200]}); build the package first")
    return copy / name


def emulator_of(command: Path) -> tuple[str, ...]:
    """The words before a program of another kind of machine than this one, none for one of this kind."""
    with command.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ()  # another system's own kind of program, or a script
    number = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
    machine, libraries = MACHINES.get(number, (f"machine {number}", ""))
    here = platform.machine().lower()
    if machine == OWN.get(here, here):
        return ()
    emulator = shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")
    if emulator is None:
        raise FileError(f"{command}: is for {machine}, and there is no qemu-{machine}; install qemu-user")
    root = f"/usr/{libraries}"
    return (emulator, "-L", root) if os.path.isdir(root) else (emulator,)


def weights_of(file: Path) -> tuple[str, int]:
    """The SHA-256 of the model's weights in a weight file, and their bytes; raises `FileError`."""
    begin, size = read_head(file)[6:8]
    with file.open("rb") as opened:
        opened.seek(begin)
        digest, left = hashlib.sha256(), size
        while left and (block := opened.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest(), size


def read_head(file: Path) -> tuple[Any, ...]:
    """The fields of a weight file's head; raises `FileError` for a file that has another one."""
    from ..compiler.targets import package

    try:
        with file.open("rb") as opened:
            data = opened.read(package.HEAD.size)
    except OSError as e:
        raise FileError(f"{file}: cannot be read ({e.strerror})") from None
    if len(data) < package.HEAD.size:
        raise FileError(f"{file}: is no weight file; export it again")
    head = package.HEAD.unpack(data)
    if head[:3] != (package.MAGIC, package.FORMAT, package.ORDER):
        raise FileError(f"{file}: is no weight file of this version; export it again with this minitx")
    return head


END = 15  # the place of the end token among the fields of a head


def with_end(file: Path, end: int, out: Path) -> None:
    """A copy of a weight file that names another end token."""
    from ..compiler.targets import package

    shutil.copyfile(file, out)
    head = list(read_head(out))
    head[END] = end
    with out.open("r+b") as opened:
        opened.write(package.HEAD.pack(*head))
        opened.flush()
        head[3] = package.checksum(opened)
        opened.write(package.HEAD.pack(*head))


class PackagePeer:
    """A package's command, of which a process runs for each number of steps: it is an option of the command."""

    def __init__(self, package: Package):
        self.package, self.running = package, dict[int, subprocess.Popen[bytes]]()
        self.seen: set[int] = set()  # tokens that may not be the end
        self.peak, self.threads = 0, package.threads
        self.set_end()
        try:
            self.load, _ = clock(lambda: self.answer(1, []))
        except WorkerError:
            if self.threads == 1:
                raise
            self.threads = 1  # a package can be one without threads
            self.load, _ = clock(lambda: self.answer(1, []))

    def set_end(self) -> None:
        """Chooses an end and ends what runs with another."""
        self.close()
        tokens = (*self.package.suppressed, *range(self.package.vocabulary - 1, -1, -1))
        free = next((token for token in tokens if token not in self.seen), None)
        if free is None:
            raise WorkerError("the model gives every token that it has, so that its command cannot be kept from ending")
        self.seen.add(free)
        self.weights = self.package.temporary / f"{free}.weights"
        if not self.weights.exists():
            with_end(self.package.file, free, self.weights)

    def generate(self, sources: Tokens, steps: int, beam: int) -> Tokens:
        while True:
            found = [self.answer(steps, source) for source in sources]
            if all(len(tokens) == steps for tokens in found):
                return found
            self.seen.update(token for tokens in found for token in tokens)
            self.set_end()

    def answer(self, steps: int, source: list[int]) -> list[int]:
        """The tokens for a source, by the process that makes so many steps."""
        if steps not in self.running:
            self.running[steps] = self.start(steps)
        process = self.running[steps]
        assert process.stdin and process.stdout
        try:
            process.stdin.write(f"{' '.join(map(str, source))}\n".encode())
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            del self.running[steps]
            process.stdin.close()
            told = (process.stderr.read() if process.stderr else b"").decode(errors="replace").split("\n")[0]
            raise WorkerError(f"its command ended (exit status {process.wait()}): {told[:200]}")
        return [int(word) for word in line.split()]

    def start(self, steps: int) -> subprocess.Popen[bytes]:
        options = {"--max-length": steps, "--threads": self.threads, "--weights": self.weights, "--beam": 1}
        words = [*self.package.command, "--ids", *(str(word) for pair in options.items() for word in pair)]
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        except OSError as e:
            raise WorkerError(f"{words[0]}: cannot be run ({e.strerror})") from None

    def memory(self) -> int:
        """The most of any of its processes, as a whole: nothing of Python is in it."""
        return max((self.peak, *(most_memory(process.pid) for process in self.running.values())))

    def facts(self) -> dict[str, Any]:
        p = self.package
        told = {"weights": p.weights, "digest": p.digest, "threads": self.threads, "base": 0}
        return told | {"emulator": Path(p.emulator).name}

    def close(self) -> None:
        self.peak = self.memory()
        for process in self.running.values():
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
            process.wait()
        self.running.clear()
