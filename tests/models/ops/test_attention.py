from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.ops import attention as module
from scenetok_ns.models.ops.attention import attention


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
    """A stand-in for flash_attn that works on the CPU and counts its calls."""

    calls = 0
    with_sums = False

    def flash_attn_func(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self.calls += 1
        out = expected(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        return (out, q.sum()) if self.with_sums else out


def use_on(monkeypatch: pytest.MonkeyPatch, generation: int) -> None:
    """Let CPU tensors pass for tensors of a GPU."""
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


def install(monkeypatch: pytest.MonkeyPatch, *versions: int) -> dict[int, StandIn]:
    """Install stand-ins for some versions. Others are missing."""
    installed = {version: StandIn(name) for version, name in module._MODULES.items() if version in versions}
    if 4 in versions and 2 not in versions:  # a namespace package, which has no file
        monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
        sys.modules["flash_attn"].__file__ = None
    for version, name in module._MODULES.items():
        if version in versions:
            monkeypatch.setitem(sys.modules, name, installed[version])
            parent, _, child = name.partition(".")
            if child:
                monkeypatch.setattr(sys.modules[parent], child, installed[version], raising=False)
        elif name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, None)
    return installed


@pytest.mark.parametrize(
    ("generation", "installed", "served"),
    [
        (7, (2, 3, 4), None),
        (8, (2, 3, 4), 2),
        (8, (3, 4), None),
        (9, (2, 3, 4), 3),
        (9, (2, 4), 2),
        (9, (4,), None),
        (9, (2,), 2),
        (10, (2, 3, 4), 4),
        (10, (2, 3), 2),
        (12, (2, 4), 2),
        (12, (4,), None),
    ],
)
@pytest.mark.parametrize("with_sums", [False, True])
def test_each_generation_has_its_version(
    monkeypatch: pytest.MonkeyPatch,
    caplog,
    generation: int,
    installed: tuple[int, ...],
    served: int | None,
    with_sums: bool,
) -> None:
    versions = install(monkeypatch, *installed)
    for stand_in in versions.values():
        stand_in.with_sums = with_sums
    use_on(monkeypatch, generation)
    q, k, v = inputs()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))
    assert {version for version, stand_in in versions.items() if stand_in.calls} == ({served} if served else set())
    assert not caplog.records


def test_version_4_trains_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = install(monkeypatch, 2, 4)
    use_on(monkeypatch, 9)
    q, k, v = inputs()
    v.requires_grad_()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v))
    assert (versions[2].calls, versions[4].calls) == (0, 1)
    with torch.no_grad():
        attention(q, k, v)
    assert (versions[2].calls, versions[4].calls) == (1, 1)


def test_compiled_code_is_not_given_version_4(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = install(monkeypatch, 2, 4)
    use_on(monkeypatch, 10)
    q, k, v = inputs()
    attention(q, k, v)
    assert (versions[2].calls, versions[4].calls) == (0, 1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    attention(q, k, v)
    assert (versions[2].calls, versions[4].calls) == (1, 1)


@pytest.mark.parametrize(("generation", "head_dim", "version"), [(9, 256, 4), (10, 128, 4), (10, 256, 2)])
def test_version_4_has_a_largest_head_dimension_on_blackwell(
    monkeypatch: pytest.MonkeyPatch, generation: int, head_dim: int, version: int
) -> None:
    install(monkeypatch, 2, 4)
    assert module.flash_version(generation, head_dim, trains=True) == version


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


def test_the_mark_for_the_compiler_is_the_one_that_torch_sets() -> None:
    """attention.py sets this mark by hand, because torch's decorator imports the compiler."""

    @torch.compiler.assume_constant_result
    def marked() -> int:
        return 0

    assert vars(module._installed_version) == vars(marked)


def test_importing_attention_imports_no_compiler() -> None:
    code = "import sys, scenetok_ns.models.ops.attention; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
