"""What the calls of a compiled model cost is measured one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from native_models import CONFIGS, native

from minitx.compiler.plan import plan
from minitx.engines.measure import Work, measure
from minitx.errors import InputError


@pytest.mark.parametrize("threads", [1, 2])
def test_each_call_of_both_functions_is_measured(threads):
    planned = plan(CONFIGS["post"])
    engine, calls = native("post", threads=threads), {f.name: len(f.calls) for f in planned.functions}
    work = Work(batch=3, source=7, target=5, threads=threads, instruction_set="")
    found = measure(engine, work, calls, 2, lambda message: None)
    assert {name: m.rows for name, m in found.items()} == {"encode": 3 * 7, "step": 3}
    for name, measured in found.items():
        assert len(measured.calls) == calls[name] and measured.runs >= 4
        assert 0 < np.sum(measured.calls) < 1e9 and measured.wait >= 0
    with pytest.raises(InputError, match="split the text"):
        measure(engine, dataclasses.replace(work, source=1000), calls, 2, lambda message: None)
