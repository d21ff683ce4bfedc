"""What derive_spec takes: inputs as people have them, several examples, models without weights; and what it does with
models that torch.export cannot trace."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lmc_fast as lmc
from benchmarks import models


class Masked(nn.Module):
    """[batch, 4] x and a mask [batch, 3] that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.gate = nn.Linear(4, 7), nn.Linear(7, 3), nn.Linear(3, 7)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.up(x).tanh()
        if mask is not None:
            h = h * self.gate(mask)
        return self.down(h)


X, MASK = torch.randn(2, 4), torch.randn(2, 3)
FORMS: dict[str, Any] = {
    "positional": (X, MASK),
    "a list": [X, MASK],
    "keywords": {"x": X, "mask": MASK},
    "a BatchEncoding's kind": UserDict({"x": X, "mask": MASK}),
    "both": lmc.Inputs(X, mask=MASK),
    "numpy": lmc.Inputs(X.numpy(), mask=MASK.double().numpy().astype(np.float32)),
}


@pytest.mark.parametrize("inputs", FORMS.values(), ids=FORMS.keys())
def test_inputs_come_in_any_form(inputs: Any) -> None:
    spec = lmc.derive_spec(Masked(), inputs)
    assert spec.sizes == {"up": 7}
    assert spec.axes["gate.weight"][0].groups == ("up",)
    assert spec.verified is not None and "[2, 4], [2, 3]" in spec.verified.inputs


def test_inputs_print_their_shapes() -> None:
    assert repr(lmc.Inputs(X, mask=MASK)) == "Inputs([2, 4], [2, 3])"


def test_a_real_batch_encoding_is_taken() -> None:
    transformers = pytest.importorskip("transformers")
    spec = lmc.derive_spec(Masked(), transformers.BatchEncoding({"x": X, "mask": MASK}))
    assert spec.sizes == {"up": 7}


def test_what_one_example_leaves_unused_another_shows() -> None:
    model = Masked()
    alone = lmc.derive_spec(model, X)
    assert not alone.axes["gate.weight"][0].groups
    both = lmc.derive_spec(model, X, more_inputs=[{"x": X, "mask": MASK}])
    assert both.sizes == {"up": 7} and both.axes["gate.weight"][0].groups == ("up",)
    assert both.verified is not None
    lmc.verify_spec(model, both, X)
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(model, alone, (X, MASK))
    for wrong in (X, "x", {"x": X}, 3):
        with pytest.raises(TypeError, match="more_inputs must be a list of example inputs"):
            lmc.derive_spec(model, X, more_inputs=wrong)


class ByLength(nn.Module):
    """Two branches of the code, by the batch's size: what moves in one has to move in both."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.down(h.cumsum(1) if len(x) > 2 else h.relu())


def test_what_moves_moves_in_all_examples() -> None:
    model = ByLength()
    assert lmc.derive_spec(model, X).sizes == {"up": 6}
    assert not lmc.derive_spec(model, X, more_inputs=[torch.randn(3, 4)]).groups
    # No weights, no trial: the same by the graphs alone.
    assert not lmc.derive_spec(ByLength().to("meta"), X, more_inputs=[torch.randn(3, 4)]).groups


class Halves(nn.Module):
    """Cuts its units at a place that the batch's size decides, and lays them together again."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x).relu()
        h = torch.cat([h[:, : len(x)], h[:, len(x) :]], 1)
        return self.down(h)


def test_an_example_that_pins_less_is_believed_once_it_is_tried_on_all() -> None:
    model = Halves()
    cut, whole = lmc.derive_spec(model, X), lmc.derive_spec(model, torch.randn(6, 4))
    assert whole.explain().log10_permutations > cut.explain().log10_permutations
    both = lmc.derive_spec(model, X, more_inputs=[torch.randn(6, 4)])
    assert both.sizes == whole.sizes == {"up": 6}
    assert both.verified is not None


def test_models_without_weights_need_none() -> None:
    expected = lmc.derive_spec(models.TransformerBlock(), torch.randn(2, 7, 5), verify=False)
    with FakeTensorMode():
        fake = models.TransformerBlock()
        inputs = torch.randn(2, 7, 5)
    meta = models.TransformerBlock().to("meta")
    for model, given in ((fake, inputs), (meta, torch.randn(2, 7, 5)), (meta, torch.empty(2, 7, 5, device="meta"))):
        spec = lmc.derive_spec(model.train(), given)
        assert spec == expected and spec.verified is None
        assert model.training


class MakesItsOwn(nn.Module):
    """A constant on the CPU, whatever device the weights are on."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale = torch.full((6,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * torch.zeros(1, device="cpu") + self.up(x))


def test_a_meta_model_may_make_tensors_on_the_cpu() -> None:
    model = MakesItsOwn().to("meta")
    model.scale = model.scale.to("meta")
    assert lmc.derive_spec(model, X).sizes == {"up": 6}


# Models that cannot be traced as a whole.


class Branch(nn.Module):
    """Code that goes by values, without weights of its own."""

    def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return (h * 2, {"kept": 1}) if float(h.sum()) > 0 else (h, {"kept": 2})


class Around(nn.Module):
    """A part in the middle that cannot be traced."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 7), nn.Linear(7, 5)
        self.middle = middle or Branch()
        self.last = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.middle(self.down(self.up(x).relu()))
        h, _ = self.middle(h)
        return self.last(h)


def test_a_part_that_cannot_be_traced_is_gone_around() -> None:
    model = Around()
    spec = lmc.derive_spec(model, X)
    assert spec.sizes == {"up": 7, "last.0": 6}
    assert spec.verified is not None
    told = spec.explain()
    assert any(
        note.startswith("part 'middle' cannot be traced, and what goes in and out of it stays: test_inputs.py:")
        and "if float(h.sum()) > 0" in note
        for note in told.notes
    )
    assert "goes in or out of a part that cannot be traced" in str(told)
    assert isinstance(model.middle, Branch)


class Weighted(Branch):
    """Such code with weights of its own, and with parts that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.inner = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 5))

    def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return super().forward(self.inner(h) * self.scale)


def test_weights_in_code_that_cannot_be_traced_stay_if_that_is_allowed() -> None:
    model = Around(Weighted())
    with pytest.raises(ValueError, match=r"but test_inputs\.py:\d+ \(.*float\(h\.sum\(\)\).*strict=False leaves"):
        lmc.derive_spec(model, X)
    spec = lmc.derive_spec(model, X, strict=False)
    assert spec.sizes == {"up": 7, "last.0": 6, "middle.inner.0": 9}
    assert "untraced: is used by code that cannot be traced: middle.scale[0]" in str(spec.explain())
    assert spec.verified is not None


class Root(nn.Module):
    """Code that cannot be traced, with parts in a list that can, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 4)) for n in (5, 6))
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
            x = x if float(x.sum()) > 0 else -x
        return self.blocks[1](x[:, None])


def test_parts_are_traced_by_themselves_where_what_is_around_them_cannot_be() -> None:
    spec = lmc.derive_spec(Root(), X)
    assert spec.sizes == {"blocks.0.0": 5, "blocks.1.0": 6}
    assert any("the model cannot be traced as a whole, and its parts" in note for note in spec.explain().notes)
    assert "nothing: no operation uses it: idle.weight[0]" in str(spec.explain())


class Reaches(Root):
    """Uses a weight of a part from outside of it, by values' leave."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.blocks[0][0]
        return super().forward(x) + (x @ first.weight.T).cumsum(1).mean(1, keepdim=True)


def test_a_weight_that_is_used_from_outside_as_well_stays() -> None:
    with pytest.raises(ValueError, match="strict=False leaves the weights that are used there as they are"):
        lmc.derive_spec(Reaches(), X)
    spec = lmc.derive_spec(Reaches(), X, strict=False, verify=False)
    assert spec.sizes == {"blocks.1.0": 6}


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return torch.from_numpy(y.detach().numpy())


def test_where_nothing_is_left_the_line_is_named() -> None:
    with pytest.raises(ValueError, match=r"test_inputs\.py:\d+ \(return torch\.from_numpy.*nothing may be permuted"):
        lmc.derive_spec(Nothing(), X)
    assert not lmc.derive_spec(Nothing(), X, strict=False).groups


def test_without_weights_the_parts_cannot_be_told() -> None:
    with pytest.raises(ValueError, match=r"test_inputs\.py:\d+ .* with its weights at hand it could be traced part by"):
        lmc.derive_spec(Around().to("meta"), X)


@pytest.mark.parametrize("wrong", [torch.randn(2, 9), (X, X, X), {"y": X}], ids=["a shape", "too many", "a name"])
def test_inputs_that_the_model_does_not_take_are_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"model must run on example_inputs \["):
        lmc.derive_spec(models.small_mlp(), wrong)


def test_nothing_is_printed_of_what_torch_logs(capfd: pytest.CaptureFixture[str]) -> None:
    lmc.derive_spec(Around(), X)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


class Grows(nn.Module):
    """What one example shows alone is freer, and wrong for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.down(h if len(x) < 3 else h.cumsum(1))


def test_a_freer_example_is_not_believed_where_it_fails_on_another() -> None:
    model = Grows()
    assert lmc.derive_spec(model, X).groups
    for examples in ((X, torch.randn(3, 4)), (torch.randn(3, 4), X)):
        spec = lmc.derive_spec(model, examples[0], more_inputs=examples[1:])
        assert not spec.groups and not spec.explain().notes


class Cached(nn.Module):
    """A configuration as transformers has them: it is changed on the copy that is traced, and not on the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.body = Masked()
        self.body.config = self.config  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        assert not self.config.use_cache and self.config._experts_implementation_internal == "batched_mm"
        return self.body(x)


class Config:
    def __init__(self) -> None:
        self.use_cache = True
        self._experts_implementation_internal = "grouped_mm"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_models_of_transformers_are_traced_in_the_form_that_tells_most(device: str) -> None:
    model = Cached().to(device)
    spec = lmc.derive_spec(model, X, verify=False)
    assert spec.sizes == {"body.up": 7}
    assert model.config.use_cache and model.config._experts_implementation_internal == "grouped_mm"


class Plain(nn.Module):
    """An attribute without numbers that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale = torch.ones(6)

    def forward(self, x: Tensor, use_cache: bool = True) -> tuple[Tensor, ...]:
        out = self.down(self.up(x).relu())
        return (out, self.scale) if use_cache else (out,)


def test_no_cache_is_asked_for_unless_the_caller_does() -> None:
    model = Plain()
    with torch.device("meta"):
        empty = Plain()
    for one in (model, empty):
        assert lmc.derive_spec(one, X, verify=False).sizes == {"up": 6}
        assert lmc.derive_spec(one, {"x": X, "use_cache": True}, verify=False).sizes == {"up": 6}


def test_what_stands_for_a_part_gives_values_of_its_shapes() -> None:
    from lmc_fast.symmetry.derive.tracing import _GIVEN

    _GIVEN[-1] = [[torch.zeros(2, 3), torch.zeros(4, dtype=torch.long)]]
    first, second = torch.ops.lmc_fast.untraced([X], -1, 0)
    assert first.shape == (2, 3) and second.shape == (4,) and second.dtype == torch.long
    del _GIVEN[-1]
