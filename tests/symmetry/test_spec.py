"""What a spec accepts, what it says of a model that does not fit, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Axis, Group, PermutationSpec, Segment, architectures

TWO_LAYERS = {"a.weight": ("p", None), "a.bias": ("p",), "b.weight": (None, "p"), "b.bias": (None,)}


def two_layers() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.randn(5, 3),
        "a.bias": torch.randn(5),
        "b.weight": torch.randn(2, 5),
        "b.bias": torch.randn(2),
    }


def test_the_common_form_is_read_and_bound() -> None:
    spec = PermutationSpec.from_axes(TWO_LAYERS)
    assert not spec.is_bound
    bound = spec.bind(two_layers())
    assert bound.is_bound and bound.sizes == {"p": 5}
    assert bound.bind(two_layers()) == bound
    assert not spec.is_bound
    with pytest.raises(ValueError, match="open sizes"):
        _ = spec.sizes


def test_a_missing_parameter_is_named() -> None:
    state = two_layers()
    del state["b.bias"]
    with pytest.raises(ValueError, match=r"the spec names parameter 'b\.bias', which the model lacks"):
        PermutationSpec.from_axes(TWO_LAYERS, model=state)


def test_a_parameter_that_the_spec_leaves_out_is_named() -> None:
    with pytest.raises(ValueError, match=r"parameter 'c\.weight' \(4,\), which the spec leaves out"):
        PermutationSpec.from_axes(TWO_LAYERS, model=two_layers() | {"c.weight": torch.zeros(4)})


def test_integer_buffers_need_no_entry() -> None:
    spec = PermutationSpec.from_axes(TWO_LAYERS, model=two_layers() | {"count": torch.tensor(3)})
    assert "count" not in spec.axes


def test_a_wrong_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"axis 1 of parameter 'b\.weight' has 6 entries, but the spec makes it 5"):
        PermutationSpec.from_axes(TWO_LAYERS, model=two_layers() | {"b.weight": torch.zeros(2, 6)})


def test_a_flatten_written_as_a_plain_axis_is_explained() -> None:
    """The trap: a Linear behind a flatten, permuted by channel only."""
    with pytest.raises(ValueError, match=r"write Segment\('p', inner=4\)"):
        PermutationSpec.from_axes(TWO_LAYERS, model=two_layers() | {"b.weight": torch.zeros(2, 20)})


def test_a_wrong_number_of_dimensions_is_named() -> None:
    with pytest.raises(ValueError, match=r"parameter 'a\.bias' has 2 dimensions \(5, 1\), but the spec names 1"):
        PermutationSpec.from_axes(TWO_LAYERS, model=two_layers() | {"a.bias": torch.zeros(5, 1)})


def test_an_axis_named_twice_is_named() -> None:
    state = two_layers()
    with pytest.raises(ValueError, match=r"axis 0 of parameter 'a\.weight' is named twice: by 'p' and 'q'"):
        PermutationSpec.from_perm_to_axes({"p": [("a.weight", 0)], "q": [("a.weight", 0)]}, state)
    with pytest.raises(ValueError, match="which the model lacks"):
        PermutationSpec.from_perm_to_axes({"p": [("z", 0)]}, state)
    with pytest.raises(ValueError, match=r"names axis 2 of 'a\.weight', which has 2"):
        PermutationSpec.from_perm_to_axes({"p": [("a.weight", 2)]}, state)


def test_both_common_forms_say_the_same() -> None:
    state = two_layers()
    by_group = PermutationSpec.from_perm_to_axes({"p": [("a.weight", 0), ("a.bias", 0), ("b.weight", 1)]}, state)
    assert by_group == PermutationSpec.from_axes(TWO_LAYERS, model=state)


def test_a_flatten_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match=r"axis 0 of parameter 'w' has 50 entries, which is no whole number of units"):
        PermutationSpec.from_axes({"w": (Segment("c", inner=49),)}, model={"w": torch.zeros(50)})


def test_a_fixed_axis_of_another_size_gets_no_hint_about_groups() -> None:
    bound = PermutationSpec.from_axes(TWO_LAYERS, model=two_layers())
    with pytest.raises(ValueError, match=r"has 4 entries, but the spec makes it 2: fixed entries$"):
        bound.bind(two_layers() | {"b.weight": torch.zeros(4, 5), "b.bias": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"has 2 entries, but the spec makes it 0"):
        PermutationSpec.from_axes({"w": ((Segment.fixed(0),),)}, model={"w": torch.zeros(2)})


def test_groups_are_named_once_and_used() -> None:
    with pytest.raises(ValueError, match="groups must name each group once, got 'p' twice"):
        PermutationSpec.from_axes({"w": ("p",)}, [Group("p", 3), Group("p", 4)])
    with pytest.raises(ValueError, match="group 'q' must be on some axis"):
        PermutationSpec.from_axes({"w": ("p",)}, [Group("q", 3)])
    with pytest.raises(TypeError, match="groups must be a sequence of Groups, got 'p'"):
        PermutationSpec.from_axes({"w": ("p",)}, {"p": Group("p")})  # type: ignore[arg-type]


@pytest.mark.parametrize("places", [["a.weight"], [("a.weight", "0")], [3]], ids=str)
def test_places_are_pairs(places: list[object]) -> None:
    with pytest.raises(TypeError, match=r"perm_to_axes\['p'\]"):
        PermutationSpec.from_perm_to_axes({"p": places}, two_layers())  # type: ignore[dict-item]


def test_tied_names_must_agree() -> None:
    table = torch.randn(5, 3)
    tied = {"in.weight": table, "out.weight": table}
    PermutationSpec.from_axes({"in.weight": (None, "p"), "out.weight": (None, "p")}, model=tied)
    with pytest.raises(ValueError, match=r"'in\.weight' and 'out\.weight' are one tied tensor"):
        PermutationSpec.from_axes({"in.weight": (None, "p"), "out.weight": (None, None)}, model=tied)


def test_owners_are_checked() -> None:
    with pytest.raises(ValueError, match="owned by 'head', which is no group"):
        PermutationSpec.from_axes({"w": ("v",)}, [Group("v", 2, owner="head")])
    with pytest.raises(ValueError, match="in a circle: a -> b -> a"):
        PermutationSpec.from_axes({"w": ("a",)}, [Group("a", 2, owner="b"), Group("b", 2, owner="a")])
    with pytest.raises(ValueError, match="'w': group 'p' stands inside 'q', but not inside 'owner', which owns it"):
        PermutationSpec.from_axes(
            {"w": (Segment("q", inner=(Segment("p"),)),), "v": ("p",)},
            [Group("owner", 2), Group("p", 2, owner="owner"), Group("q", 2)],
        )
    with pytest.raises(ValueError, match="'w': group 'p' stands inside itself"):
        PermutationSpec.from_axes({"w": (Segment("p", inner=(Segment("p"),)),)}, [Group("p", 2)])


def test_a_flat_owned_axis_is_the_nested_one() -> None:
    groups = [Group("head", 3), Group("value", 4, owner="head")]
    flat = PermutationSpec.from_axes({"w": ("value",)}, groups, model={"w": torch.zeros(12)})
    nested = PermutationSpec.from_axes(
        {"w": (Segment("head", inner=(Segment("value"),)),)}, groups, model={"w": torch.zeros(12)}
    )
    assert flat == nested
    assert flat.shape("value") == (3, 4) and flat.units("value") == 12 and flat.root_of("value") == "head"


def test_sizes_are_inferred_through_several_axes() -> None:
    spec = PermutationSpec.from_axes(
        {"cat": ([Segment("p"), Segment("q")],), "q": ("q",)},
        model={"cat": torch.zeros(9), "q": torch.zeros(4)},
    )
    assert spec.sizes == {"p": 5, "q": 4}
    with pytest.raises(ValueError, match="nothing in the model settles the size of group 'p'"):
        PermutationSpec.from_axes({"cat": ([Segment("p"), Segment("q")],)}, model={"cat": torch.zeros(9)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group("p", 0), "size of group 'p' must be a whole number of at least 1"),
        (lambda: Segment("p", outer=0), "outer of the Segment of group 'p'"),
        (lambda: Segment("p", inner=()), "must not be empty"),
        (lambda: Segment("p", length=3), "got a length as well"),
        (lambda: Segment(outer=2), "without a group takes a length only"),
        (lambda: Segment("p", inner=(Segment(),)), "needs its length"),
        (lambda: Axis(()), "one Segment at least"),
        (lambda: Axis((Segment("p"), Segment())), "needs its length"),
        (lambda: PermutationSpec({"p": Group("q")}, {}), r"groups\['p'\] must be the group of that name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Group(3),
        lambda: Group("p", owner=3),
        lambda: Segment(3),
        lambda: Segment("p", inner=("q",)),
        lambda: Axis("p"),
        lambda: Axis(("p",)),
        lambda: PermutationSpec.from_axes({"w": "p"}),
        lambda: PermutationSpec.from_axes({"w": (3,)}),
        lambda: PermutationSpec.from_axes({3: ("p",)}),
        lambda: PermutationSpec.from_axes({"w": ("p",)}, model=3),
        lambda: PermutationSpec.from_axes({"w": ("p",)}, model={"w": 3}),
    ],
    ids=range(11),
)
def test_wrong_kinds_are_type_errors(make: object) -> None:
    with pytest.raises(TypeError, match="must be"):
        make()  # type: ignore[operator]


SPECS = {
    "common": lambda: PermutationSpec.from_axes(TWO_LAYERS),
    "bound": lambda: PermutationSpec.from_axes(TWO_LAYERS, model=two_layers()),
    "flatten": lambda: architectures.vgg(models.ConvNet()),
    "resnet": lambda: architectures.resnet(models.small_resnet()),
    "fused-owned": models.Attention.spec,
    "stacked-experts": models.Experts.spec,
    "concat": models.Concat.spec,
    "grouped-query": models.GroupedQueryAttention.spec,
    "grouped-free": models.FreeGroupedNet.spec,
    "shared-inputs": models.SharedInputs.spec,
}


@pytest.mark.parametrize("make", SPECS.values(), ids=SPECS.keys())
def test_json_there_and_back(make: object, tmp_path: Path) -> None:
    spec = make()  # type: ignore[operator]
    path = tmp_path / "spec.json"
    assert PermutationSpec.from_json(spec.to_json(path)) == spec
    assert PermutationSpec.from_json(path) == spec


def test_the_common_form_as_json() -> None:
    assert PermutationSpec.from_json(json.dumps(TWO_LAYERS)) == PermutationSpec.from_axes(TWO_LAYERS)


HEAD = '"format": "lmc_fast.PermutationSpec", "version": 1'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON at line 1, column 2"),
        ("[]", "must be a JSON object"),
        ('{"w": ["p"], "w": ["q"]}', "'w' stands twice"),
        ('{"w": "p"}', "parameter 'w' must have a list"),
        ('{"w": [3]}', "parameter 'w': an axis must be null"),
        ('{"w": [[{"inner": 3}]]}', "parameter 'w': a segment must be"),
        ('{"w": [[{"group": "p", "inner": 0}]]}', "parameter 'w': inner of the Segment"),
        ('{"w": [' + '[{"group": "p", "inner": ' * 40 + "1" + "}]" * 40 + "]}", "nested deeper than 16"),
        ('{"format": "other"}', "format must be 'lmc_fast.PermutationSpec'"),
        (f"{{{HEAD}}}", "must hold an object under 'groups'"),
        ("{" + HEAD + ', "groups": {"p": 3}, "axes": {}}', "group 'p' must be an object"),
        ("{" + HEAD + ', "groups": {"p": {"size": -1}}, "axes": {}}', "group 'p': size of group 'p'"),
    ],
)
def test_wrong_json_is_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutationSpec.from_json(text)


def test_it_prints_its_groups() -> None:
    text = str(models.Attention.spec())
    assert "value: 4 units in each unit of head, on 3 axes" in text


class OtherBlocks(nn.Module):
    """A ResNet whose block registers its layers in a given order, with a bare shortcut that keeps the width."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        block = nn.Module()
        for name in names:
            block.add_module(name, nn.Conv2d(4, 4, 3, padding=1) if name.startswith("conv") else nn.BatchNorm2d(4))
        block.shortcut = nn.Conv2d(4, 4, 1)
        self.order = names
        self.layer1 = nn.Sequential(block)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, 1, height, width]
        x = torch.relu(self.bn1(self.conv1(x)))
        block = self.layer1[0]
        pre_activation = self.order[0] == "bn1"
        out = x
        for number in "12":
            norm = getattr(block, f"bn{number}", nn.Identity())
            conv = getattr(block, f"conv{number}")
            out = conv(torch.relu(norm(out))) if pre_activation else torch.relu(norm(conv(out)))
        return self.fc(torch.relu(out + block.shortcut(x)).mean(dim=(2, 3)))


class TestArchitectures:
    def test_classifier_outputs_are_never_permuted(self) -> None:
        """The trap: a spec that gives the classes a permutation."""
        for spec, last in (
            (architectures.mlp(models.small_mlp()), "5"),
            (architectures.vgg(models.ConvNet()), "classifier.3"),
            (architectures.resnet(models.small_resnet()), "fc"),
        ):
            assert spec.axes[f"{last}.weight"][0].is_fixed and spec.axes[f"{last}.bias"][0].is_fixed

    def test_residual_streams_share_a_group(self) -> None:
        spec = architectures.resnet(models.small_resnet())
        assert spec.groups.keys() == {
            "conv1",
            "layer1.0.conv1",
            "layer2.0.conv1",
            "layer2.0.out",
            "layer2.1.conv1",
        }
        assert spec.axes["layer2.1.conv2.weight"][0].groups == ("layer2.0.out",)
        assert spec.axes["layer2.0.downsample.0.weight"][1].groups == ("conv1",)

    def test_layer_norms_and_missing_biases(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
        assert lmc.verify_spec(model, architectures.mlp(model), torch.randn(5, 3)) < 1e-12

    @pytest.mark.parametrize(
        "names",
        ["conv1 bn1 conv2 bn2", "conv1 conv2 bn1 bn2", "bn1 conv1 bn2 conv2", "conv1 conv2"],
        ids=lambda names: names.replace(" ", "-"),
    )
    def test_blocks_written_in_other_orders(self, names: str) -> None:
        model = OtherBlocks(names.split())
        assert lmc.verify_spec(model, architectures.resnet(model), torch.randn(2, 1, 8, 8)) < 1e-12

    def test_an_order_that_says_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"neither order nor numbers tell what the norms of block 'layer1\.0' see"):
            architectures.resnet(OtherBlocks(["bn1", "bn2", "conv1", "conv2"]))

    def test_norms_without_weights_and_prefixes(self) -> None:
        model = nn.ModuleDict(
            {"module": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))}
        )
        spec = architectures.mlp(model)
        assert spec.axes["module.1.running_mean"] == spec.axes["module.0.bias"]
        assert lmc.verify_spec(model["module"], architectures.mlp(model["module"]), torch.randn(5, 3)) < 1e-12

    @pytest.mark.parametrize(
        ("build", "model", "message"),
        [
            (architectures.mlp, nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), "reads 5 inputs"),
            (architectures.mlp, nn.Conv2d(1, 2, 3), "has 4 dimensions"),
            (architectures.mlp, nn.LSTM(3, 4), "takes Linear, convolution and norm layers only"),
            (
                architectures.mlp,
                nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(5), nn.Linear(4, 2)),
                "has 5 units",
            ),
            (architectures.mlp, nn.LayerNorm(3), "the last is a Linear"),
            (architectures.vgg, models.DepthwiseNet(), "a convolution of 6 groups"),
            (architectures.vgg, models.GroupNormNet(), "GroupNorm"),
            (
                architectures.vgg,
                nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 2)),
                "a transposed convolution",
            ),
            (architectures.resnet, models.small_mlp(), "blocks named"),
        ],
        ids=["sizes", "conv", "lstm", "norm", "norm-last", "depthwise", "groupnorm", "transposed", "no-blocks"],
    )
    def test_what_they_do_not_cover_is_refused(self, build: object, model: nn.Module, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build(model)  # type: ignore[operator]


class TestVerify:
    @pytest.mark.parametrize(
        ("model", "make", "shape"),
        [
            (models.small_mlp(), architectures.mlp, (5, 4)),
            (models.ConvNet(), architectures.vgg, (2, 1, 8, 8)),
            (models.small_resnet(), architectures.resnet, (2, 1, 8, 8)),
        ],
        ids=["mlp", "vgg", "resnet"],
    )
    def test_right_specs_pass(self, model: nn.Module, make: object, shape: tuple[int, ...]) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert lmc.verify_spec(model, make(model), torch.randn(shape)) < 1e-12  # type: ignore[operator]
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_the_group_that_breaks_is_named(self) -> None:
        """A fresh ResNet's zero biases and unit norms must not hide an axis that is missing."""
        model = models.small_resnet()
        axes = dict(architectures.resnet(model).axes)
        for name in ("layer2.0.bn1.bias", "layer2.0.bn1.running_mean"):
            wrong = PermutationSpec.from_axes(axes | {name: (None,)}, model=model)
            with pytest.raises(lmc.SymmetryError, match=r"group 'layer2\.0\.conv1'") as error:
                lmc.verify_spec(model, wrong, torch.randn(2, 1, 8, 8))
            assert error.value.group == "layer2.0.conv1" and error.value.error > 1e-6

    def test_two_units_are_enough_to_fail(self) -> None:
        model = models.small_mlp((2, 2))
        axes = dict(architectures.mlp(model).axes) | {"1.bias": (None,)}
        for seed in range(5):
            with pytest.raises(lmc.SymmetryError, match="group '1'"):
                lmc.verify_spec(model, PermutationSpec.from_axes(axes), torch.randn(5, 4), seed=seed)

    def test_broken_head_specs_fail(self) -> None:
        """The trap: query, key and value dimensions exchanged across heads."""
        model = models.Attention()
        across = (Segment("q"), Segment("q"), Segment("v"))
        spec = PermutationSpec.from_axes(
            {
                "qkv.weight": (across, None),
                "qkv.bias": (across,),
                "out.weight": (None, "v"),
                "out.bias": (None,),
            },
            [Group("q", 12), Group("v", 12)],
        )
        with pytest.raises(lmc.SymmetryError, match="group 'q'"):
            lmc.verify_spec(model, spec, torch.randn(2, 5, 6))

    def test_broken_group_norms_fail(self) -> None:
        """The trap: channels exchanged across the groups of a GroupNorm."""
        axes = {
            "conv.weight": ("c", None, None, None),
            "conv.bias": ("c",),
            "norm.weight": ("c",),
            "norm.bias": ("c",),
            "project.weight": (None, "c", None, None),
            "project.bias": (None,),
        }
        with pytest.raises(lmc.SymmetryError, match="group 'c'"):
            lmc.verify_spec(models.GroupNormNet(), PermutationSpec.from_axes(axes), torch.randn(2, 2, 5, 5))

    def test_saturated_units_do_not_hide_an_axis(self) -> None:
        """Twelve sigmoid layers damp an error by orders of magnitude; it must show all the same."""
        model = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(8, 8), nn.Sigmoid())), nn.Linear(8, 2))
        axes = dict(architectures.mlp(model).axes)
        inputs = torch.randn(1, 8)
        assert lmc.verify_spec(model, PermutationSpec.from_axes(axes), inputs) < 1e-12
        for name in ("0.bias", "0.weight", "4.bias"):
            wrong = axes | {name: (None, *axes[name][1:])}
            with pytest.raises(lmc.SymmetryError):
                lmc.verify_spec(model, PermutationSpec.from_axes(wrong), inputs)

    def test_dict_inputs_and_outputs(self) -> None:
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = models.small_mlp()

            def forward(self, batch: dict[str, list[torch.Tensor]]) -> dict[str, object]:
                return {"out": [self.net(batch["x"][0])], "count": 3, "labels": torch.tensor([1])}

        model = Named()
        assert lmc.verify_spec(model, architectures.mlp(model), ({"x": [torch.randn(5, 4)]},)) < 1e-12

    def test_outputs_that_are_not_finite_are_said_to_be(self) -> None:
        class Log(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x).log()

        spec = PermutationSpec.from_axes({"weight": (None, None), "bias": (None,)})
        with pytest.raises(ValueError, match="outputs that are not finite at random weights"):
            lmc.verify_spec(Log(4, 40), spec, torch.randn(8, 4))
        with pytest.raises(ValueError, match="tolerance must be above 0, got -1"):
            lmc.verify_spec(models.small_mlp(), spec, torch.randn(8, 4), tolerance=-1)

    def test_outputs_must_be_tensors(self) -> None:
        class Nothing(nn.Linear):
            def forward(self, x: torch.Tensor) -> None:  # type: ignore[override]
                return None

        with pytest.raises(ValueError, match="must return a floating point tensor"):
            lmc.verify_spec(
                Nothing(2, 2),
                PermutationSpec.from_axes({"weight": ("p", None), "bias": ("p",)}),
                torch.zeros(1, 2),
            )
