"""Each backend that can be had here works, and one that does not is refused for what it is."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from tinygrad import Device
from tinygrad.helpers import DEV

from minitx import toolchain
from minitx.engines import devices
from minitx.errors import DeviceError

APT = {"CL": "pocl-opencl-icd", "WEBGPU": "mesa-vulkan-drivers", "CPU:LLVM": "libllvm19"}


@pytest.fixture(autouse=True)
def own_state(monkeypatch, tmp_path):
    """Selections and what was tested stay inside a test; compiled kernels are shared."""
    monkeypatch.setattr(devices, "_ensured", set())
    monkeypatch.setattr(devices, "cache_dir", lambda: tmp_path)
    before = DEV.value
    yield
    DEV.value = before


@pytest.mark.parametrize("name", ["CPU", "CPU:X86", "CPU:LLVM", "CL", "WEBGPU", "PYTHON"])
def test_a_backend_that_is_here_passes_its_self_test_in_its_own_process(name, needs):
    if why := devices.BACKENDS[name].absent():
        pytest.skip(f"{name}: {why}")
    needs(name)


@pytest.mark.parametrize("kind", ["ziglang", "clang"])
def test_the_cpu_works_with_either_compiler(kind, monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CACHEDB", raising=False)
    if kind == "ziglang":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif not shutil.which("clang"):
        pytest.skip("no clang on the path; here: apt-get install clang")
    assert toolchain.find().kind == kind
    assert devices.probe("CPU") == devices.Result(devices.WORKS)


def test_names_are_those_of_the_table_in_any_case():
    assert devices.lookup("cpu:x86") is devices.BACKENDS["CPU:X86"]
    with pytest.raises(DeviceError, match="'GPU' is not known; choose one of: CPU, CPU:X86, CPU:LLVM, CL, WEBGPU"):
        devices.select("GPU")


def test_select_names_the_device_and_its_renderer():
    assert devices.select("PYTHON") == "PYTHON" and Device.DEFAULT == "PYTHON"
    assert devices.select("CPU:X86") == "CPU" and Device.DEFAULT == "CPU"
    assert DEV.target("CPU").renderer == "X86"
    assert devices.select("CL") == "CL" and Device.DEFAULT == "CL"
    assert DEV.target("CPU").renderer == "X86"
    assert devices.select("CPU") == "CPU" and DEV.target("CPU").renderer == "CLANG"


def test_select_keeps_what_the_user_chose_for_a_device():
    DEV.value = "CUDA:PTX;CPU:LLVM"
    devices.select("CUDA")
    assert DEV.target("CUDA").renderer == "PTX" and Device.DEFAULT == "CUDA"
    devices.select("CPU")
    assert DEV.target("CPU").renderer == "CLANG"


@pytest.mark.parametrize("value", [0.0, np.nan, 1e30])
def test_wrong_numbers_are_refused_and_called_so(monkeypatch, value):
    right = devices._compute("PYTHON")
    wrong = right | {"softmax": (np.full((6, 33), value, np.float32), right["softmax"][1])}
    monkeypatch.setattr(devices, "_compute", lambda device: wrong)
    with pytest.raises(devices.WrongResultError, match=r"device PYTHON gives a wrong result \(softmax\)"):
        devices.self_test("PYTHON")


def test_webgpu_without_a_vulkan_driver_is_refused(monkeypatch):
    """It gives garbage and no error, which tinygrad does not notice."""
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    monkeypatch.setenv("VK_DRIVER_FILES", "/nowhere.json")
    result = devices.probe("WEBGPU")
    assert result.status != devices.WORKS
    assert "WEBGPU" in result.reason and "Vulkan" in result.reason and "\n" not in result.reason


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("CL", {"OCL_ICD_VENDORS": "/nowhere"}, "OpenCL driver"),
        ("CPU:LLVM", {"LLVM_PATH": "/dev/null", "PATH": "/nowhere"}, "LLVM"),
        ("CPU", {"CC": "/nowhere/cc"}, "CC=/nowhere/cc"),
    ],
)
def test_a_backend_that_is_not_here_says_what_to_do(monkeypatch, name, setting, said):
    for key, value in setting.items():
        monkeypatch.setenv(key, value)
    result = devices.probe(name)
    if result.status == devices.WORKS:
        pytest.skip(f"{name} is found in another way here")
    assert result.status == devices.MISSING and said in result.reason and "\n" not in result.reason


def break_child(monkeypatch, folder, code):
    """Has every new Python run `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_crash_is_contained(monkeypatch, tmp_path):
    break_child(monkeypatch, tmp_path, "import os\nos.kill(os.getpid(), 11)\n")
    result = devices.probe("PYTHON")
    assert result.status == devices.MISSING and "crashed (stopped by SIGSEGV)" in result.reason


def test_a_hang_is_ended(monkeypatch, tmp_path):
    break_child(monkeypatch, tmp_path, "import subprocess\nsubprocess.run(['sleep', '99'])\n")
    result = devices.probe("PYTHON", seconds=1)
    assert result == devices.Result(devices.MISSING, "device PYTHON is not available: no answer within 1 seconds")


def test_ensure_tests_apart_the_first_time_and_here_every_time(monkeypatch):
    probed, tested = [], []
    monkeypatch.setattr(devices, "probe", lambda name: probed.append(name) or devices.Result(devices.WORKS))
    monkeypatch.setattr(devices, "self_test", lambda device, name: tested.append(name))
    assert devices.ensure("python") == "PYTHON" and (probed, tested) == (["PYTHON"], ["PYTHON"])
    assert devices.ensure("PYTHON") == "PYTHON" and (probed, tested) == (["PYTHON"], ["PYTHON"])
    devices._ensured.clear()  # as in the next process
    assert devices.ensure("PYTHON") == "PYTHON" and (probed, tested) == (["PYTHON"], ["PYTHON"] * 2)


@pytest.mark.parametrize(
    ("status", "error"), [(devices.WRONG, devices.WrongResultError), (devices.MISSING, DeviceError)]
)
def test_ensure_refuses_and_does_not_remember(monkeypatch, tmp_path, status, error):
    monkeypatch.setattr(devices, "probe", lambda name: devices.Result(status, "why"))
    for _ in range(2):
        with pytest.raises(error, match="why"):
            devices.ensure("PYTHON")
    assert not list(tmp_path.rglob("PYTHON*"))


def test_the_report_has_a_row_for_each_backend_the_compiler_and_the_cores(monkeypatch):
    answers = {"CPU": devices.Result(devices.WORKS), "CL": devices.Result(devices.WRONG, "garbage")}
    missing = "device {} is not available: no driver"
    monkeypatch.setattr(
        devices, "probe", lambda name, s: answers.get(name, devices.Result(devices.MISSING, missing.format(name)))
    )
    rows = {name: rest for name, *rest in devices.report()}
    assert list(rows) == [*devices.BACKENDS, "C compiler", "cores"]
    assert rows["CPU"] == ["works", ""] and rows["CL"] == ["wrong result", "garbage"]
    assert rows["PYTHON"] == ["not available", "no driver"]
    assert rows["C compiler"][0] in ("CC", "clang", "ziglang") and rows["cores"][0] == str(toolchain.cores())


def test_a_backend_that_is_elsewhere_is_not_touched(monkeypatch):
    monkeypatch.setattr(devices, "probe", lambda name, s: devices.Result(devices.WORKS))
    rows = {name: rest for name, *rest in devices.report()}
    for name, path in {"AMD": "/dev/kfd", "NV": "/dev/nvidiactl", "QCOM": "/dev/kgsl-3d0"}.items():
        if not os.path.exists(path):
            assert rows[name] == ["not available", f"there is no {path}"]
