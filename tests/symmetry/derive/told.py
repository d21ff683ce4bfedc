"""What a walk reads of a program, in a form that does not depend on its nodes' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from lmc_fast.symmetry.derive.light import Program
from lmc_fast.symmetry.derive.look import bound

BATCH, TOKENS, WIDTH = 2, 5, 12


class Of(nn.Module):
    """A function of a value, with some layers at hand."""

    def __init__(self, forward: Callable[[Of, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.batch, self.drop = nn.BatchNorm1d(TOKENS), nn.Dropout(0.5)
        self.conv, self.attention = nn.Conv1d(TOKENS, 4, 3), nn.MultiheadAttention(WIDTH, 3, batch_first=True)
        self.lstm = nn.LSTM(WIDTH, 7, batch_first=True)
        self.register_buffer("scale", torch.ones(WIDTH), persistent=False)
        self.of = forward

    def forward(self, x: Tensor) -> Any:
        return self.of(self, x)


def program_of(of: Callable[[Of, Tensor], Any]) -> ExportedProgram:
    """The program of a function, as torch exports it."""
    return exported(Of(of), torch.randn(BATCH, TOKENS, WIDTH))


def exported(module: nn.Module, *args: Any) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), args, strict=False)


def told(program: ExportedProgram | Program) -> dict[str, Any]:
    """Operations with their arguments, shapes, layouts and lines, and what the graph's inputs and outputs are.

    Inputs come by name: no walk looks at their order among themselves.
    """
    signature = program.graph_signature
    specs = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
    number: dict[Node, Any] = {}
    inputs: dict[str, Any] = {}
    operations: list[Any] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return number[value]
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return repr(value)

    for node in program.graph.nodes:
        shape, users = _layout(node.meta.get("val")), len(node.users)
        if node.op == "placeholder":
            number[node] = node.name
            spec = specs.get(node.name)
            inputs[node.name] = (shape, users, None if spec is None else (spec.kind, spec.target))
            continue
        number[node] = f"%{len(operations)}"
        arguments = bound(node) if node.op == "call_function" else dict(enumerate(node.args))
        modules = list((node.meta.get("nn_module_stack") or {}).values())
        where = (node.meta.get("stack_trace"), modules[-1][0] if modules else None)
        target = str(node.target)
        operations.append((target, {key: plain(each) for key, each in arguments.items()}, shape, users, *where))
    by_name = {node.name: number[node] for node in number}
    outputs = [(spec.kind, by_name.get(getattr(spec.arg, "name", ""))) for spec in signature.output_specs]
    return {"inputs": inputs, "operations": operations, "outputs": outputs}


def _layout(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_layout(each) for each in value]
    return (value.shape, value.dtype, value.device, value.stride()) if isinstance(value, Tensor) else None
