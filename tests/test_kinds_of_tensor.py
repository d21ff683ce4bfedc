"""Every public function that takes a model, given every kind of tensor: it works, or names what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import lmc_fast as lmc
from lmc_fast.compat import git_re_basin_pytorch

from .test_tensors import fake


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


torch.manual_seed(0)
GOOD = network()
SPEC = lmc.architectures.mlp(GOOD)
PERMUTATIONS = lmc.Permutations.random(SPEC, 1)
BATCHES = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
INPUTS = [inputs for inputs, _ in BATCHES]


def freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


# Of the first layer's weight, a tensor of the same shape.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse_coo": lambda w: w.to_sparse(),
    "sparse_csr": lambda w: w.to_sparse_csr(),
    "nested": lambda w: torch.nested.nested_tensor([w]),
    "jagged": lambda w: torch.nested.nested_tensor([w], layout=torch.jagged),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "meta": lambda w: w.to("meta"),
    "fake": lambda w: fake(),
    "wrapper": lambda w: TwoTensor(w.clone(), w.clone()),
    "functional": lambda w: torch._to_functional_tensor(w.clone()),
    "freed": freed,
    "mkldnn": lambda w: w.to_mkldnn(),
}
# Dense, and of numbers that most of the functions do not sum.
ODD_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "complex": lambda w: w.to(torch.complex64),
    "float8": lambda w: w.to(torch.float8_e4m3fn),
    "bool": lambda w: w > 0,
    "uint16": lambda w: w.abs().to(torch.uint16),
    "int4 in bytes": lambda w: w.to(torch.int8),
}
# Those that are to give what a plain copy gives.
HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "lazy negative": lambda w: torch.complex(torch.zeros_like(w), -w).conj().imag,
    "lazy negative of a conjugate": lambda w: torch.complex(w, w).conj().mul(-1).imag,
    "with an offset": lambda w: torch.cat([w, w])[6:],
    "transposed": lambda w: w.T.contiguous().T,
}

Function = Callable[[Any], Any]
OF_STATES: dict[str, Function] = {
    "weight_matching": lambda s: lmc.weight_matching(s, GOOD, SPEC),
    "weight_matching b": lambda s: lmc.weight_matching(GOOD, s, SPEC),
    "sinkhorn_matching": lambda s: lmc.sinkhorn_matching(s, GOOD, SPEC, steps=2),
    "sinkhorn_matching b": lambda s: lmc.sinkhorn_matching(GOOD, s, SPEC, steps=2),
    "straight_through_matching b": lambda s: lmc.straight_through_matching(GOOD, s, BATCHES, SPEC, epochs=1),
    **{
        f"match_many {method}": lambda s, method=method: lmc.match_many([GOOD, s, GOOD], SPEC, method=method)
        for method in ("merge_many", "c2m3")
    },
    "interpolate": lambda s: lmc.interpolate(s, GOOD, 0.5),
    "interpolate b": lambda s: lmc.interpolate(GOOD, s, [0.25, 0.5], PERMUTATIONS),
    "interpolate in torch": lambda s: lmc.interpolate(GOOD, s, 0.5, PERMUTATIONS, backend="torch"),
    "merge": lambda s: lmc.merge([GOOD, s]),
    "Permutations.apply": lambda s: PERMUTATIONS.apply(s),
    "PermutationSpec.bind": lambda s: SPEC.bind(s),
    "PermutationSpec.from_axes": lambda s: lmc.PermutationSpec.from_axes(SPEC.axes, model=s),
    "architectures.mlp": lambda s: lmc.architectures.mlp(s),
    "architectures.resnet": lambda s: lmc.architectures.resnet(s),
    "loss_barrier b": lambda s: lmc.loss_barrier(GOOD, s, BATCHES, lambdas=3),
    "loss_landscape b": lambda s: lmc.loss_landscape([GOOD, s, network()], BATCHES, points=2),
    "taylor_barrier b": lambda s: lmc.taylor_barrier(GOOD, s, BATCHES),
    "singular_factors": lambda s: lmc.singular_factors(s),
    "spectral_alignment": lambda s: lmc.spectral_alignment(s, GOOD, PERMUTATIONS),
    "spectral_alignment b": lambda s: lmc.spectral_alignment(GOOD, s, PERMUTATIONS),
    "distance_decomposition": lambda s: lmc.distance_decomposition(s, GOOD, PERMUTATIONS),
    "vector_cosines": lambda s: lmc.vector_cosines(s, GOOD, PERMUTATIONS),
}
OF_MODULES: dict[str, Function] = {
    "activation_matching": lambda m: lmc.activation_matching(m, GOOD, INPUTS, SPEC),
    "activation_matching of b": lambda m: lmc.activation_matching(GOOD, m, INPUTS, SPEC),
    "straight_through_matching": lambda m: lmc.straight_through_matching(m, GOOD, BATCHES, SPEC, epochs=1),
    "loss_barrier": lambda m: lmc.loss_barrier(m, GOOD, BATCHES, lambdas=3),
    "loss_landscape": lambda m: lmc.loss_landscape([m, GOOD, network()], BATCHES, points=2),
    "taylor_barrier": lambda m: lmc.taylor_barrier(m, GOOD, BATCHES),
    "pairwise_barriers": lambda m: lmc.pairwise_barriers([m, GOOD], None, BATCHES),
    "evaluate": lambda m: lmc.evaluate(m, BATCHES),
    "input_alignment": lambda m: lmc.input_alignment(m, INPUTS),
    "repair": lambda m: lmc.repair(m, [GOOD, GOOD], INPUTS, spec=SPEC),
    "repair models": lambda m: lmc.repair(GOOD, [GOOD, m], INPUTS, spec=SPEC),
    "reestimate_batchnorm": lambda m: lmc.reestimate_batchnorm(m, INPUTS),
    "verify_spec": lambda m: lmc.verify_spec(m, SPEC, INPUTS[0]),
    "interpolate modules": lambda m: lmc.interpolate(m, GOOD, 0.5),
    "apply to a module": lambda m: PERMUTATIONS.apply(m),
    "weight_matching of modules": lambda m: lmc.weight_matching(m, GOOD, SPEC),
    "mlp of a module": lambda m: lmc.architectures.mlp(m),
}
# What looks at shapes alone.
OF_SHAPES = {"PermutationSpec.bind", "PermutationSpec.from_axes", "architectures.mlp", "architectures.resnet"}
OF_SHAPES |= {"mlp of a module"}


def state_with(make: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in GOOD.state_dict().items()}
    return {**state, "0.weight": make(state["0.weight"])}


def module_with(make: Callable[[Tensor], Tensor]) -> nn.Module:
    module = copy.deepcopy(GOOD)
    del module[0].weight
    module[0].register_buffer("weight", make(GOOD[0].weight.detach().clone()))
    return module


def outcome(run: Callable[[], Any]) -> str:
    """How a call ends; any other exception goes on."""
    try:
        run()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "works"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [*OF_STATES, *OF_MODULES])
def test_tensors_without_dense_numbers_are_refused_with_the_argument_s_name(function: str, kind: str) -> None:
    given: Any = module_with(KINDS[kind]) if function in OF_MODULES else state_with(KINDS[kind])
    run = (OF_MODULES if function in OF_MODULES else OF_STATES)[function]
    told = outcome(lambda: run(given))
    if function in OF_SHAPES and kind in ("meta", "fake"):
        assert told == "works" or function == "architectures.resnet"
    elif function != "architectures.resnet":
        assert "0.weight'] must be a dense tensor with data, got " in told
        assert told.startswith("ValueError: ")
        assert "model" in told or "merged" in told
    else:
        assert told != "works"


@pytest.mark.parametrize("kind", ODD_NUMBERS)
@pytest.mark.parametrize("function", OF_STATES)
def test_numbers_that_are_not_summed_are_refused_or_carried(function: str, kind: str) -> None:
    told = outcome(lambda: OF_STATES[function](state_with(ODD_NUMBERS[kind])))
    assert told == "works" or "model" in told or told.startswith("ValueError: " + function.rpartition(".")[2])


@pytest.mark.parametrize("kind", HARMLESS)
def test_lazy_and_strided_tensors_give_what_plain_ones_give(kind: str) -> None:
    state, plain = state_with(HARMLESS[kind]), state_with(lambda w: HARMLESS[kind](w).resolve_neg().clone())
    other = network().state_dict()
    match, expected = (lmc.weight_matching(s, other, SPEC) for s in (state, plain))
    assert match.permutations == expected.permutations
    assert (match.l2_before, match.l2_after, match.objective) == (
        expected.l2_before,
        expected.l2_after,
        expected.objective,
    )
    for run in (
        lambda s: lmc.interpolate(s, other, 0.25, PERMUTATIONS),
        lambda s: lmc.interpolate(other, s, 0.25, PERMUTATIONS),
        lambda s: lmc.merge([s, s, other]),
        lambda s: PERMUTATIONS.apply(s),
    ):
        found, wanted = run(state), run(plain)
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name
    assert lmc.weight_matching(state, state, SPEC).l2_before == 0


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.bool], ids=str)
def test_entries_that_no_group_touches_are_carried_along(dtype: torch.dtype) -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("P", None)}, model={"w": torch.zeros(3, 2)})
    extra = torch.tensor([0, 1, 1, 0]).to(dtype)
    state = {"w": torch.randn(3, 2), "extra": extra}
    axes = {"w": ("P", None)} if dtype in (torch.uint16, torch.bool) else {"w": ("P", None), "extra": (None,)}
    spec = lmc.PermutationSpec.from_axes(axes, model=state)
    moved = lmc.Permutations.random(spec, 1).apply(state)["extra"]
    assert moved.dtype == dtype
    assert moved.data_ptr() != extra.data_ptr()
    assert torch.equal(moved.view(torch.uint8), extra.view(torch.uint8))


def test_other_packages_names_refuse_the_same() -> None:
    spec = git_re_basin_pytorch.mlp_permutation_spec(1)
    state = {f"layer{k}.{part}": tensor for k in (0, 1) for part, tensor in nn.Linear(4, 4).state_dict().items()}
    state["layer0.weight"] = state["layer0.weight"].to_sparse()
    told = outcome(lambda: git_re_basin_pytorch.weight_matching(spec, state, state))
    assert "must be a dense tensor with data, got a tensor of layout sparse_coo" in told
