"""The graphs of a model: one of the whole, or of the parts that can be traced where the whole cannot."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..calls import Call, shapes_of
from .forms import Form
from .graph import export
from .light import Program
from .lines import source_line
from .look import Dims, Look, rule
from .outputs import without_state
from .ways import MOST_WAYS, Way, answering, ways

__all__ = ["Piece", "Traced", "trace"]

# What torch.export raises of models that it cannot trace, and models of inputs that they do not take.
FAILURES = (
    *(RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, NotImplementedError),
    ArithmeticError,
)
# What they log meanwhile is said in one sentence.
LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor", "torch.export")
HERE, TORCH = Path(__file__).resolve().parents[2], Path(torch.__file__).resolve().parent


@dataclass(frozen=True)
class Piece:
    """A graph.

    Attributes:
        prefix: of the names of the part that it is of, with a dot at its end; "" for the whole.
        program: the graph.
    """

    prefix: str
    program: Program


@dataclass
class Traced:
    """What there is of graphs of one call of a model.

    Attributes:
        pieces: the graphs.
        notes: what could not be traced, and where.
        bare: identities of parameters that code uses which no graph shows: they have to stay.
        why: what torch.export says of the whole; "" where it was traced.
    """

    pieces: list[Piece] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bare: set[int] = field(default_factory=set)
    why: str = ""


def trace(form: Form, calls: Sequence[Call], *, strict: bool) -> Traced:
    """The graph of a model, or those of its parts where the whole cannot be traced.

    Args:
        form: the model.
        calls: how it may be called, the likelier way first.
        strict: whether it is an error if parameters are used by code that no graph shows.

    Raises:
        ValueError: the model does not run on these inputs, or cannot be traced; the message names the line.
    """
    failed: BaseException | None = None
    for call in calls:
        try:
            return Traced([Piece("", without_state(_exported(form.module, *form.inputs(call.given))))])
        except FAILURES as error:
            failed = failed or error
    assert failed is not None
    why = _told(failed)
    for call in calls if form.mode is None else ():
        with contextlib.suppress(*FAILURES):
            followed = _by_values(form, call)
            if followed is not None:
                return followed
    watched, ran = None, None
    for call in calls:
        try:
            watched = _watched(form, call)
            break
        except FAILURES as error:
            # Another way to call it is a guess, and what it says is of the guess.
            ran = ran or error
    if watched is None:
        assert ran is not None
        if form.mode is not None:
            raise ValueError(
                f"model must be one that torch.export can trace with these inputs, but {why}; with its weights at hand "
                "it could be traced part by part"
            ) from failed
        raise ValueError(f"model must run on example_inputs {shapes_of(calls[0].given)}, but {_told(ran)}") from ran
    traced = _by_parts(form, watched, why)
    if strict and (traced.bare or not traced.pieces):
        raise ValueError(
            f"model must be one that torch.export can trace with these inputs, but {why}; strict=False leaves the "
            "weights that are used there as they are, and goes on with the rest"
        ) from failed
    return traced


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        # On the way to an error torch prints the graph so far.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


def _exported(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    with _quiet():
        program = export(module, tuple(args), _with_defaults(module, args, kwargs))
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            try:
                _ = [int(size) for size in each.shape] if isinstance(each, Tensor) else []
            except RuntimeError as error:
                told = source_line(node) or node.target
                raise RuntimeError(f"{told} gives as many entries as its values say") from error
    return program


def _by_values(form: Form, call: Call) -> Traced | None:
    """The graphs of a model that goes by its own values, on all of its ways; None where it does not, or has too many.

    Raises:
        RuntimeError, ValueError, ...: one of the ways cannot be traced.
    """
    args, kwargs = form.inputs(call.given)
    kwargs = _with_defaults(form.module, args, kwargs)

    def run() -> None:
        with torch.no_grad():
            form.module(*args, **kwargs)

    pieces: list[Piece] = []
    found: list[Way] = []
    for way in ways(run, FAILURES):
        if not way.asked or len(found) == MOST_WAYS:
            return None
        found.append(way)
        with answering(form.module, way):
            pieces.append(Piece("", without_state(_exported(form.module, args, kwargs))))
    asked = [each for way in found for each in way.asked if isinstance(each.answer, bool)]
    lines = ", ".join(dict.fromkeys(each.line for each in asked))
    notes = [f"the model goes by its own values at {lines}: it was traced with both answers at each"] * bool(lines)
    return Traced(pieces, notes)


def _with_defaults(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that ask a language model for no cache, where it takes such."""
    takes = inspect.signature(module.forward).parameters
    if "use_cache" in takes and "use_cache" not in kwargs and len(args) <= list(takes).index("use_cache"):
        return {**kwargs, "use_cache": False}
    return dict(kwargs)


def _told(error: BaseException) -> str:
    """Where in the user's code an error came up, and what it says first."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    what = f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
    if not lines:
        return what
    frame = lines[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} ({frame.line}) raises {what}"


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    return HERE not in path.parents and TORCH not in path.parents


@dataclass
class _Watched:
    """A forward pass that was watched.

    Attributes:
        inputs: of every part that ran, by its name, what it was called with; of one shape once.
        outputs: of every part what it gave at each call.
        uses: by parameter's identity the parts whose own code used it.
    """

    inputs: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    uses: dict[int, set[str]] = field(default_factory=dict)


class _Uses(TorchFunctionMode):
    """Notes which part's own code hands which parameter to an operation."""

    def __init__(self, watched: _Watched, parameters: set[int], within: list[str]) -> None:
        super().__init__()
        self.watched, self.parameters, self.within = watched, parameters, within

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) in self.parameters:
                self.watched.uses.setdefault(id(leaf), set()).add(self.within[-1])
        return func(*args, **(kwargs or {}))


def _watched(form: Form, call: Call) -> _Watched:
    """Run the model once, and keep what its parts are called with."""
    watched, within = _Watched(), [""]
    handles = []

    def before(name: str) -> Any:
        def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            within.append(name)
            seen = watched.inputs.setdefault(name, [])
            if shapes_of((args, kwargs)) not in [shapes_of(each) for each in seen]:
                seen.append((args, kwargs))

        return hook

    def after(name: str) -> Any:
        def hook(part: nn.Module, args: Any, output: Any) -> None:
            within.pop()
            watched.outputs.setdefault(name, []).append(output)

        return hook

    for name, part in form.module.named_modules():
        handles.append(part.register_forward_pre_hook(before(name), with_kwargs=True))
        handles.append(part.register_forward_hook(after(name)))
    tensors = {id(tensor) for tensor in (*form.module.parameters(), *form.module.buffers())}
    args, kwargs = form.inputs(call.given)
    try:
        with torch.no_grad(), form.mode or contextlib.nullcontext(), _Uses(watched, tensors, within):
            form.module(*args, **_with_defaults(form.module, args, kwargs))
    finally:
        for handle in handles:
            handle.remove()
    return watched


def _by_parts(form: Form, watched: _Watched, why: str) -> Traced:
    """The graphs of the largest parts that have one, and of what is around them where that has one without them."""
    found = Traced(why=why)
    shown: set[str] = set()
    _descend(form.module, "", watched, why, found, shown)
    for identity, parts in watched.uses.items():
        if not parts <= shown:
            found.bare.add(identity)
    return found


def _descend(root: nn.Module, name: str, watched: _Watched, why: str, found: Traced, shown: set[str]) -> None:
    """Look for graphs inside of a part that has none itself.

    Args:
        shown: names of the parts whose own code some graph shows; added to.
    """
    module = root.get_submodule(name)
    children = _called_within(module, name, watched)
    failing: dict[str, str] = {}
    pieces: dict[str, list[Piece]] = {}
    for child in children:
        try:
            pieces[child] = _pieces(root.get_submodule(child), child, watched)
        except FAILURES as error:
            failing[child] = _told(error)
    around: list[Piece] = []
    if failing:
        with contextlib.suppress(*FAILURES), _set_aside(root, failing, watched):
            around = _pieces(module, name, watched)
    if around:
        found.pieces += around
        shown |= {part for part in _names_below(module, name) if not _is_in(part, failing)}
    else:
        where = f"part {name!r}" if name else "the model"
        found.notes.append(f"{where} cannot be traced as a whole, and its parts were traced by themselves: {why}")
        for child, of_child in pieces.items():
            found.pieces += of_child
            shown |= set(_names_below(root.get_submodule(child), child))
    for child, reason in failing.items():
        if around:
            found.notes.append(f"part {child!r} cannot be traced, and what goes in and out of it stays: {reason}")
        _descend(root, child, watched, reason, found, shown)


def _pieces(module: nn.Module, name: str, watched: _Watched) -> list[Piece]:
    prefix = f"{name}." if name else ""
    return [Piece(prefix, _exported(module, *call)) for call in watched.inputs[name]]


def _called_within(module: nn.Module, name: str, watched: _Watched) -> list[str]:
    """The parts that a part's own code calls: those below it that ran, with none that ran between."""
    found: list[str] = []
    for child, part in module.named_children():
        full = f"{name}.{child}" if name else child
        found += [full] if full in watched.inputs else _called_within(part, full, watched)
    return found


def _names_below(module: nn.Module, name: str) -> Iterator[str]:
    for below, _ in module.named_modules(remove_duplicate=False):
        yield ".".join(each for each in (name, below) if each)


def _is_in(name: str, parts: Any) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


# What the stand-ins give, by their number.
_GIVEN: dict[int, list[list[Tensor]]] = {}
_numbers = itertools.count()


@contextlib.contextmanager
def _set_aside(root: nn.Module, names: Any, watched: _Watched) -> Iterator[None]:
    """Have parts be one operation each, of which nothing is known, meanwhile."""
    parts = {name: root.get_submodule(name) for name in names}
    stand_ins = {name: _StandIn(watched.outputs[name]) for name in names}
    try:
        for name, stand_in in stand_ins.items():
            _put(root, name, stand_in)
        yield
    finally:
        for name, part in parts.items():
            _put(root, name, part)
            _GIVEN.pop(stand_ins[name].number, None)


def _put(root: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    root.get_submodule(parent)._modules[last] = part


class _StandIn(nn.Module):
    """Gives values of the shapes that a part gave, by an operation of which nothing is known."""

    def __init__(self, outputs: list[Any]) -> None:
        super().__init__()
        self.number = next(_numbers)
        flat = [pytree.tree_flatten(output) for output in outputs]
        self.leaves, self.forms = [leaves for leaves, _ in flat], [form for _, form in flat]
        _GIVEN[self.number] = [[leaf for leaf in leaves if isinstance(leaf, Tensor)] for leaves in self.leaves]
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self.calls % len(self.leaves)
        self.calls += 1
        taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = iter(torch.ops.lmc_fast.untraced(taken, self.number, call))
        leaves = [next(made) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves[call]]
        return pytree.tree_unflatten(leaves, self.forms[call])


@torch.library.custom_op("lmc_fast::untraced", mutates_args=())
def _untraced(taken: list[Tensor], number: int, call: int) -> list[Tensor]:
    return [torch.empty(given.shape, dtype=given.dtype, device="cpu") for given in _GIVEN[number][call]]


@_untraced.register_fake
def _(taken: list[Tensor], number: int, call: int) -> list[Tensor]:
    return [torch.empty(given.shape, dtype=given.dtype, device=given.device) for given in _GIVEN[number][call]]


@rule("lmc_fast.untraced")
def _of_stand_in(look: Look) -> list[Dims]:
    """x... -> y...: a part that cannot be traced; nothing is known of it."""
    return look.all_pinned("goes in or out of a part that cannot be traced")
