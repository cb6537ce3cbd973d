from __future__ import annotations

import pytest
import torch

from fastrcnn.precision import full_float32, multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_a_cpu_multiplies_bfloat16_if_it_has_instructions_for_it(
    found: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert multiplies_bfloat16(CPU) is expected


def test_a_torch_without_get_capabilities_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16(CPU)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_gpus_multiply_bfloat16_since_ampere(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert multiplies_bfloat16(torch.device("cuda")) is expected


def tf32() -> list[str]:
    backends = torch.backends
    settings = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return [one.fp32_precision for one in settings]


def test_full_float32_turns_tf32_off_and_gives_the_settings_back_also_after_an_error() -> None:
    before = tf32()
    assert before[1] == "tf32"  # torch's default for convolutions
    with full_float32():
        assert tf32() == ["ieee"] * 3
    assert tf32() == before
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert tf32() == before
