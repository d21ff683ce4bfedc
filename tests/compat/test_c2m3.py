"""Scripts of C2M3 run with another import line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast
from benchmarks.models import randomise
from lmc_fast.compat import c2m3

from .test_rethink_re_basin import LayerNorm2d


class Norm(nn.Module):
    """Lies in a layer of its own, as theirs."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.layer_norm = LayerNorm2d(width) if kind == "ln" else nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(x)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate([(12, 10), (10, 9), (9, 8), (8, 7), (7, 4)]):
            self.add_module(f"layer{i}", nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(4):
            x = torch.relu(self.get_submodule(f"layer{i}")(x))
        return self.get_submodule("layer4")(x)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), Norm(outputs, kind)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), Norm(outputs, kind)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), Norm(outputs, kind))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, kind: str = "ln", blocks: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), Norm(4, kind)
        before = 4
        for stage, width in enumerate((4, 6, 8), 1):
            made = [Block(before if j == 0 else width, width, kind) for j in range(blocks)]
            if blocks == 3:
                group = nn.Module()
                for j, block in enumerate(made, 1):
                    group.add_module(f"block{j}", block)
                self.add_module(f"blockgroup{stage}", group)
            else:
                self.add_module(f"layer{stage}", nn.Sequential(*made))
            before = width
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for name, part in self.named_children():
            if name.startswith("blockgroup"):
                for block in part.children():
                    x = block(x)
        return self.linear(x.mean((2, 3)))


class Shortcut(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.identity = nn.Parameter(torch.eye(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.identity.T


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), Shortcut(6)
        self.fc1, self.fc2 = nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv2(torch.relu(self.conv1(x)))), 2)
        return self.fc2(torch.relu(self.fc1(self.shortcut(x.permute(0, 2, 3, 1)).flatten(1))))


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for count in (2, 2, 3, 3, 3):
            for _ in range(count):
                layers += [nn.Conv2d(before, 5, 3, padding=1), Norm(5, "ln"), nn.ReLU()]
                before = 5
            layers.append(nn.MaxPool2d(2))
        self.embedder = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embedder(x).flatten(1))


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.temperature, self.norm = nn.Parameter(torch.tensor(0.3)), nn.LayerNorm(dim)
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, 8, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(8, dim), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v))
        weights = (q @ k.transpose(-1, -2) * self.temperature.exp()).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class MLPBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [nn.LayerNorm(dim), nn.Linear(dim, 9), nn.GELU(), nn.Dropout(0.0), nn.Linear(9, dim)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Module()
        tokens = nn.Sequential(nn.Identity(), nn.LayerNorm(5), nn.Linear(5, 6))
        self.to_patch_embedding.add_module("to_patch_tokens", tokens)
        self.pos_embedding, self.cls_token = nn.Parameter(torch.randn(1, 4, 6)), nn.Parameter(torch.randn(1, 1, 6))
        self.transformer = nn.Module()
        blocks = [nn.ModuleList([Attention(6), Shortcut(6), MLPBlock(6), Shortcut(6)]) for _ in range(2)]
        self.transformer.add_module("layers", nn.ModuleList(blocks))
        self.mlp_head = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_patch_embedding.get_submodule("to_patch_tokens")(x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embedding
        for block in self.transformer.get_submodule("layers").children():
            attention, first, mlp, second = block.children()
            x = attention(x) + first(x)
            x = mlp(x) + second(x)
        return self.mlp_head(x.mean(1))


def randomised(make: Any, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    randomise(model, seed)
    for part in model.modules():
        if isinstance(part, Shortcut):
            nn.init.eye_(part.identity)
    return model.eval()


MODELS: dict[str, Any] = {
    "mlp": (MLP, c2m3.MLPPermutationSpecBuilder(4), (6, 12)),
    "cnn": (CNN, c2m3.CNNPermutationSpecBuilder(), (2, 3, 8, 8)),
    "resnet20": (ResNet, c2m3.ResNet20PermutationSpecBuilder(), (2, 3, 6, 6)),
    "resnet20-bn": (lambda: ResNet("bn"), c2m3.ResNet20PermutationSpecBuilder(norm_layer="bn"), (2, 3, 6, 6)),
    "vgg16": (VGG, c2m3.VGG16PermutationSpecBuilder(), (2, 3, 32, 32)),
    "vit": (ViT, c2m3.ViTPermutationSpecBuilder(depth=2), (2, 3, 5)),
}


@pytest.mark.parametrize(("make", "builder", "shape"), MODELS.values(), ids=MODELS)
def test_a_builder_names_every_parameter_and_keeps_the_function(make: Any, builder: Any, shape: Any) -> None:
    model, x = randomised(make, 0), torch.randn(shape)
    ps = builder.create_permutation_spec()
    assert set(ps.layer_and_axes_to_perm) == set(model.state_dict())
    (moved,) = c2m3.create_artificially_permuted_models(model, builder.create_permutation(), 1, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-4)
    names = [name for name, axes in ps.layer_and_axes_to_perm.items() if any(axes) and "running" not in name]
    before, after = model.state_dict(), moved.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in names)


def test_the_deep_resnet_is_named_through() -> None:
    ps = c2m3.ResNet50PermutationSpecBuilder().create_permutation()
    assert len(ps.perm_to_layers_and_axes) == 4 + 24
    assert ps.layer_and_axes_to_perm["layer2.0.shortcut.0.weight"] == ("P_bg2", "P_bg1", None, None)
    assert ps.layer_and_axes_to_perm["out_bn.weight"] == ("P_bg3",) == ps.layer_and_axes_to_perm["linear.weight"][1:]


def test_a_builder_of_one_s_own_uses_the_pieces() -> None:
    class Builder(c2m3.PermutationSpecBuilder):
        def create_permutation_spec(self, **kwargs: Any) -> Any:
            return self.permutation_spec_from_axes_to_perm(
                {
                    **c2m3.conv_axes("conv", p_rows="P", p_cols=None, bias=True),
                    **c2m3.batchnorm_axes("bn", "P"),
                    **c2m3.layernorm_axes("ln", "P"),
                    **c2m3.dense_layer_axes("fc", p_rows=None, p_cols="P"),
                }
            )

    ps = Builder().create_permutation_spec()
    assert ps.perm_to_layers_and_axes["P"][0] == ("conv.weight", 0)
    assert ps.layer_and_axes_to_perm["fc.weight"] == (None, "P")
    with pytest.raises(NotImplementedError, match="PermutationSpecBuilder must define create_permutation_spec"):
        c2m3.PermutationSpecBuilder().create_permutation_spec()


class Lightning(nn.Module):
    """What trains a model holds it as its ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


SPEC = c2m3.MLPPermutationSpecBuilder(4).create_permutation_spec()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {symbol: Lightning(randomised(MLP, seed)) for seed, symbol in enumerate("abc")}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(c2m3.l2_norm_models(one, other))


def states(models: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    return {symbol: c2m3.get_model(model).state_dict() for symbol, model in models.items()}


@pytest.mark.parametrize(
    "matcher",
    [
        c2m3.GitRebasinMatcher("git_rebasin", permutation_spec=SPEC, max_iter=100),
        c2m3.GitRebasinMatcher("git_rebasin", SPEC, layer_iteration_order=c2m3.LayerIterationOrder.FORWARD),
        c2m3.FrankWolfeMatcher("frank_wolfe", SPEC, initialization_method="identity", num_trials=2, max_iter=400),
        c2m3.FrankWolfeMatcher("frank_wolfe", SPEC, "sinkhorn", 1, return_perm_history=True),
        c2m3.SinkhornMatcher("sinkhorn", SPEC, example_input_shape=(1, 12), lr=0.1, criterion="L1", max_iter=60),
    ],
    ids=["git-rebasin", "forward", "frank-wolfe", "frank-wolfe-soft-start", "sinkhorn"],
)
def test_a_matcher_brings_models_closer(matcher: Any, models: dict[str, Any], tmp_path: Path) -> None:
    a, b = models["a"], models["b"]
    perm, history = matcher(fixed=a.model, permutee=b.model)
    assert history is None
    moved = c2m3.apply_permutation_to_statedict(SPEC, perm, b.model.state_dict())
    assert distance(a.model.state_dict(), moved) < distance(a.model.state_dict(), b.model.state_dict())
    matrices = {p: c2m3.perm_indices_to_perm_matrix(index) for p, index in perm.items()}
    by_matrix = c2m3.apply_permutation_to_statedict(SPEC, matrices, b.model.state_dict())
    assert all(torch.equal(w, moved[k]) for k, w in by_matrix.items())
    back = c2m3.apply_permutation_to_statedict(SPEC, c2m3.get_inverse_permutations(perm), moved)
    assert all(torch.equal(w, b.model.state_dict()[k]) for k, w in back.items())
    both = {"a": {"b": perm}, "b": {"a": c2m3.get_inverse_permutations(matrices)}, "c": None}
    c2m3.save_permutations(both, tmp_path / "permutations.json")
    read = c2m3.load_permutations(str(tmp_path / "permutations.json"))
    assert all(torch.equal(read["a"]["b"][p], perm[p]) for p in perm)
    assert isinstance(both["a"]["b"]["P_0"], Tensor)


def test_a_dummy_leaves_all_in_place(models: dict[str, Any]) -> None:
    perm, nothing = c2m3.DummyMatcher("dummy", SPEC)(models["a"].model, models["b"].model)
    assert nothing is None and {p: index.tolist() for p, index in perm.items()} == {
        f"P_{i}": list(range(10 - i)) for i in range(4)
    }
    with pytest.raises(NotImplementedError, match="Matcher must say how it matches"):
        c2m3.Matcher("none", SPEC)(models["a"], models["b"])


def test_functions_are_called_by_name(models: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = states(models)["a"], states(models)["b"]
    perm = c2m3.weight_matching(ps=SPEC, fixed=a, permutee=b, max_iter=100, verbose=False)
    assert capsys.readouterr().out == ""
    again = c2m3.weight_matching(SPEC, a, b, init_perm=perm, verbose=True)
    assert all(torch.equal(again[p], perm[p]) for p in perm) and "0/init_perm" in capsys.readouterr().out
    one = c2m3.get_permuted_param(b["layer1.weight"], ("P_1", "P_0"), perm, except_axis=1)
    assert torch.equal(one, b["layer1.weight"][perm["P_1"]])
    assert torch.equal(
        c2m3.solve_linear_assignment_problem(torch.tensor([[0.0, 2.0], [1.0, 0.0]])), torch.tensor([1, 0])
    )
    matrix = c2m3.solve_linear_assignment_problem(torch.eye(3).flip(0), return_matrix=True)
    assert torch.equal(matrix, torch.eye(3).flip(0))
    assert c2m3.perm_matrix_to_perm_indices(matrix).tolist() == [2, 1, 0]


def test_maps_between_several_models_close_every_cycle(models: dict[str, Any], tmp_path: Path) -> None:
    symbols = sorted(models)
    pairs = c2m3.get_all_symbols_combinations(set(symbols))
    assert pairs[0] == ("a", "b") and len(pairs) == 6
    canonical = [(one, other) for one, other in pairs if one < other]
    matcher = c2m3.FrankWolfeSynchronizedMatcher("sync", SPEC, initialization_method="identity", max_iter=50)
    factored, history = matcher(models, symbols=symbols, combinations=canonical)
    assert history is None and list(factored) == symbols
    c2m3.save_factored_permutations(factored, tmp_path / "permutations.json")
    maps = c2m3.load_permutations(tmp_path / "permutations.json", factored=True)
    given = states(models)
    for fixed, permutee in pairs:
        moved = c2m3.apply_permutation_to_statedict(SPEC, maps[fixed][permutee], given[permutee])
        assert distance(given[fixed], moved) < distance(given[fixed], given[permutee])
    around = {p: maps["a"]["b"][p] for p in maps["a"]["b"]}
    there = c2m3.apply_permutation_to_statedict(SPEC, maps["a"]["c"], given["c"])
    by_b = c2m3.apply_permutation_to_statedict(
        SPEC, around, c2m3.apply_permutation_to_statedict(SPEC, maps["b"]["c"], given["c"])
    )
    assert all(torch.equal(w, by_b[k]) for k, w in there.items())
    # To the universe, as the scripts' merger goes there: by the inverse of what is returned.
    laid = {
        s: c2m3.apply_permutation_to_statedict(SPEC, c2m3.get_inverse_permutations(factored[s]), given[s])
        for s in symbols
    }
    many = lmc_fast.match_many(
        list(given.values()),
        lmc_fast.PermutationSpec.from_axes(SPEC.layer_and_axes_to_perm, model=given["a"]),
        method="c2m3",
        init="identity",
        max_sweeps=50,
    )
    for s, state in zip(symbols, many.apply(list(given.values())), strict=True):
        assert all(torch.equal(w, laid[s][k]) for k, w in state.items())


def loader() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(20, 12, generator=generator)} for _ in range(2)]


MERGERS: dict[str, Any] = {
    "dummy": lambda: c2m3.DummyMerger("dummy", SPEC),
    "git-rebasin": lambda: c2m3.GitRebasinMerger("git_rebasin", SPEC, max_iter=100),
    "pairwise": lambda: c2m3.GitRebasinPairwiseMerger("pairwise", SPEC, ref_model_symbol="b"),
    "c2m3": lambda: c2m3.FrankWolfeSynchronizedMerger("c2m3", SPEC, initialization_method="identity", device="cpu"),
}


@pytest.mark.parametrize("make", MERGERS.values(), ids=MERGERS)
def test_a_merger_gives_the_mean_and_leaves_the_models(make: Any, models: dict[str, Any]) -> None:
    before = {s: {k: w.clone() for k, w in state.items()} for s, state in states(models).items()}
    merger = make()
    merged, repaired, *rest = merger(models, train_loader=loader())
    assert all(torch.equal(w, states(models)[s][k]) for s, state in before.items() for k, w in state.items())
    assert isinstance(merged, Lightning) and isinstance(repaired, Lightning)
    assert not torch.equal(merged.model.layer0.weight, repaired.model.layer0.weight)
    mean = c2m3.average_models(states(models))
    if merger.name == "dummy":
        assert distance(merged.model.state_dict(), mean) < 1e-5
    else:
        # A mean of models that lie over each other is longer than one of models that do not.
        sizes = [sum(float(w.square().sum()) for w in s.values()) for s in (merged.model.state_dict(), mean)]
        assert sizes[0] > sizes[1] * 1.05
    if rest:
        laid = states(rest[0])
        average = c2m3.average_models(laid)
        assert distance(average, merged.model.state_dict()) < 1e-5
        x = torch.randn(4, 12)
        torch.testing.assert_close(rest[0]["b"](x), models["b"](x))
    assert merger(models)[1] is None


def test_mergers_have_their_own_returns(models: dict[str, Any]) -> None:
    alone = c2m3.GitRebasinPairwiseMerger("pairwise", SPEC, ref_model_symbol="a")(models, repair=False)
    assert isinstance(alone, Lightning)
    reference = c2m3.FrankWolfeToReferenceMerger("fw", SPEC, initialization_method="identity", max_iter=20)(models)
    assert isinstance(reference, Lightning)
    first = c2m3.FrankWolfeSynchronizedMerger("c2m3", SPEC, "identity", average_in_universe=False)(models)[0]
    assert distance(first.model.state_dict(), states(models)["a"]) == 0
    plain = {s: model.model for s, model in models.items()}
    merged, repaired = c2m3.GitRebasinMerger("git_rebasin", SPEC)(plain, loader())
    assert type(merged) is MLP and type(repaired) is MLP
    nested = {s: Lightning(model) for s, model in models.items()}
    _, repaired = c2m3.GitRebasinMerger("git_rebasin", SPEC)(nested, loader())
    assert type(repaired.model.model) is MLP
    with pytest.raises(NotImplementedError, match="Merger must say how it matches"):
        c2m3.Merger("none", SPEC)(models)


def test_a_spec_may_be_found_in_the_model(models: dict[str, Any]) -> None:
    x = torch.randn(3, 12)
    ps = c2m3.AutoPermutationSpecBuilder().create_permutation_spec(ref_model=models["a"], ref_input=x)
    assert set(ps.layer_and_axes_to_perm) == set(models["a"].model.state_dict())
    assert len(ps.perm_to_layers_and_axes) == 4
    perm, _ = c2m3.GitRebasinMatcher("git_rebasin", ps)(models["a"].model, models["b"].model)
    by_hand = c2m3.weight_matching(SPEC, states(models)["a"], states(models)["b"])
    assert sorted(map(len, perm.values())) == sorted(map(len, by_hand.values()))
    moved = c2m3.apply_permutation_to_statedict(ps, perm, states(models)["b"])
    wanted = c2m3.apply_permutation_to_statedict(SPEC, by_hand, states(models)["b"])
    assert distance(states(models)["a"], moved) == pytest.approx(distance(states(models)["a"], wanted))
    merged, repaired = c2m3.GitRebasinMerger("git_rebasin", ps)(models, loader())
    assert isinstance(merged, Lightning) and isinstance(repaired, Lightning)


def test_weights_are_put_back(models: dict[str, Any]) -> None:
    twins = {s: Lightning(randomised(MLP, 9)) for s in models}
    c2m3.restore_original_weights(twins, states(models))
    assert all(distance(state, states(models)[s]) == 0 for s, state in states(twins).items())
    halves = [
        {"w": torch.tensor([1, 3]).half()},
        {"w": torch.tensor([3, 9]).half()},
        {"w": torch.tensor([8, 0]).half()},
    ]
    assert c2m3.average_models(halves)["w"].tolist() == [4, 4]
    assert c2m3.average_models(halves, reduction="median")["w"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: c2m3.weight_matching(SPEC, {}, {}), KeyError, "fixed must have .* lacks 'layer0.weight'"),
        (lambda m: c2m3.weight_matching(SPEC, {}, {}, verbose=2), TypeError, "verbose must be a bool"),
        (lambda m: c2m3.weight_matching(SPEC, {}, {}, alternate_diffusion_params=1), ValueError, "must be None"),
        (lambda m: c2m3.weight_matching(SPEC, {}, {}, layer_iteration_order="up"), ValueError, "LayerIterationOrder"),
        (lambda m: c2m3.frank_wolfe_weight_matching(SPEC, {}, {}, "zero"), ValueError, "initialization_method must be"),
        (lambda m: c2m3.frank_wolfe_weight_matching(SPEC, 3, {}), TypeError, "fixed must be a dict from names to"),
        (
            lambda m: c2m3.frank_wolfe_synchronized_matching({}, SPEC, ["a"]),
            KeyError,
            "params must have an entry .* lacks 'a'",
        ),
        (
            lambda m: c2m3.FrankWolfeSynchronizedMerger("c2m3", SPEC, keep_soft_perms=True),
            ValueError,
            "keep_soft_perms must be False",
        ),
        (lambda m: c2m3.GitRebasinMerger("x", SPEC)({"a": m["a"]}), ValueError, "models must hold two at least, got 1"),
        (lambda m: c2m3.GitRebasinPairwiseMerger("x", SPEC, ref_model_symbol="z")(m), ValueError, "got 'z'"),
        (lambda m: c2m3.SinkhornMatcher("x", SPEC, criterion="L3"), ValueError, "criterion must be 'L1' or 'L2'"),
        (lambda m: c2m3.GitRebasinMatcher("x", "spec"), TypeError, "ps must be a PermutationSpec"),
        (lambda m: c2m3.ResNet20PermutationSpecBuilder("gn"), ValueError, "norm_layer must be 'ln' or 'bn'"),
        (lambda m: c2m3.average_models([]), TypeError, "model_params must be a list or a dict of state dicts"),
        (lambda m: c2m3.average_models([{}], "sum"), ValueError, "reduction must be 'mean' or 'median'"),
        (lambda m: c2m3.perm_indices_to_perm_matrix(torch.eye(2)), TypeError, "perm_indices must be indices"),
        (lambda m: c2m3.perm_matrix_to_perm_indices(torch.ones(2, 2)), ValueError, "a single 1 in each row"),
        (lambda m: c2m3.unfactor_permutations({}, matrix_format=True), ValueError, "matrix_format must be False"),
        (lambda m: c2m3.get_model(3), TypeError, "model must be a torch.nn.Module"),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str, models: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        call(models)
