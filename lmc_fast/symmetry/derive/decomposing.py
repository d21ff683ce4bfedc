"""`run_decompositions({})` of an exported program, prepared for the operations that stand in it alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from torch import fx
from torch._export import utils as exporting
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.export import ExportedProgram, exported_program

from .light import Program, lightened
from .look import packet_name

__all__ = ["decomposed"]

# Composite operations that are never kept, since what they give may be what they take: those here are made of others
# that are not composite, so that nothing else has to be prepared.
PLAIN = frozenset(
    f"aten.{name}"
    for name in (
        *("reshape", "flatten", "unflatten", "contiguous", "to", "expand_as", "view_as", "reshape_as", "type_as"),
        *("chunk", "narrow", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "dropout", "dropout_"),
        "batch_norm",
    )
)
# Those that are rewritten by themselves, where it can be seen what each calls.
SMALL = PLAIN | frozenset(
    f"aten.{name}"
    for name in (
        *("feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout"),
        *("relu6_", "selu_", "square_", "ravel", "adjoint", "real", "imag", "atleast_1d", "atleast_2d", "atleast_3d"),
        *("moveaxis", "positive"),
    )
)
_GIVEN = frozenset({"cia_to_decomp", "python_decomp_table", "joint_loss_index", "decompose_custom_triton_ops"})


def decomposed(program: ExportedProgram) -> Program:
    """The program of functional operations only, as written in the model: what `program.run_decompositions({})` gives.

    That traces the whole graph again. Most graphs can be rewritten instead, operation by operation. Of the others,
    torch prepares to keep each of the 500 composite operations that it knows, which takes longer than the rest of a
    small graph. Only those in the graph need it. Where a torch has no such door, or an operation stands there that
    may call composite ones, its own way is gone.
    """
    run, kept = _door(), None
    if run is not None:
        with unset_fake_temporarily():
            found = lightened(program, _stays)
        if found is not None:
            return found
        kept = _kept(program)
    if run is None or kept is None:
        whole = cast(ExportedProgram, program.run_decompositions({}))
    else:
        with unset_fake_temporarily():
            whole = run(program, kept)
    return Program(whole.graph, whole.graph_signature, whole.constants)


def _door() -> Callable[[ExportedProgram, Mapping[Any, Any]], ExportedProgram] | None:
    """What decomposes a program with a table of operations to keep; None where this torch has none of this form."""
    inner = getattr(exported_program, "_decompose_exported_program", None)
    needed = ("_is_cia_op", "_is_preservable_cia_op", "_special_op_to_preserve_cia")
    if inner is None or not all(hasattr(exporting, name) for name in needed):
        return None
    takes = inspect.signature(inner).parameters
    own = {name: each for name, each in takes.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    asked = {name for name, each in own.items() if each.default is inspect.Parameter.empty}
    if len(takes) != len(own) + 1 or not {"cia_to_decomp", "python_decomp_table"} <= own.keys() or asked - _GIVEN:
        return None

    def run(program: ExportedProgram, kept: Mapping[Any, Any]) -> ExportedProgram:
        given: dict[str, Any] = {"cia_to_decomp": dict(kept), "python_decomp_table": {}, "joint_loss_index": None}
        given["decompose_custom_triton_ops"] = False
        return cast(ExportedProgram, inner(program, **{name: each for name, each in given.items() if name in own}))

    return run


def _kept(program: ExportedProgram) -> dict[Any, Any] | None:
    """The composite operations of a program that are to be kept whole; None where others may be called inside."""
    kept = {}
    for operation in _operations(program):
        if isinstance(operation, HigherOrderOperator):
            return None
        if not isinstance(operation, OpOverload):
            continue
        if exporting._is_preservable_cia_op(operation):
            kept[operation] = exporting._special_op_to_preserve_cia
        elif exporting._is_cia_op(operation) and packet_name(operation) not in PLAIN:
            return None
    return kept


def _stays(operation: OpOverload) -> bool | None:
    """Whether an operation is left as it is; False where it is one of `SMALL`, None where that is not known.

    What others have registered may be made of anything where gradients are recorded.
    """
    if operation.namespace not in ("aten", "lmc_fast"):
        return None
    if exporting._is_cia_op(operation) and not exporting._is_preservable_cia_op(operation):
        return False if packet_name(operation) in SMALL else None
    return True


def _operations(program: ExportedProgram) -> Iterator[Any]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from {node.target: None for node in module.graph.nodes if node.op == "call_function"}
