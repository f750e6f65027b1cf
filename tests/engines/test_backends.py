"""The same tiny models, searched on every backend that works here, give the same tokens as on the CPU."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from minitx.config import Generation, preset
from minitx.engines.devices import ensure
from minitx.engines.jit import JitEngine
from minitx.generation.search import generate
from minitx.nn.transformer import Transformer

device, found = ensure(sys.argv[1]), []
for mixer in ("attention", "ssru"):
    sizes = {"d_model": 8, "heads": 2, "d_ff": 8, "source_vocab": 24, "target_vocab": 24}
    config = preset("tiny", mixer=mixer, encoder_layers=1, decoder_layers=1, **sizes)
    engine = JitEngine(Transformer(config, device, seed=7), suppress=(1,))
    sentences = [[5, 9, 11, 0], [8, 0]]
    for n_best in (1, 2):
        best = generate(engine, sentences, Generation(start=-1, end=0), n_best=n_best, max_length=3)
        found.append([[h.tokens for h in hypotheses] for hypotheses in best])
print(json.dumps(found))
"""


def tokens(device):
    """What the script finds on a device, in a process of its own: a renderer is chosen for a whole process."""
    child = subprocess.run([sys.executable, "-c", SCRIPT, device], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


@pytest.fixture(scope="module")
def expected():
    return tokens("CPU")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["CPU:X86", "CPU:LLVM", "CL", "WEBGPU", "PYTHON"])
def test_a_backend_gives_the_tokens_of_the_cpu(device, expected, needs):
    needs(device)
    assert tokens(device) == expected
    assert all(hypotheses and hypotheses[0] for searched in expected for hypotheses in searched)
