"""A matching knows whether its spec was verified; a wrong one is refused where that can be seen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import PermutationSpec, architectures

Batches = list[tuple[Tensor, Tensor]]
Find = Callable[..., Any]


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return models.small_mlp(), models.small_mlp()


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(2)]


def wrong_spec(model: nn.Module) -> PermutationSpec:
    return PermutationSpec.from_axes(dict(architectures.mlp(model).axes) | {"1.bias": (None,)})


METHODS: dict[str, Find] = {
    "activation_matching": lambda a, b, spec, data: lmc.activation_matching(a, b, data, spec),
    "straight_through_matching": lambda a, b, spec, data: lmc.straight_through_matching(a, b, data, spec, epochs=1),
    "sinkhorn_matching": lambda a, b, spec, data: lmc.sinkhorn_matching(
        a, b, spec, batches=data, loss="midpoint", steps=2
    ),
    "match_many": lambda a, b, spec, data: lmc.match_many([a, b], spec, method="ste_mm", batches=data, epochs=1),
    "weight_matching": lambda a, b, spec, data: lmc.weight_matching(a, b, spec, example_inputs=data[0][0]),
}


@pytest.mark.parametrize("name", METHODS)
class TestWithData:
    def test_a_right_spec_is_verified(self, name: str, pair: Any, batches: Batches) -> None:
        found = METHODS[name](*pair, architectures.mlp(pair[0]), batches)
        verified = found.verified
        assert (verified.by, verified.model, verified.inputs) == (name, "MLP", "[4, 4]")
        assert verified.error < 1e-12 and found.why_not_verified == ""
        assert f"spec verified by {name} on MLP, inputs [4, 4], largest change" in str(found)

    def test_a_wrong_spec_is_refused(self, name: str, pair: Any, batches: Batches) -> None:
        with pytest.raises(lmc.SymmetryError, match="group '1'"):
            METHODS[name](*pair, wrong_spec(pair[0]), batches)

    def test_what_was_verified_is_not_again(self, name: str, pair: Any, batches: Batches) -> None:
        spec = architectures.mlp(pair[0])
        lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
        assert METHODS[name](*pair, spec, batches).verified == spec.verified

    def test_on_another_class_of_model_it_is(self, name: str, pair: Any, batches: Batches) -> None:
        class Other(type(pair[0])):  # type: ignore[misc]
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).sort(dim=-1).values

        spec = architectures.mlp(pair[0])
        lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
        other = Other(4, (9, 7), 3)
        assert METHODS[name](other, pair[1], spec, batches).verified.by == name

    def test_a_model_that_cannot_be_checked_is_matched_and_it_is_said_why(
        self, name: str, pair: Any, batches: Batches
    ) -> None:
        model, calls = pair[0], [0]

        def count(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            calls[0] += 1
            return out * calls[0]

        model.register_forward_hook(count)
        found = METHODS[name](model, pair[1], architectures.mlp(model), batches)
        assert found.verified is None
        assert "the same weights and inputs give different outputs" in found.why_not_verified
        assert "\n  spec not verified: model cannot be compared with itself" in str(found)

    def test_a_loaders_order_and_the_generators_do_not_notice(self, name: str, pair: Any) -> None:
        class Watched(torch.utils.data.Dataset[Any]):
            def __init__(self) -> None:
                self.seen: list[int] = []

            def __len__(self) -> int:
                return 8

            def __getitem__(self, index: int) -> Any:
                self.seen.append(index)
                return torch.full((4,), float(index)), index % 3

        orders = []
        for verified in (False, True):
            spec = architectures.mlp(pair[0])
            if verified:
                lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
            data = Watched()
            loader = DataLoader(data, batch_size=8, shuffle=True)
            torch.manual_seed(5)
            METHODS[name](*pair, spec, loader if name != "weight_matching" else [(torch.randn(8, 4), None)])
            orders.append(data.seen[-8:])
            assert verified or name == "weight_matching" or len(data.seen) > 8
        assert orders[0] == orders[1]


class TestWithout:
    def test_weights_alone_are_not_verified(self, pair: Any) -> None:
        match = lmc.weight_matching(*pair, wrong_spec(pair[0]))
        assert match.verified is None and str(match).endswith("\n  spec not verified")
        many = lmc.match_many(pair, architectures.mlp(pair[0]))
        assert many.verified is None and str(many).endswith("\n  spec not verified")

    def test_a_spec_that_was_verified_vouches_for_state_dicts(self, pair: Any) -> None:
        spec = architectures.mlp(pair[0])
        lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
        states = [model.state_dict() for model in pair]
        assert lmc.weight_matching(*states, spec).verified == spec.verified
        assert lmc.match_many(states, spec).verified == spec.verified

    def test_example_inputs_take_a_module(self, pair: Any) -> None:
        with pytest.raises(TypeError, match=r"model_a must be a torch\.nn\.Module, to be run on example_inputs"):
            lmc.weight_matching(
                pair[0].state_dict(), pair[1], architectures.mlp(pair[0]), example_inputs=torch.randn(3, 4)
            )


class TestFiles:
    @pytest.mark.parametrize("is_verified", [True, False], ids=["verified", "not"])
    @pytest.mark.parametrize("kind", [lmc.Matching, lmc.ManyMatching], ids=lambda kind: kind.__name__)
    def test_there_and_back(self, kind: Any, is_verified: bool, pair: Any, tmp_path: Path) -> None:
        spec = architectures.mlp(pair[0])
        if is_verified:
            lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
        found = lmc.weight_matching(*pair, spec) if kind is lmc.Matching else lmc.match_many(pair, spec)
        found = found if is_verified else dataclasses.replace(found, why_not_verified="it is random")
        found.save(tmp_path / "found.safetensors")
        again = kind.load(tmp_path / "found.safetensors")
        assert again.verified == found.verified and (again.verified is not None) == is_verified
        assert again.why_not_verified == found.why_not_verified and str(again) == str(found)

    def rewritten(self, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        with safe_open(path, "pt") as file:
            metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        result = json.loads(metadata["result"])
        change(result)
        save_file(tensors, path, {**metadata, "result": json.dumps(result)})
        return path

    def test_old_files_are_not_verified(self, pair: Any, tmp_path: Path) -> None:
        path = tmp_path / "old.safetensors"
        spec = architectures.mlp(pair[0])
        lmc.verify_spec(pair[0], spec, torch.randn(3, 4))
        lmc.weight_matching(*pair, spec).save(path)
        self.rewritten(path, lambda result: [result.pop(name) for name in ("verified", "why_not_verified")] and None)
        match = lmc.Matching.load(path)
        assert match.verified is None and match.why_not_verified == ""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"verified": 3}, "result: verified must be an object with"),
            ({"verified": {"by": "me"}}, "result: verified must be an object with"),
            ({"why_not_verified": None}, "why_not_verified must be of type str"),
        ],
        ids=["number", "parts", "why"],
    )
    def test_wrong_records_are_named(self, change: dict[str, Any], message: str, pair: Any, tmp_path: Path) -> None:
        path = tmp_path / "match.safetensors"
        lmc.weight_matching(*pair, architectures.mlp(pair[0])).save(path)
        with pytest.raises(ValueError, match=message):
            lmc.Matching.load(self.rewritten(path, lambda result: result.update(change)))
