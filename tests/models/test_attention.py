from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from scenetok_ns.models import attention as module
from scenetok_ns.models.attention import attention


@pytest.fixture(autouse=True)
def fresh_import():
    module._import_flash.cache_clear()
    yield
    module._import_flash.cache_clear()


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 8, generator=generator) for length in (5, 7, 7)]


def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


class StandIn(ModuleType):
    """A flash_attn that works on the processor and counts its calls."""

    calls = 0
    with_sums = False

    def flash_attn_func(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self.calls += 1
        out = expected(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        return (out, q.sum()) if self.with_sums else out


def use_on(monkeypatch: pytest.MonkeyPatch, generation: int) -> None:
    """Tensors of the processor pass for those of a GPU."""
    monkeypatch.setattr(module, "_flash_usable", lambda q, k, v: True)
    monkeypatch.setattr(module, "_generation", lambda q: generation)


def test_attends_with_softmax_over_the_keys() -> None:
    q, k, v = inputs()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))


def test_flash_attention_is_used_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    use_on(monkeypatch, 8)
    q, k, v = inputs()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))
    assert stand_in.calls == 1
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), expected(q, k, v))
    assert stand_in.calls == 2


@pytest.mark.parametrize(("generation", "calls"), [(7, (0, 0)), (8, (1, 0)), (9, (0, 1)), (10, (1, 0))])
@pytest.mark.parametrize("with_sums", [False, True])
def test_version_3_is_for_hopper_and_version_2_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, generation: int, calls: tuple[int, int], with_sums: bool
) -> None:
    versions = StandIn("flash_attn"), StandIn("flash_attn_interface")
    versions[1].with_sums = with_sums
    for stand_in in versions:
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    use_on(monkeypatch, generation)
    q, k, v = inputs()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))
    assert tuple(stand_in.calls for stand_in in versions) == calls


def test_flash_attention_is_left_alone_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    attention(*(x.bfloat16() for x in inputs()))
    assert stand_in.calls == 0


def test_a_missing_flash_attention_is_no_event(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    use_on(monkeypatch, 8)
    q, k, v = inputs()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))


def test_a_broken_flash_attention_is_reported_once(monkeypatch: pytest.MonkeyPatch, caplog, tmp_path) -> None:
    (tmp_path / "flash_attn.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    use_on(monkeypatch, 8)
    q, k, v = inputs()
    for _ in range(3):
        torch.testing.assert_close(attention(q, k, v), expected(q, k, v))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "undefined symbol" in caplog.text


def tensor(dtype: torch.dtype = torch.bfloat16, dim: int = 64, is_cuda: bool = True) -> SimpleNamespace:
    return SimpleNamespace(dtype=dtype, shape=(2, 4, 16, dim), is_cuda=is_cuda)


@pytest.mark.parametrize(
    ("usable", "change"),
    [
        (True, {}),
        (True, {"dtype": torch.float16}),
        (True, {"dim": 256}),
        (False, {"dtype": torch.float32}),
        (False, {"dim": 264}),
        (False, {"dim": 20}),
        (False, {"is_cuda": False}),
    ],
)
def test_flash_attention_is_for_half_precision_on_cuda(usable: bool, change: dict) -> None:
    x = tensor(**change)
    assert module._flash_usable(x, x, x) is usable


def test_flash_attention_needs_one_precision() -> None:
    assert not module._flash_usable(tensor(), tensor(), tensor(torch.float16))
