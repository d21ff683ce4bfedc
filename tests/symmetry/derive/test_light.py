"""What is rewritten operation by operation is what a second trace gives, and computes what the model does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule
from torch.nn import functional as F

from lmc_fast.symmetry.derive import decomposing
from lmc_fast.symmetry.derive.decomposing import decomposed
from lmc_fast.symmetry.derive.light import Program, _functional, lightened

from ...slow import slow_but
from .told import BATCH, TOKENS, WIDTH, Of, exported, program_of, told

Does = Callable[[Of, Tensor], Any]


def _then(first: Does, then: Callable[[Tensor], Any]) -> Does:
    return lambda m, x: then(first(m, x))


def _linear(m: Of, x: Tensor) -> Tensor:
    result: Tensor = m.linear(x)
    return result


# What writes over a value that is used no more as it was.
OVER: dict[str, Does] = {
    "relu_": _then(_linear, torch.relu_),
    "several in turn": lambda m, x: m.linear(x).sigmoid_().mul_(m.scale).add_(x, alpha=2).div_(3.0).clamp_(-1, 1),
    "with itself": _then(_linear, lambda y: y.add_(y).mul_(y)),
    "the old name as well": _then(_linear, lambda y: y.relu_() + y),
    "after a norm": lambda m, x: F.relu(m.batch(m.linear(x)), inplace=True),
    "a sum with what went before": lambda m, x: m.linear(m.linear(x).relu_()).add_(m.linear(x)).relu_(),
    "composite": _then(_linear, lambda y: F.selu(F.relu6(y, inplace=True), inplace=True).square_()),
    "another overload": _then(_linear, lambda y: y.abs_().pow_(2).masked_fill_(y > 1, 0.5)),
    "at places": lambda m, x: m.linear(x).index_put_((torch.tensor([0, 1]),), x).scatter_add_(1, x.argsort(1) % 5, x),
    "copied over": lambda m, x: m.linear(x).copy_(m.scale),
    "filled": _then(_linear, lambda y: y.zero_().fill_(2.0)),
    "a constant of the code": lambda m, x: x + torch.tensor([1.0, 2.0, 3.0]).mul_(2).sum(),
    "a mask of the code": lambda m, x: torch.full((TOKENS, TOKENS), -1.0).triu_(1) @ x,
    "what looked at it before is used no more": _then(_linear, lambda y: y[0].sum() + y.relu_()),
    "what looks at it then": _then(_linear, lambda y: y.relu_()[:, 1:].mT + 1),
    "what gives itself": _then(_linear, lambda y: y.to(y.dtype).contiguous().relu_() + y),
    "dropout": _then(_linear, lambda y: F.dropout(y, 0.5, False, inplace=True).add_(1)),
}
# What is made of others, or stands for what it takes.
MADE: dict[str, Does] = {
    "dropouts": lambda m, x: m.drop(m.drop(m.linear(x))) + F.alpha_dropout(F.dropout1d(x, 0.5, False), 0.5, False),
    "parts": lambda m, x: (
        torch.cat(m.linear(x).chunk(5, -1)[::-1], -1) + torch.stack(x.split([2, 10], -1)[1].unbind(1)).sum()
    ),
    "laid out": lambda m, x: m.linear(x).mT.reshape(BATCH, -1).unflatten(1, (WIDTH, TOKENS)).ravel().flatten(),
    "as it lies": lambda m, x: m.linear(x).reshape(x.shape).flatten(0, 1).view(-1, 3).contiguous(),
    "dimensions": lambda m, x: m.linear(x).movedim(0, 2).moveaxis(1, 0).swapaxes(0, 1).adjoint().squeeze().unsqueeze(0),
    "complex": lambda m, x: torch.view_as_real(torch.view_as_complex(x.reshape(BATCH, TOKENS, 6, 2)) * 2).flatten(2),
    "spectrum": lambda m, x: torch.fft.rfft(m.linear(x)).real,
    "types": lambda m, x: m.linear(x).double().type_as(m.scale).bfloat16().float(),
    "detached": lambda m, x: m.linear(x).detach() + 1,
    "attention": lambda m, x: F.scaled_dot_product_attention(x, m.linear(x), x, is_causal=True),
    "attention of torch": lambda m, x: m.attention(x, m.linear(x), x, need_weights=False)[0],
    "several results": lambda m, x: m.linear(x).topk(3)[1] + x.max(1)[0].argsort(-1)[:, None, :3],
    "lists": lambda m, x: torch.stack(torch.atleast_1d([x, m.linear(x)]), 1),
    "nothing is done": lambda m, x: (x, m.linear(x)),
}
# Of which a second trace is taken.
REFUSED: dict[str, Does] = {
    "an input": lambda m, x: x.relu_(),
    "what may be an input": lambda m, x: x.contiguous().relu_(),
    "a buffer": lambda m, x: m.scale.add_(1) + x,
    "a part": _then(_linear, lambda y: y[:1].relu_() + y),
    "one of several parts": _then(_linear, lambda y: y.chunk(2)[0].relu_() + y),
    "laid out": _then(_linear, lambda y: y.mT.reshape(BATCH, -1).relu_()),
    "a part that is used then": _then(_linear, lambda y: (lambda part: y[0].relu_() + part)(y[0])),
    "the whole, and a part is used then": _then(_linear, lambda y: (lambda part: y.relu_() + part)(y[0])),
    "the whole, and a part is given": _then(_linear, lambda y: (y[0], y.relu_())),
    "what dropout gives": lambda m, x: m.drop(m.linear(x)).relu_(),
    "a wider type": lambda m, x: m.linear(x).add_(torch.ones(WIDTH, dtype=torch.float64)),
    "its own shape": _then(_linear, lambda y: y.unsqueeze_(0)),
    "an output": lambda m, x: torch.add(x, 1, out=torch.empty(BATCH, TOKENS, WIDTH)),
    "another at random": lambda m, x: x + torch.empty(WIDTH).normal_(),
    "dropped": lambda m, x: F.dropout(m.linear(x), 0.5, True),
    "as many as its values say": lambda m, x: x[:, torch.tensor([True, False, True, True, False])],
    "branches": lambda m, x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)),
    "another precision": lambda m, x: torch.autocast("cpu", dtype=torch.bfloat16)(lambda: m.linear(x))(),
}


def _light(program: Any) -> Program:
    with torch.no_grad():
        found = lightened(program, decomposing._stays)
    assert found is not None
    return found


def _traced_again(program: Any) -> Program:
    """The graph of a second trace, of which `test_decomposing.py` holds that it is torch's own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decomposing, "lightened", lambda *of: None)
        return decomposed(program)


def _run(program: Program, module: nn.Module, *args: Tensor) -> list[Tensor]:
    """What the graph computes of the module's own tensors."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    given, inputs = iter(args), []
    for spec in program.graph_signature.input_specs:
        held = program.constants if spec.kind == InputKind.CONSTANT_TENSOR else state
        inputs.append(next(given) if spec.kind == InputKind.USER_INPUT else held[str(spec.target)])
    with torch.no_grad():
        return [each for each in GraphModule({}, program.graph)(*inputs) if each is not None]


def test_the_graph_is_that_of_a_second_trace() -> None:
    """And computes what the model does; the program stays as it is."""
    of = {**OVER, **MADE}
    module = Of(lambda m, x: [each(m, x.clone()) for each in of.values()])
    x = torch.randn(BATCH, TOKENS, WIDTH)
    program = exported(module, x)
    before, found = told(program), _light(program)
    assert told(program) == before
    with torch.no_grad():
        assert told(found) == told(program.run_decompositions({}))
        wanted = module(x.clone())
    results = iter(_run(found, module, x))
    for name, result in zip(of, wanted, strict=True):
        for each in result if isinstance(result, tuple) else [result]:
            assert torch.equal(next(results), each), name
    assert next(results, None) is None


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sure_is_not_rewritten(name: str) -> None:
    """Where something else would change, or where it is not known what a second trace makes."""
    with torch.no_grad():
        assert lightened(program_of(REFUSED[name]), decomposing._stays) is None


def test_a_graph_that_writes_to_the_models_tensors_is_not_rewritten() -> None:
    """Also where that is said of its outputs alone, as in graphs of functional operations."""
    with torch.no_grad():
        program: Any = decomposed(program_of(REFUSED["a buffer"]))
    assert OutputKind.BUFFER_MUTATION in {spec.kind for spec in program.graph_signature.output_specs}
    assert lightened(program, decomposing._stays) is None


def test_what_fails_is_not_rewritten() -> None:
    """What an operation raises by itself is no error of the model's."""

    def failing(operation: Any) -> bool:
        raise RuntimeError("cannot be asked")

    assert lightened(program_of(OVER["relu_"]), failing) is None


def test_the_old_name_of_what_was_written_over_is_its_new_value() -> None:
    """Whichever of the two a graph goes on with."""
    program = program_of(OVER["the old name as well"])
    wanted = told(_light(program))
    written, add = list(program.graph.nodes)[-3:-1]
    add.args = (written, written.args[0])
    assert told(_light(program)) == wanted


def test_what_is_no_tensor_is_not_rewritten() -> None:
    program = program_of(OVER["relu_"])
    list(program.graph.nodes)[-2].meta["val"] = 3
    assert lightened(program, decomposing._stays) is None


def test_which_operation_gives_what_another_writes() -> None:
    """The one that takes the same; none for what looks at entries in another way, or is part of another's inside."""
    aten = torch.ops.aten
    assert _functional(aten.pow_.Scalar) is aten.pow.Tensor_Scalar
    assert _functional(aten.masked_fill_.Tensor) is aten.masked_fill.Tensor
    for other in (aten.unsqueeze_.default, aten._index_put_impl_.default, aten.add.out, aten.normal_.default):
        assert _functional(other) is None


def test_two_values_that_are_one_are_not_told_apart() -> None:
    """Which of them goes where into a composite operation is not known."""
    program = program_of(lambda m, x: m.linear(x).view_as(x + 1))
    one, other = (
        node for node in program.graph.nodes if str(node.target) in ("aten.linear.default", "aten.add.Tensor")
    )
    one.meta["val"] = other.meta["val"]
    assert lightened(program, decomposing._stays) is None


def test_operations_of_others_are_not_rewritten() -> None:
    """Where gradients are recorded they may be made of anything."""
    assert decomposing._stays(torch.ops.prims.sin.default) is None
    assert decomposing._stays(torch.ops.aten.sin.default)


def test_what_looks_at_a_value_that_was_written_over_stands_where_the_model_has_it() -> None:
    """A second trace has it wait until it is used; the same is computed."""
    module = Of(lambda m, x: (lambda y: (lambda part: m.linear(x) + part)(y.relu_().view(-1)[:WIDTH]))(m.linear(x)))
    x = torch.randn(BATCH, TOKENS, WIDTH)
    program = exported(module, x)
    found = _light(program)
    with torch.no_grad():
        again = told(_traced_again(program))
        assert torch.equal(_run(found, module, x)[0], module(x))
    names = [each[0] for each in told(found)["operations"]]
    assert names != [each[0] for each in again["operations"]]
    assert sorted(names) == sorted(each[0] for each in again["operations"])


class Block(nn.Module):
    """A residual block with norms that are written over."""

    def __init__(self, into: int, out: int, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(into, out, 3, padding=1, bias=False), nn.Conv2d(out, out, 3, padding=1)
        self.short, self.norm, self.relu = nn.Conv2d(into, out, 1), norm, nn.ReLU(inplace=True)
        self.squeeze, self.drop = nn.Linear(out, out), nn.Dropout2d(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.drop(self.relu(self.norm(self.first(x)))))
        out *= self.squeeze(out.mean((2, 3))).sigmoid_()[..., None, None]
        out += self.short(x)
        return self.relu(out)


def _networks() -> nn.Module:
    grouped = Block(8, 8, nn.GroupNorm(2, 8))
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 24), nn.Unflatten(1, (2, 12))]
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    return nn.Sequential(Block(3, 8, nn.BatchNorm2d(8)), grouped, *head, layer, nn.Hardswish(inplace=True))


def test_the_graph_of_networks_is_that_of_a_second_trace() -> None:
    """Of convolutions, norms, residual sums and attention, as they are written."""
    module, x = _networks(), torch.randn(BATCH, 3, 4, 4)
    program = exported(module, x)
    found = _light(program)
    with torch.no_grad():
        assert told(found) == told(_traced_again(program))
        assert torch.equal(_run(found, module, x)[0], module(x))


def _of_transformers() -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Small models, and the names of what they take."""
    transformers = pytest.importorskip("transformers")
    sizes: Any = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    words = {**sizes, "vocab_size": 17, "max_position_embeddings": 9}
    llama = transformers.LlamaConfig(**words, num_key_value_heads=1)
    gpt = transformers.GPT2Config(
        vocab_size=17, n_embd=12, n_layer=1, n_head=2, n_positions=9, bos_token_id=0, eos_token_id=0
    )
    bert = transformers.BertConfig(**words)
    vit = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    tokens, image = torch.arange(10).reshape(2, 5), torch.randn(2, 3, 8, 8)
    return {
        "BERT": (transformers.BertModel(bert), {"input_ids": tokens}),
        "GPT-2": (transformers.GPT2LMHeadModel(gpt), {"input_ids": tokens, "use_cache": False}),
        "Llama": (transformers.LlamaForCausalLM(llama), {"input_ids": tokens, "use_cache": False}),
        "ViT": (transformers.ViTModel(vit), {"pixel_values": image}),
    }


@pytest.mark.parametrize("name", slow_but(["BERT", "GPT-2", "Llama", "ViT"], lambda name: name == "Llama"))
def test_the_graph_of_transformers_is_that_of_a_second_trace(name: str) -> None:
    model, inputs = _of_transformers()[name]
    with torch.no_grad():
        program = torch.export.export(model.eval(), (), inputs, strict=False)
        assert told(_light(program)) == told(_traced_again(program))
