"""Models in wrappers of parallel, compiled, averaged or sharded execution, and the names that these give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lmc_fast as lmc
from lmc_fast._wrappers import canonical, met, unwrapped

X, Y = torch.randn(12, 5), torch.randint(0, 3, (12,))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


AXES = {"fc1.weight": ("P", None), "fc1.bias": ("P",), "fc2.weight": (None, "P"), "fc2.bias": (None,)}
SPEC = lmc.PermutationSpec.from_axes(AXES)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fully_sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh

    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="fully_shard is in torch 2.6 and later")
    mesh = init_device_mesh("cpu", (1,))
    fsdp.fully_shard(model.fc1, mesh=mesh)
    return fsdp.fully_shard(model, mesh=mesh)


def tensor_parallel(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (1,)), plan)


def old_sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "torch.compile": torch.compile,
    "compiled, then parallel": lambda model: nn.DataParallel(torch.compile(model)),
    "fully_shard": fully_sharded,
    "FullyShardedDataParallel": old_sharded,
    "tensor parallel": tensor_parallel,
}


def pair(wrap: Callable[[nn.Module], nn.Module], count: int = 2) -> list[nn.Module]:
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(wrap(Net()))
    return models


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", WRAPPERS)
def test_every_function_looks_through(name: str) -> None:
    plain, (a, b, c), batches = pair(lambda model: model, 3), pair(WRAPPERS[name], 3), [(X, Y)]
    match, usual = lmc.weight_matching(a, b, SPEC), lmc.weight_matching(*plain[:2], SPEC)
    assert match.permutations.choices["P"].tolist() == usual.permutations.choices["P"].tolist()
    merged = lmc.interpolate(a, b, 0.5, match)
    assert type(merged) is Net and all(parameter.is_leaf for parameter in merged.parameters())
    torch.testing.assert_close(merged(X), lmc.interpolate(*plain[:2], 0.5, usual)(X))
    assert lmc.evaluate(a, batches) == lmc.evaluate(plain[0], batches)
    curve = lmc.loss_barrier(a, b, batches, match, lambdas=3)
    assert curve.loss.tolist() == lmc.loss_barrier(*plain[:2], batches, usual, lambdas=3).loss.tolist()
    assert lmc.loss_landscape([a, b, c], batches, points=2).loss.shape == (2, 2)
    assert lmc.verify_spec(a, SPEC, X) < 1e-10
    for method in (
        lambda a, b: lmc.activation_matching(a, b, batches, SPEC),
        lambda a, b: lmc.straight_through_matching(a, b, batches, SPEC, epochs=1),
        lambda a, b: lmc.sinkhorn_matching(a, b, SPEC, batches=batches, loss="midpoint", steps=2),
        lambda a, b: lmc.match_many([a, b, a], SPEC).permutations[1].choices["P"],
    ):
        found, expected = method(a, b), method(*plain[:2])
        assert str(getattr(found, "permutations", found)) == str(getattr(expected, "permutations", expected))
    assert lmc.taylor_barrier(a, b, batches).a.slope == pytest.approx(
        lmc.taylor_barrier(*plain[:2], batches).a.slope, rel=1e-5
    )
    assert set(lmc.singular_factors(a)) == {"fc1.weight", "fc2.weight"}
    assert type(lmc.reestimate_batchnorm(a, batches)) is Net
    assert type(lmc.repair(merged, [a, b], batches, [None, match])) is Net


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_are_met_on_either_side(prefix: str) -> None:
    a, b = (model.state_dict() for model in pair(lambda model: model))
    longer = {f"{prefix}{name}": tensor for name, tensor in b.items()}
    long_spec = lmc.PermutationSpec.from_axes({f"{prefix}{name}": axes for name, axes in AXES.items()})
    usual = lmc.weight_matching(a, b, SPEC)
    for spec in (SPEC, long_spec):
        for ours, theirs in ((a, longer), (longer, b), (longer, longer)):
            match = lmc.weight_matching(ours, theirs, spec)
            assert (match.objective > 0) and set(lmc.interpolate(ours, theirs, 0.5, match)) == set(ours)
        match = lmc.weight_matching(a, longer, spec)
        assert match.permutations.choices["P"].tolist() == usual.permutations.choices["P"].tolist()
    moved = usual.apply(longer)
    assert list(moved) == list(longer)
    assert torch.equal(moved[f"{prefix}fc1.bias"], usual.apply(b)["fc1.bias"])
    assert lmc.spectral_alignment(a, longer, usual).overall == lmc.spectral_alignment(a, b, usual).overall
    factors = lmc.singular_factors(longer)
    assert lmc.distance_decomposition(a, factors, usual).overall.after == pytest.approx(usual_distance(a, b, usual))
    assert list(lmc.singular_factors(longer, parameters=["fc1.weight"])) == [f"{prefix}fc1.weight"]


def usual_distance(a: dict[str, Tensor], b: dict[str, Tensor], match: lmc.Matching) -> float:
    return lmc.distance_decomposition(a, b, match).overall.after


def test_the_count_of_an_averaged_models_state_dict_is_no_difference() -> None:
    a, b = pair(AveragedModel)
    state = b.state_dict()
    assert "n_averaged" in state
    match = lmc.weight_matching(a, state, SPEC)
    assert match.objective == lmc.weight_matching(a, b, SPEC).objective
    assert set(match.apply(state)) == set(state)


def test_a_module_of_ones_own_called_module_keeps_its_names() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    a, b = Holder(), Holder()
    spec = lmc.PermutationSpec.from_axes({f"module.{name}": axes for name, axes in AXES.items()})
    match = lmc.weight_matching(a, b, spec)
    torch.testing.assert_close(match.apply(b)(X), b(X))
    assert list(lmc.singular_factors(a)) == ["module.fc1.weight", "module.fc2.weight"]
    assert lmc.loss_barrier(a, b, [(X, Y)], match, lambdas=3).loss.shape == (3,)


def test_what_has_no_forward_to_give_other_weights_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Net())
    exported = torch.export.export(Net(), (X,))
    for model, kind in ((scripted, "TorchScript"), (exported, "ExportedProgram")):
        for argument, call in {
            "model_a": lambda m: lmc.weight_matching(m, Net(), SPEC),
            "model_b": lambda m: lmc.interpolate(Net(), m, 0.5),
            "model": lambda m: lmc.evaluate(m, [(X, Y)]),
            "models": lambda m: lmc.merge([Net(), m]),
        }.items():
            with pytest.raises(TypeError, match=rf"{argument}.*{kind}.*state dict"):
                call(model)
    assert lmc.weight_matching(scripted.state_dict(), Net(), SPEC).objective > 0


def test_names_without_a_counterpart_and_names_that_would_clash_stay() -> None:
    assert canonical("module.module.net._orig_mod.weight") == "net.weight"
    assert canonical("module") == "module" and canonical("net.module.weight") == "net.module.weight"
    assert met({"module.a": 1, "b": 2}, ["a", "c"]) == {"a": 1, "b": 2}
    assert met({"module.a": 1, "a": 2}, ["a", "b"]) == {"module.a": 1, "a": 2}
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got a dict"):
        unwrapped("model", {})
