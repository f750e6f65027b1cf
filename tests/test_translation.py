"""Real models on real text: minitx says what the independent reference says, on every backend that is here."""

from functools import cache
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from reference import END, Reference, model_folder

import minitx
from minitx.engines.devices import WORKS, probe
from minitx.nn.ops import Tensor, padding_mask

DIRECTIONS = {"en-pt": "en", "pt-en": "pt"}
KNOWN = [
    ("en-pt", "How are you today?", "Como você está hoje?"),
    (
        "en-pt",
        "The children were playing happily in the garden.",
        "As crianças estavam brincando alegremente no jardim.",
    ),
    ("pt-en", "As crianças estavam brincando no jardim.", "The children were playing in the garden."),
]
# The apt package that brings each backend to a machine without a GPU, and the file by which it is known to be there.
PACKAGES = {
    "CL": ("pocl-opencl-icd", "/etc/OpenCL/vendors/pocl.icd"),
    "WEBGPU": ("mesa-vulkan-drivers", "/usr/share/vulkan/icd.d/lvp_icd*.json"),
}


def sentences(name):
    """150 sentences in the source language of a model."""
    file = Path(__file__).parent / "data" / f"sentences.{DIRECTIONS[name]}.txt"
    return file.read_text(encoding="utf-8").splitlines()


@cache
def reference(name):
    return Reference(model_folder(name))


@cache
def model(name, device="CPU", engine=None, shortlist=False):
    """The reference looks at all target tokens, so these do, too."""
    return minitx.load(name, device=device, engine=engine, shortlist=shortlist)


@pytest.mark.parametrize(("name", "source", "target"), KNOWN)
def test_reference_says_what_marian_says(name, source, target):
    assert reference(name).translate(source) == target


@pytest.mark.slow
@pytest.mark.parametrize(("shortlist", "most"), [(False, 3), (True, 6)])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_model_says_what_the_reference_says(name, shortlist, most):
    texts = sentences(name)
    assert len(set(texts)) == 150
    wanted, got = reference(name).translate(texts), model(name, shortlist=shortlist)(texts, split=False)
    differing = [row for row in zip(texts, wanted, got, strict=True) if row[1] != row[2]]
    for text, expected, said in differing:
        print(f"{text}\n  reference {expected}\n  minitx    {said}")
    assert len(differing) <= most


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECTIONS)
def test_logits_are_the_references(name):
    """Teacher forcing over a padded batch: the reference knows no padding, and its step is not our `forward`."""
    sources = [reference(name).encode_text(text) for text in sentences(name)[6:9]]
    targets = reference(name).generate(sources)
    tokens = np.zeros((3, max(map(len, sources))), np.int32)  # (B,S)
    inputs = np.full((3, max(map(len, targets)) + 1), END, np.int32)  # (B,T)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        tokens[row, : len(source)] = source
        inputs[row, : len(target) + 1] = [-1, *target]
    mask = padding_mask(np.array([len(source) for source in sources]), tokens.shape[1])
    got = (
        model(name, engine="jit")
        .engine.model.forward(*(Tensor(t, device="CPU") for t in (tokens, inputs, mask)))
        .numpy()
    )
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        wanted = reference(name).logits(source, target)  # (T,V)
        np.testing.assert_allclose(got[row, : len(wanted)], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("device", PACKAGES)
def test_every_backend_gives_the_tokens_of_the_cpu(device):
    package, driver = PACKAGES[device]
    found = probe(device)
    if found.status != WORKS and not glob(driver):
        pytest.skip(f"{device} needs `apt-get install {package}` here: {found.reason}")
    assert found.status == WORKS, found.reason
    tokens = [t for t in map(model("en-pt").encode, sentences("en-pt")) if len(t) <= 16][::5][:20]
    wanted = [best[0].tokens for best in model("en-pt").generate(tokens)]
    got = [best[0].tokens for best in model("en-pt", device).generate(tokens)]
    assert len(wanted) == 20 and all(wanted)
    assert got == wanted
