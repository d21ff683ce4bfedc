"""The rule for batches: what each function makes of what people's loaders give."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lmc_fast as lmc
from lmc_fast._batches import ABSENT, Batch, Reader, check_batches, count_of
from lmc_fast._calls import Calls, in_eval
from lmc_fast.experiments.models import MLP

functional = nn.functional
CPU = torch.device("cpu")
X, MASK, Y, INDEX = torch.randn(6, 5), torch.ones(6, 5), torch.randint(0, 3, (6,)), torch.arange(6)


class One(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class Two(nn.Module):
    def forward(self, x: Any, mask: Any) -> Any:
        return x


class Optional(nn.Module):
    def forward(self, x: Any, mask: Any = None) -> Any:
        return x


class Named(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None) -> Any:
        return input_ids


class Anything(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args


class KeywordOnly(nn.Module):
    def forward(self, x: Any, *, mask: Any) -> Any:
        return x


class Encoding(UserDict):  # type: ignore[type-arg]
    """As a tokenizer's: it moves itself in place."""

    def to(self, device: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


@dataclasses.dataclass
class Example:
    x: Any
    y: Any = None
    note: Any = None


Fields = namedtuple("Fields", ["x", "mask", "y"])


def read(model: nn.Module, batch: Any, *, loss: bool = True, whole: bool = False) -> Batch:
    reader = Reader(model, wants_targets=loss, is_whole=whole, device=CPU, dtype=torch.float32)
    return reader.read_one("batches", 3, batch)


# Model, batch, args, kwargs, targets.
TAKEN: dict[str, tuple[nn.Module, Any, tuple[Any, ...], dict[str, Any], Any]] = {
    "pair": (One(), (X, Y), (X,), {}, Y),
    "list": (One(), [X, Y], (X,), {}, Y),
    "optional argument": (Optional(), (X, Y), (X,), {}, Y),
    "extras behind the inputs": (One(), (X, Y, INDEX), (X,), {}, (Y, INDEX)),
    "two inputs": (Two(), (X, MASK, Y), (X, MASK), {}, Y),
    "two inputs in a tuple": (Two(), ((X, MASK), Y), (X, MASK), {}, Y),
    "two inputs in a collated list": (Two(), [[X, MASK], Y], (X, MASK), {}, Y),
    "an optional one in a tuple": (Optional(), ((X, MASK), Y), (X, MASK), {}, Y),
    "one in a tuple": (One(), ((X,), Y), (X,), {}, Y),
    "a list as one argument": (One(), ([X, MASK], Y), ([X, MASK],), {}, Y),
    "texts": (Optional(), (["a", "b"], Y), (["a", "b"],), {}, Y),
    "keywords": (Optional(), ({"x": X, "mask": MASK}, Y), (), {"x": X, "mask": MASK}, Y),
    "a dict as one argument": (One(), ({"image": X, "text": MASK}, Y), ({"image": X, "text": MASK},), {}, Y),
    "targets in a dict": (One(), (X, {"labels": Y}), (X,), {}, {"labels": Y}),
    "targets in a tuple": (One(), (X, (Y, INDEX)), (X,), {}, (Y, INDEX)),
    "a list of numbers": (One(), (X, Y.tolist()), (X,), {}, Y.tolist()),
    "mapping": (One(), {"x": X, "y": Y}, (), {"x": X}, Y),
    "mapping with extras": (One(), {"x": X, "y": Y, "index": INDEX}, (), {"x": X}, {"y": Y, "index": INDEX}),
    "labels that forward takes": (
        Named(),
        {"input_ids": X, "labels": Y},
        (),
        {"input_ids": X, "labels": Y},
        Y,
    ),
    "labels that forward takes, and extras": (
        Named(),
        {"input_ids": X, "labels": Y, "index": INDEX},
        (),
        {"input_ids": X, "labels": Y},
        {"index": INDEX, "labels": Y},
    ),
    "one entry and its label": (One(), {"image": X, "label": Y}, (X,), {}, Y),
    "user's mapping": (Named(), Encoding(input_ids=X, labels=Y), (), {"input_ids": X, "labels": Y}, Y),
    "ordered mapping": (Optional(), OrderedDict(x=X, target=Y), (), {"x": X}, Y),
    "forward of any arguments": (Anything(), {"x": X, "label": Y}, (), {"x": X, "label": Y}, Y),
    "dataclass": (One(), Example(X, Y), (), {"x": X}, Y),
    "fields that forward knows": (Optional(), Fields(X, MASK, Y), (), {"x": X, "mask": MASK}, Y),
    "fields that forward does not know": (Two(), namedtuple("Other", "a b c")(X, MASK, Y), (X, MASK), {}, Y),
    "keyword-only": (KeywordOnly(), {"x": X, "mask": MASK, "y": Y}, (), {"x": X, "mask": MASK}, Y),
    "numpy": (One(), (X.numpy(), Y.numpy()), (X,), {}, Y),
    "numpy of float64": (One(), (X.double().numpy()[::-1][::-1], Y.numpy()), (X,), {}, Y),
}


def same(a: Any, b: Any) -> bool:
    """Equal, inside containers too, and of the same dtypes."""
    if isinstance(b, Tensor):
        return isinstance(a, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    if isinstance(b, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a is b or a == b)


@pytest.mark.parametrize("kind", TAKEN)
def test_what_the_model_is_given(kind: str) -> None:
    model, batch, args, kwargs, targets = TAKEN[kind]
    got = read(model, batch)
    assert same(got.args, args), got.args
    assert same(got.kwargs, kwargs), got.kwargs
    assert same(got.targets, targets), got.targets
    assert got.examples == 6 and got.where == "batches[3]"


# Model, batch, args, kwargs.
ALONE: dict[str, tuple[nn.Module, Any, tuple[Any, ...], dict[str, Any]]] = {
    "tensor": (One(), X, (X,), {}),
    "array": (One(), X.numpy(), (X,), {}),
    "one in a tuple": (One(), (X,), (X,), {}),
    "pair": (One(), (X, Y), (X,), {}),
    "nothing as targets": (One(), (X, None), (X,), {}),
    "pair of two inputs": (Two(), (X, MASK), (X, MASK), {}),
    "pair of inputs and targets": (Two(), ((X, MASK), Y), (X, MASK), {}),
    "two inputs and targets": (Two(), (X, MASK, Y), (X, MASK), {}),
    "mapping": (Optional(), {"x": X, "mask": MASK}, (), {"x": X, "mask": MASK}),
    "dataclass": (One(), Example(X), (), {"x": X}),
}


@pytest.mark.parametrize("kind", ALONE)
def test_inputs_alone_where_no_loss_is_needed(kind: str) -> None:
    model, batch, args, kwargs = ALONE[kind]
    got = read(model, batch, loss=False)
    assert same(got.args, args) and same(got.kwargs, kwargs)


REFUSED: dict[str, tuple[nn.Module, Any, bool, str]] = {
    "inputs alone, for a loss": (One(), X, True, r"batches\[3\] is a Tensor of shape \(6, 5\).* holds no targets"),
    "a mask that may be targets": (Optional(), (X, MASK, Y), True, "has 3 items, and it is not clear how many"),
    "the same without a loss": (Optional(), (X, MASK, Y), False, "has 3 items, and it is not clear how many"),
    "three of a model of many": (Named(), (X, MASK, Y), False, "not clear how many of them are inputs"),
    "any arguments": (Anything(), (X, MASK, Y), False, "not clear how many of them are inputs"),
    "two inputs and no targets": (Two(), (X, MASK), True, "holds no targets"),
    "one input of two": (Two(), X, False, "holds one input, which do not fit"),
    "one input of two, in a tuple": (Two(), (X,), False, "has 1 items, and forward requires 2 arguments"),
    "too many inputs": (Optional(), ((X, MASK, X), Y), True, "holds 3 inputs, which do not fit"),
    "unknown names": (One(), {"image": X, "text": X, "y": Y}, True, "has the entries 'image', 'text', 'y', none of"),
    "labels alone": (One(), {"label": Y}, False, "has the entries 'label', none of which is named"),
    "a missing name": (Two(), {"x": X, "y": Y}, True, "lacks 'mask', which forward requires"),
    "unknown names of inputs": (Optional(), ({"x": X, "musk": MASK}, Y), True, "entries 'musk', which forward does"),
    "keyword-only": (KeywordOnly(), (X, Y), True, "lacks 'mask', which forward requires"),
    "empty": (One(), (), False, "is empty"),
    "numbers": (One(), 3, False, r"batches\[3\] is 3 and holds no tensor"),
    "None": (One(), None, False, r"batches\[3\] is None and holds no tensor"),
    "numbers in a list": (One(), [1.0, 2.0], False, "holds no tensor"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str) -> None:
    model, batch, loss, message = REFUSED[kind]
    with pytest.raises(TypeError, match=message) as caught:
        read(model, batch, loss=loss)
    assert str(caught.value).startswith("batches must be ") and "forward=" in str(caught.value)


class Graph:
    """Neither tensor nor container, and moves itself in place."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def to(self, device: torch.device) -> Graph:
        self.device = device
        return self


def test_objects_that_move_are_moved_and_the_callers_stay() -> None:
    graph, packed = Graph(), pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
    got = read(One(), (graph, Y))
    assert got.args[0].device == CPU and graph.device == torch.device("meta")
    of_packed = read(One(), packed, loss=False)
    assert isinstance(of_packed.args[0], PackedSequence) and of_packed.examples == 2


def test_everything_is_moved() -> None:
    batch = {
        "a": (X, [X, {"b": X}]),
        "c": Example(X, note="n"),
        "d": Encoding(e=X),
        "f": Fields(X, 1, None),
        "g": pack_sequence([X]),
        "h": "text",
        "i": [1, 2],
        "j": X.numpy(),
    }
    reader = Reader(One(), wants_targets=False, is_whole=True, device=torch.device("meta"))
    whole = reader.read_one("batches", 0, batch).whole
    assert whole["a"][0].is_meta and whole["a"][1][0].is_meta and whole["a"][1][1]["b"].is_meta
    assert isinstance(whole["c"], Example) and whole["c"].x.is_meta and whole["c"].note == "n"
    assert isinstance(whole["d"], Encoding) and whole["d"]["e"].is_meta
    assert isinstance(whole["f"], Fields) and whole["f"].x.is_meta and whole["f"].mask == 1
    assert whole["g"].data.is_meta and whole["h"] == "text" and whole["i"] == [1, 2] and whole["j"].is_meta
    # The caller's are as they were.
    assert batch["a"][0] is X and batch["c"].x is X and batch["d"]["e"] is X and isinstance(batch["j"], np.ndarray)


def test_inference_tensors_become_plain_ones() -> None:
    with torch.inference_mode():
        x = torch.randn(6, 5)
    got = read(One(), (x, Y))
    assert x.is_inference() and not got.args[0].is_inference() and torch.equal(got.args[0], x)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ((X, [1, 2]), 6),
        ((X, torch.zeros(4)), 4),
        ((X, {"a": "text", "b": torch.zeros(2)}), 2),
        (({"x": X}, None), 6),
        ((X, torch.tensor(1.0)), 6),
        ((["a", "b"], 1), 1),
    ],
    ids=["inputs'", "targets'", "inside a dict", "None", "a number", "nothing to tell"],
)
def test_examples_are_those_of_the_targets_or_else_of_the_inputs(batch: Any, count: int) -> None:
    assert read(One(), batch).examples == count


@pytest.mark.parametrize(
    "batches",
    [X, X.numpy(), {"x": X}, "ab", nn.Sequential(nn.Linear(2, 2)), 3, TensorDataset(X)],
    ids=lambda batches: type(batches).__name__,
)
def test_what_is_no_batches(batches: Any) -> None:
    for again in (True, False):
        with pytest.raises(TypeError, match="batches must be batches that can be gone through"):
            check_batches("batches", batches, again=again)


def test_iterators_can_be_gone_through_once() -> None:
    with pytest.raises(TypeError, match="again and again"):
        check_batches("batches", iter([X]))
    assert next(iter(check_batches("batches", iter([X]), again=False))) is X


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(5, (8,), 3)


def test_loaders_without_a_length() -> None:
    a, b = net(), net(1)
    loader = DataLoader(Stream(), batch_size=4)
    spec = lmc.architectures.mlp(a)
    assert count_of(loader) == 0 and count_of([1, 2]) == 2
    streamed = lmc.activation_matching(a, b, loader, spec).permutations
    assert streamed == lmc.activation_matching(a, b, [(X[:4], Y[:4]), (X[4:], Y[4:])], spec).permutations
    assert lmc.evaluate(a, loader) == lmc.evaluate(a, [(X[:4], Y[:4]), (X[4:], Y[4:])])


class Masked(nn.Module):
    """Hidden units that a second input switches on and off."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.fc1, self.norm, self.fc2 = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(x * mask))))


SPEC = lmc.PermutationSpec.from_axes(
    {
        "fc1.weight": ("P", None),
        "fc1.bias": ("P",),
        "norm.weight": ("P",),
        "norm.bias": ("P",),
        "norm.running_mean": ("P",),
        "norm.running_var": ("P",),
        "norm.num_batches_tracked": (),
        "fc2.weight": (None, "P"),
        "fc2.bias": (None,),
    }
)


def masked_call(model: nn.Module, batch: Any) -> Any:
    # Taking an entry out is what training code does with its labels.
    batch.pop("labels", None)
    return model(batch["x"] * batch["m"], torch.ones_like(batch["x"]))


def masked_loss(outputs: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(outputs, batch["labels"])


def told(function: Callable[..., Any], *args: Any, **how: Any) -> list[str]:
    """What a search tells of its losses on the way."""
    notes: list[str] = []
    function(*args, progress=lambda note, done, total: notes.append(note), **how)
    return notes


# Every function that takes data, as one that gives something to compare.
Call = Callable[..., Any]
FUNCTIONS: dict[str, Call] = {
    "evaluate": lambda a, b, c, batches, **how: lmc.evaluate(a, batches, **how)[0],
    "loss_barrier": lambda a, b, c, batches, **how: lmc.loss_barrier(a, b, batches, lambdas=3, **how).loss.tolist(),
    "loss_barrier, statistics": lambda a, b, c, batches, **how: lmc.loss_barrier(
        a, b, batches, lambdas=3, batchnorm_batches=batches, **how
    ).loss.tolist(),
    "pairwise_barriers": lambda a, b, c, batches, **how: lmc.pairwise_barriers([a, b], None, batches, **how).tolist(),
    "loss_landscape": lambda a, b, c, batches, **how: lmc.loss_landscape(
        [a, b, c], batches, points=2, **how
    ).loss.tolist(),
    "taylor_barrier": lambda a, b, c, batches, **how: lmc.taylor_barrier(a, b, batches, **how).a,
    "straight_through_matching": lambda a, b, c, batches, **how: (
        lmc.straight_through_matching(
            a, b, batches, SPEC, epochs=2, init="random", validation=batches, **how
        ).permutations
    ),
    "sinkhorn_matching": lambda a, b, c, batches, **how: told(
        lmc.sinkhorn_matching, a, b, SPEC, batches=batches, loss="midpoint", steps=3, init="random", **how
    ),
    "match_many": lambda a, b, c, batches, **how: told(
        lmc.match_many, [a, b, c], SPEC, method="ste_mm", batches=batches, epochs=2, **how
    ),
    "input_alignment": lambda a, b, c, batches, **how: (
        lmc.input_alignment(a, batches, **how).layers[1].cosines.tolist()
    ),
    "activation_matching": lambda a, b, c, batches, **how: (
        lmc.activation_matching(a, b, batches, SPEC, **how).permutations
    ),
    "repair": lambda a, b, c, batches, **how: lmc.repair(
        lmc.interpolate(a, b, 0.5), [a, b], batches, spec=SPEC, **how
    ).norm.bias.tolist(),
    "reestimate_batchnorm": lambda a, b, c, batches, **how: lmc.reestimate_batchnorm(
        a, batches, **how
    ).norm.running_mean.tolist(),
}
WITHOUT_LOSS = ("input_alignment", "activation_matching", "repair", "reestimate_batchnorm")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_several_inputs_in_every_form(name: str) -> None:
    """All forms of one batch give the same result, which depends on the mask."""
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    mask = (torch.rand(24, 5, generator=generator) > 0.6).float()
    models = [Masked(seed) for seed in range(3)]
    call = FUNCTIONS[name]

    def result(batch: Any, **how: Any) -> Any:
        return call(*models, [batch], **how)

    wanted = result((x, mask, y))
    for batch in (
        ((x, mask), y),
        [[x, mask], y],
        ({"x": x, "mask": mask}, y),
        {"x": x, "mask": mask, "labels": y},
        Encoding(x=x, mask=mask, labels=y),
        (x.numpy(), mask.numpy(), y.numpy()),
        Fields(x, mask, y),
    ):
        assert result(batch) == wanted
    assert result((x, torch.ones_like(mask), y)) != wanted
    given = {"x": x, "m": mask, "labels": y}
    how = {} if name in WITHOUT_LOSS else {"loss_fn": masked_loss}
    assert result(given, forward=masked_call, **how) == wanted
    assert set(given) == {"x", "m", "labels"}
    if name in WITHOUT_LOSS:
        assert result((x, mask)) == wanted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_names_the_batch_that_it_refuses(name: str) -> None:
    models = [Masked(seed) for seed in range(3)]
    good = (X, MASK, Y)
    with pytest.raises(TypeError, match=r"(batches|validation)\[1\] has the entries 'some', 'thing'"):
        FUNCTIONS[name](*models, [good, {"some": X, "thing": X}])
    with pytest.raises(TypeError, match=r"forward must be a function \(model, batch\) -> outputs"):
        FUNCTIONS[name](*models, [good], forward=3)


class Output(OrderedDict):  # type: ignore[type-arg]
    """As a language model's: a mapping with attributes, without what is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


class WithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.inner(x)
        out = Output(logits=logits)
        if labels is not None:
            out["loss"] = 2 * functional.cross_entropy(logits, labels)
        return out


def test_outputs_that_hold_logits_or_a_loss() -> None:
    model = WithOutput()
    loss, accuracy = lmc.evaluate(model.inner, [(X, Y)])
    assert lmc.evaluate(model, [(X, Y)]) == (loss, accuracy)
    # What the model itself takes for its loss counts.
    own = lmc.evaluate(model, [{"x": X, "labels": Y}])
    assert own == (pytest.approx(2 * loss), accuracy)
    assert lmc.evaluate(model, [{"x": X, "labels": Y}], loss_fn=nn.CrossEntropyLoss()) == own
    assert lmc.evaluate(model, [{"x": X, "labels": Y}], loss_fn=nn.CrossEntropyLoss(label_smoothing=0.0)) == own
    with_extras = lmc.evaluate(model, [{"x": X, "labels": Y, "index": INDEX}])
    assert with_extras[0] == own[0]


def test_a_loss_of_torch_is_given_the_label_among_several_targets() -> None:
    model = net()
    wanted = lmc.evaluate(model, [(X, Y)])[0]
    assert lmc.evaluate(model, [{"input": X, "y": Y, "index": INDEX}])[0] == wanted
    assert lmc.evaluate(model, [(X, Y)], forward=lambda m, batch: m(batch[0])) == lmc.evaluate(model, [(X, Y)])
    small = lmc.evaluate(model, [(X, Y.to(torch.uint8))])
    assert small == lmc.evaluate(model, [(X, Y)])


def test_batches_without_examples_count_for_nothing() -> None:
    a, b = net(), net(1)
    assert lmc.evaluate(a, [(X[:0], Y[:0]), (X, Y)]) == lmc.evaluate(a, [(X, Y)])
    lmc.straight_through_matching(a, b, [(X, Y), (X[:0], Y[:0])], lmc.architectures.mlp(a), epochs=1)
    with pytest.raises(ValueError, match="batches must hold one example at least, got none"):
        lmc.evaluate(a, [(X[:0], Y[:0])])


class Broken(Exception):
    pass


def broken(*args: Any) -> Any:
    raise Broken("mine")


LOSSES: dict[str, tuple[dict[str, Any], Any, type[Exception], str]] = {
    "a float": ({"loss_fn": lambda o, t: 1.0}, (X, Y), TypeError, "loss_fn must return one number, .* got 1.0"),
    "a dict": ({"loss_fn": lambda o, t: {"loss": o.sum()}}, (X, Y), TypeError, "loss_fn must return .* got a dict"),
    "several": (
        {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
        (X, Y),
        ValueError,
        "loss_fn must return one number",
    ),
    "one target too few": ({}, (X, Y[1:]), ValueError, r"loss_fn must fit outputs and targets.* batches\[0\]"),
    "floats for classes": ({"loss_fn": functional.nll_loss}, (X, Y.float()), ValueError, "loss_fn must fit outputs"),
    "no classes": (
        {},
        (X, Y.tolist()),
        TypeError,
        r"loss_fn must fit the targets: .* a list as the targets of batches",
    ),
    "extras": ({}, (X, Y, INDEX), TypeError, "loss_fn must fit the targets: .* got a tuple"),
    "extras to a loss of one's own": (
        {"loss_fn": lambda o, t: functional.cross_entropy(o, t)},
        (X, Y, INDEX),
        TypeError,
        r"loss_fn must take the targets of batches\[0\].* a tuple of 2; it failed with TypeError",
    ),
    "no targets to be found": (
        {"forward": lambda m, batch: m(batch[0])},
        (X, Y, INDEX),
        TypeError,
        "loss_fn must fit the targets: .* got a _Absent",
    ),
    "one's own error": ({"loss_fn": broken}, (X, Y), Broken, "^mine$"),
    "an error of one's own forward": ({"forward": broken}, (X, Y), Broken, "^mine$"),
}


@pytest.mark.parametrize("name", ["evaluate", "loss_barrier", "taylor_barrier", "straight_through", "sinkhorn"])
@pytest.mark.parametrize("kind", LOSSES)
def test_losses_that_do_not_fit_are_named(kind: str, name: str) -> None:
    how, batch, error, message = LOSSES[kind]
    a, b = net(), net(1)
    spec = lmc.architectures.mlp(a)
    calls: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: lmc.evaluate(a, [batch], **how),
        "loss_barrier": lambda: lmc.loss_barrier(a, b, [batch], lambdas=3, **how),
        "taylor_barrier": lambda: lmc.taylor_barrier(a, b, [batch], **how),
        "straight_through": lambda: lmc.straight_through_matching(a, b, [batch], spec, epochs=1, **how),
        "sinkhorn": lambda: lmc.sinkhorn_matching(a, b, spec, batches=[batch], loss="midpoint", steps=2, **how),
    }
    with pytest.raises(error, match=message):
        calls[name]()


@pytest.mark.parametrize("detached", ["outputs", "loss"])
def test_a_loss_without_a_gradient_is_named(detached: str) -> None:
    a, b = net(), net(1)
    spec = lmc.architectures.mlp(a)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.detach() if detached == "outputs" else outputs, targets).detach()

    for call in (
        lambda: lmc.straight_through_matching(a, b, [(X, Y)], spec, epochs=1, loss_fn=loss),
        lambda: lmc.sinkhorn_matching(a, b, spec, batches=[(X, Y)], loss="midpoint", steps=1, loss_fn=loss),
    ):
        with pytest.raises(ValueError, match="loss_fn must give a loss with a gradient"):
            call()


def test_accuracy_needs_an_integer_for_each_output() -> None:
    model = net()
    by_dict = lmc.evaluate(model, [(X, {"labels": Y})], loss_fn=lambda o, t: functional.cross_entropy(o, t["labels"]))
    assert by_dict == (lmc.evaluate(model, [(X, Y)])[0], None)
    assert lmc.evaluate(model, [(X, Y.float())], loss_fn=lambda o, t: functional.cross_entropy(o, t.long()))[1] is None
    shares = functional.one_hot(Y, 3).float()
    assert lmc.evaluate(model, [(X, shares)])[1] is None


def test_eval_mode_lasts_until_all_have_left() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    model[0].eval()
    first, second = in_eval(model), in_eval(model[1], nn.Linear(1, 1))
    first.__enter__()
    second.__enter__()
    assert not any(part.training for part in model.modules())
    first.__exit__(None, None, None)
    assert model.training and not model[0].training and not model[1].training
    second.__exit__(None, None, None)
    assert [part.training for part in model.modules()] == [True, False, True]


def test_forward_is_a_function_and_no_model() -> None:
    with pytest.raises(TypeError, match=r"forward must be a function"):
        Calls(net(), net())  # type: ignore[arg-type]
    assert ABSENT is not None and repr(ABSENT) == "nothing"
