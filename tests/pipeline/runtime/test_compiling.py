from __future__ import annotations

import importlib.util

import pytest

from pipeline.errors import UserError
from pipeline.runtime.compiling import check_compiles


def test_compiling_is_refused_on_cpus() -> None:
    with pytest.raises(UserError, match="--compile: is slower on CPUs"):
        check_compiles("--compile", 0)


@pytest.mark.parametrize("there", [True, False])
def test_compiling_on_a_gpu_needs_triton(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if there else None)
    if there:
        check_compiles("--compile", 1)
    else:
        with pytest.raises(UserError, match="triton"):
            check_compiles("--compile", 1)
