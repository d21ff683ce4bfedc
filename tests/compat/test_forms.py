"""Call forms and specs that scripts bring: other names, scalars with axes, specs of a model's own, traced arrays."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast
from lmc_fast.compat import git_re_basin_pytorch
from lmc_fast.compat.git_re_basin import (
    apply_permutation,
    get_permuted_param,
    mlp_permutation_spec,
    permutation_spec_from_axes_to_perm,
    weight_matching,
)
from lmc_fast.compat.specs import derived_spec, random_inputs


def mlp(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [7, 9, 8, 4]
    shapes = {f"layer{i}.weight": (sizes[i + 1], sizes[i]) for i in range(3)}
    shapes |= {f"layer{i}.bias": (sizes[i + 1],) for i in range(3)}
    return {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}


A, B = mlp(0), mlp(1)
SPEC = git_re_basin_pytorch.mlp_permutation_spec(2)


class OtherSpec(NamedTuple):
    """As C2M3 names the halves."""

    perm_to_layers_and_axes: dict[str, list[tuple[str, int]]]
    layer_and_axes_to_perm: dict[str, tuple[str | None, ...]]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[p], other[p]) for p in one)


@pytest.mark.parametrize(
    "call",
    [
        lambda: weight_matching(OtherSpec(*SPEC), A, B, silent=True),
        lambda: weight_matching(OtherSpec(*SPEC), fixed=A, permutee=B, max_iter=100, silent=True),
        lambda: weight_matching(ps=SPEC, fixed=A, permutee=B, silent=True),
        lambda: weight_matching(SPEC, A, B, device="cpu", silent=True),
        lambda: weight_matching(None, SPEC, A, B, device=torch.device("cpu"), silent=True),
        lambda: weight_matching(rng=None, ps=SPEC, params_a=A, params_b=B, silent=True),
    ],
    ids=["other-halves", "fixed-and-permutee", "by-name", "device", "keyed", "keyed-by-name"],
)
def test_call_forms_are_the_same_call(call: Any) -> None:
    assert same(call(), weight_matching(SPEC, A, B, silent=True))


def test_indices_take_a_device() -> None:
    perm = weight_matching(SPEC, A, B, silent=True)
    moved = apply_permutation(OtherSpec(*SPEC), perm, B, device="cpu")
    assert same(moved, apply_permutation(SPEC, perm, B))
    assert torch.equal(get_permuted_param(SPEC, perm, "layer0.bias", B, device="cpu"), moved["layer0.bias"])


def test_another_search_is_taken_on_wish() -> None:
    spec = lmc_fast.PermutationSpec.from_axes(SPEC.axes_to_perm, model=A)
    perm = weight_matching(SPEC, A, B, search="frank_wolfe", silent=True)
    starts = [
        lmc_fast.weight_matching(A, B, spec, init=init, search="frank_wolfe") for init in ("identity", "anchored")
    ]
    assert same(perm, dict(max(starts, key=lambda match: match.objective).permutations))
    with pytest.raises(ValueError, match="search must be one of"):
        weight_matching(SPEC, A, B, search="annealing")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_matching("spec", A, B), "ps must be a PermutationSpec, got 'spec'"),
        (lambda: weight_matching(0, "spec", A, B), "ps must be a PermutationSpec, got 'spec'"),
        (lambda: weight_matching(ps="spec", params_a=A, params_b=B), "ps must be a PermutationSpec, got 'spec'"),
        (lambda: weight_matching(SPEC, A, B, params_a=A, fixed=A), "params_a and fixed are one argument, got both"),
        (lambda: weight_matching(SPEC, A, B, device=3), "device must be"),
    ],
    ids=["no-spec", "no-spec-behind-a-key", "no-spec-by-name", "both-names", "no-device"],
)
def test_what_is_no_spec_is_not_taken_for_a_key(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def with_scalar(axes: tuple[str | None, ...], name: str) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    ps = permutation_spec_from_axes_to_perm({**SPEC.axes_to_perm, name: axes})
    return ps, {**A, name: torch.tensor(3)}, {**B, name: torch.tensor(5)}


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        (("P_0", None), "bn.num_batches_tracked"),
        ((None,), "num_batches_tracked"),
        ((None, None), "temperature"),
        ((), "temperature"),
    ],
    ids=str,
)
def test_a_scalar_stays(axes: tuple[str | None, ...], name: str) -> None:
    ps, a, b = with_scalar(axes, name)
    perm = weight_matching(ps, a, b, silent=True)
    assert same(perm, weight_matching(SPEC, A, B, silent=True))
    assert apply_permutation(ps, perm, b)[name] is b[name]


def test_a_scalar_that_is_to_move_is_named() -> None:
    ps, a, b = with_scalar(("P_0", None), "temperature")
    with pytest.raises(ValueError, match="ps names 2 axes of 'temperature', which has 0"):
        weight_matching(ps, a, b, silent=True)
    with pytest.raises(ValueError, match="ps moves axis 0 of 'temperature', which has 0 in params"):
        apply_permutation(ps, {"P_0": torch.arange(9), "P_1": torch.arange(8)}, b)


class Attending(nn.Module):
    """A permutation inside another: the dimensions of heads. And a flatten behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(24, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc(torch.relu(self.bn(self.conv(x))).flatten(1)))
        x = x.reshape(x.shape[0], 1, 8).expand(-1, 3, -1)
        return self.out(self.attention(x, x, x, need_weights=False)[0].sum(1))


@pytest.fixture(scope="module")
def attending() -> tuple[list[nn.Module], Any, Tensor]:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(Attending().eval())
    x = random_inputs("shape", (4, 3, 4, 4), models[0])
    return models, derived_spec(models[0], x), x


def test_a_derived_spec_reads_as_a_script_s(attending: Any) -> None:
    (a, b), ps, x = attending
    assert set(ps.axes_to_perm) == set(ps.whole.axes) and set(ps.perm_to_axes) == set(ps.whole.groups)
    conv = ps.axes_to_perm["conv.weight"][0]
    assert ps.axes_to_perm["fc.weight"][1] == conv
    for places in ps.perm_to_axes.values():
        assert all(ps.axes_to_perm[name][axis] is not None for name, axis in places)
    # The first place tells how many units there are.
    name, axis = ps.perm_to_axes[conv][0]
    assert a.state_dict()[name].shape[axis] == 6
    perm = weight_matching(ps, a.state_dict(), b.state_dict(), silent=True)
    inside = next(name for name, group in ps.whole.groups.items() if group.owner is not None)
    assert perm[inside].ndim == 2
    moved = apply_permutation(ps, perm, b.state_dict())
    with torch.no_grad():
        y = b(x)
        twin = Attending().eval()
        twin.load_state_dict(moved)
        torch.testing.assert_close(twin(x), y)
    assert not torch.equal(moved["fc.weight"], b.state_dict()["fc.weight"])
    assert moved["out.bias"] is not None and torch.equal(moved["out.bias"], b.out.bias)
    again = weight_matching(ps, a.state_dict(), b.state_dict(), init_perm=perm, silent=True)
    assert same(again, perm)


def test_one_axis_of_a_derived_spec_may_be_left(attending: Any) -> None:
    (_, b), ps, _ = attending
    perm = dict(lmc_fast.Permutations.random(ps.whole, seed=2))
    state = b.state_dict()
    index = (perm[ps.axes_to_perm["fc.weight"][1]][:, None] * 4 + torch.arange(4)).flatten()
    rows = perm[ps.axes_to_perm["fc.weight"][0]]
    assert torch.equal(get_permuted_param(ps, perm, "fc.weight", state, except_axis=0), state["fc.weight"][:, index])
    assert torch.equal(get_permuted_param(ps, perm, "fc.weight", state, except_axis=1), state["fc.weight"][rows])
    assert get_permuted_param(ps, perm, "out.bias", state) is state["out.bias"]
    with pytest.raises(TypeError, match=r"params\['fc.weight'\] must be a tensor"):
        get_permuted_param(ps, perm, "fc.weight", {"fc.weight": state["fc.weight"].numpy()})


def test_permutations_may_be_left_out_of_a_derived_spec(attending: Any) -> None:
    (a, _), ps, x = attending
    name = ps.axes_to_perm["conv.weight"][0]
    fewer = derived_spec(a, x, leave_out=[name])
    assert set(fewer.perm_to_axes) == set(ps.perm_to_axes) - {name}
    assert fewer.axes_to_perm["fc.weight"] == (ps.axes_to_perm["fc.weight"][0], None)
    with pytest.raises(ValueError, match=f"remove_nodes must hold names of .*{name!r}.*, got 'nothing'"):
        derived_spec(a, x, leave_out=["nothing"], argument="remove_nodes")


def flax(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = [5, 6, 7, 3]
    params = {f"Dense_{i}/kernel": rng.standard_normal((sizes[i], sizes[i + 1])).astype(np.float32) for i in range(3)}
    return params | {f"Dense_{i}/bias": rng.standard_normal(sizes[i + 1]).astype(np.float32) for i in range(3)}


FLAX = mlp_permutation_spec(2)
PERM = {"P_0": np.array([3, 1, 0, 5, 4, 2]), "P_1": np.array([6, 0, 1, 5, 2, 3, 4])}


def test_traced_permutations_move_inside_jit_and_vmap() -> None:
    jax = pytest.importorskip("jax")
    params = flax(0)
    wanted = apply_permutation(FLAX, PERM, params)
    arrays = {k: jax.numpy.asarray(w) for k, w in params.items()}
    perm = {p: jax.numpy.asarray(index) for p, index in PERM.items()}
    compiled = jax.jit(lambda perm, params: apply_permutation(FLAX, perm, params))
    for chosen in (perm, {p: index.astype(float) for p, index in perm.items()}):
        assert same(compiled(chosen, arrays), wanted)
    # Parameters of the function's own, in numpy; and permutations of its own.
    assert same(jax.jit(lambda perm: apply_permutation(FLAX, perm, params))(perm), wanted)
    assert same(jax.jit(lambda params: apply_permutation(FLAX, PERM, params))(arrays), wanted)
    both = {p: jax.numpy.stack([index, jax.numpy.arange(len(index))]) for p, index in perm.items()}
    each = jax.vmap(lambda perm: apply_permutation(FLAX, perm, arrays))(both)
    assert same({k: w[0] for k, w in each.items()}, wanted)
    assert np.array_equal(each["Dense_1/kernel"][1], params["Dense_1/kernel"])
    grads = jax.grad(lambda w: sum((apply_permutation(FLAX, perm, w)[k] * wanted[k]).sum() for k in w))(arrays)
    assert np.allclose(grads["Dense_0/bias"], params["Dense_0/bias"], atol=1e-6)
    with pytest.raises(TypeError, match=r"params_a\['Dense_0/kernel'\] must have its numbers at hand, but is traced"):
        jax.jit(lambda w: weight_matching(0, FLAX, w, arrays))(arrays)
    with pytest.raises(ValueError, match=r"perm\['P_0'\] must have an index for each of the 6 entries"):
        jax.jit(lambda perm: apply_permutation(FLAX, perm, arrays))({**perm, "P_0": perm["P_1"]})


class Traced:
    """Stands for JAX's tracers: a shape and a dtype, and no numbers for numpy."""

    def __init__(self, inside: np.ndarray, log: list[str]) -> None:
        self.inside, self.log = inside, log
        self.shape, self.dtype, self.ndim = inside.shape, inside.dtype, inside.ndim

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("no numbers here")

    def __len__(self) -> int:
        return len(self.inside)

    def astype(self, dtype: Any) -> Traced:
        self.log.append("cast")
        return Traced(self.inside.astype(dtype), self.log)

    def take(self, index: Any, axis: int) -> Traced:
        self.log.append("take")
        chosen = index.inside if isinstance(index, Traced) else index
        return Traced(self.inside.take(chosen, axis=axis), self.log)


def test_what_stands_for_an_array_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    jax = SimpleNamespace(core=SimpleNamespace(Tracer=Traced), numpy=SimpleNamespace(asarray=lambda w: Traced(w, log)))
    monkeypatch.setitem(sys.modules, "jax", jax)
    params = flax(0)
    wanted = apply_permutation(FLAX, PERM, params)

    def plain(moved: dict[str, Any]) -> dict[str, Any]:
        return {k: w.inside if isinstance(w, Traced) else w for k, w in moved.items()}

    traced = {p: Traced(index, log) for p, index in PERM.items()}
    floats = {p: Traced(index.astype(np.float32), log) for p, index in PERM.items()}
    inside = {k: Traced(w, log) for k, w in params.items()}
    for perm, given in ((traced, params), (traced, inside), (floats, inside), (PERM, inside)):
        assert same(plain(apply_permutation(FLAX, perm, given)), wanted)
    # Floats are cast once, however many axes they move.
    assert log.count("cast") == 2
    with pytest.raises(TypeError, match=r"perm\['P_0'\] must be indices in one dimension"):
        apply_permutation(FLAX, {**traced, "P_0": Traced(np.zeros((2, 2), int), log)}, params)
    with pytest.raises(TypeError, match="is traced by JAX: a search is not to be called inside jit"):
        weight_matching(0, FLAX, inside, inside)
    with pytest.raises(TypeError, match=r"perm\['P_0'\] must be known, but is traced by JAX"):
        apply_permutation(SPEC, {"P_0": traced["P_0"], "P_1": traced["P_1"]}, {"layer0.bias": torch.ones(6)})


def test_types_that_torch_has_not_are_read_as_what_holds_them() -> None:
    given = {k: w.numpy().astype(np.longdouble) for k, w in A.items()}
    other = {k: w.numpy().astype(np.longdouble) for k, w in B.items()}
    assert same(weight_matching(SPEC, given, other, silent=True), weight_matching(SPEC, A, B, silent=True))

    class Narrow:
        """As a bfloat16 array of ml_dtypes: numpy holds it under a kind of its own."""

        def __init__(self, inside: np.ndarray) -> None:
            self.inside, self.shape = inside, inside.shape

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return self.inside.astype(object)

    narrow = [{k: Narrow(w.numpy()) for k, w in state.items()} for state in (A, B)]
    assert same(weight_matching(SPEC, *narrow, silent=True), weight_matching(SPEC, A, B, silent=True))
