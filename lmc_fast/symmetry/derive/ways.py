"""Models that go by their own values: a loop that stops when it has come close, rows that are chosen by a mask.

No graph shows which way such a model goes. It is run once, and what it asks of its values is written down: answers of
yes and no, numbers, places of a mask. With these answers in the same order it can be traced. At each line that asks
yes or no the other answer is followed too, as far as the model goes with it: what moves has to move on all ways.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .look import Dims, Look, rule

__all__ = ["MOST_WAYS", "Asked", "OpaqueError", "Way", "answering", "ways"]

# Ways that are followed at most.
MOST_WAYS = 16
# Yes or no, of values.
_CHOICES = frozenset((Tensor.__bool__, torch.is_nonzero, torch.equal, torch.allclose, Tensor.equal, Tensor.allclose))
# Numbers of which nobody can tell what becomes of them.
_OPAQUE = frozenset((Tensor.__int__, Tensor.__index__, Tensor.__float__, Tensor.tolist, Tensor.numpy))
_NONZERO = (torch.nonzero, Tensor.nonzero)
_HERE, _TORCH = Path(__file__).resolve().parents[2], Path(torch.__file__).resolve().parent


class OpaqueError(RuntimeError):
    """A model takes a number from its values in a way that hides what it goes by."""


@dataclass(frozen=True)
class Asked:
    """A question to a value, and the answer.

    Attributes:
        line: of the model's code: "file.py:12".
        answer: yes or no, a number, or how many entries of a mask are set.
    """

    line: str
    answer: Any


@dataclass
class Way:
    """The questions of one forward pass, with their answers in order."""

    asked: list[Asked] = field(default_factory=list)


class _Number(float):
    """A number that a model has taken from its values, or made of such: what it is compared with is asked."""

    ask: Callable[[Any], Any]

    def __hash__(self) -> int:
        return float.__hash__(self)

    def _hidden(self, *_: Any) -> Any:
        raise OpaqueError("a number that was taken from the model's values is made a plain one")

    __float__ = __int__ = __trunc__ = __round__ = __floor__ = __ceil__ = _hidden


def _number(value: float, ask: Callable[[Any], Any]) -> _Number:
    made = _Number(value)
    made.ask = ask
    return made


def _by_itself(name: str, is_choice: bool) -> Any:
    plain = getattr(float, name)

    def method(self: _Number, *others: Any) -> Any:
        result = plain(self, *others)
        if is_choice and result is not NotImplemented:
            return self.ask(result)
        return _number(result, self.ask) if isinstance(result, float) else result

    return method


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(_Number, f"__{_name}__", _by_itself(f"__{_name}__", is_choice=True))
for _name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod"):
    setattr(_Number, f"__{_name}__", _by_itself(f"__{_name}__", is_choice=False))
    setattr(_Number, f"__r{_name}__", _by_itself(f"__r{_name}__", is_choice=False))
for _name in ("neg", "pos", "abs"):
    setattr(_Number, f"__{_name}__", _by_itself(f"__{_name}__", is_choice=False))


class _Mode(TorchFunctionMode):
    """Sees what is asked of values."""

    def ask(self, answer: Any) -> Any:
        """The answer to the next question, of which this is the true one where there are values."""
        raise NotImplementedError

    def note(self, values: list[Tensor]) -> None:
        """One value is asked, or two are compared."""

    def places(self, mask: Tensor) -> Tensor:
        """The places of a mask, [k, rank]."""
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_item = func is Tensor.item
        if func in _OPAQUE or (is_item and not (args[0].is_floating_point() or args[0].dtype == torch.bool)):
            raise OpaqueError(f"{getattr(func, '__name__', func)} takes a number from the model's values")
        if func in _CHOICES or is_item:
            self.note([value for value in args if isinstance(value, Tensor)])
            answer = self.ask(func(*args, **kwargs) if isinstance(self, _Asking) else None)
            return _number(answer, self.ask) if type(answer) is float else answer
        found = _masked(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        mask, go_on = found
        return go_on(self.places(mask))


class _Asking(_Mode):
    """Writes down what is asked; the first answers may be given."""

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__()
        self.given, self.way = list(given), Way()

    def ask(self, answer: Any) -> Any:
        if len(self.way.asked) < len(self.given):
            answer = self.given[len(self.way.asked)]
        self.way.asked.append(Asked(_line(), answer))
        return answer

    def places(self, mask: Tensor) -> Tensor:
        found = mask.nonzero()
        self.way.asked.append(Asked(_line(), len(found)))
        return found


class _Answering(_Mode):
    """Gives the answers that are written down, in the same order."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way, self.count = way, 0

    def ask(self, answer: Any) -> Any:
        if self.count == len(self.way.asked):
            raise RuntimeError("the model asks more of its values than in the pass before")
        self.count += 1
        return self.way.asked[self.count - 1].answer

    def note(self, values: list[Tensor]) -> None:
        torch.ops.lmc_fast.asked(values)

    def places(self, mask: Tensor) -> Tensor:
        found: Tensor = torch.ops.lmc_fast.places(mask, self.ask(None))
        return found


def _masked(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Callable[[Tensor], Any]] | None:
    """The mask whose places an operation looks for, and what it gives of these; None of any other."""
    if func in _NONZERO:
        if kwargs.get("as_tuple") or (len(args) > 1 and args[1]):
            return args[0], lambda places: places.unbind(1)
        return args[0], lambda places: places
    if func is torch.where and len(args) == 1:
        return args[0], lambda places: places.unbind(1)
    if func is torch.masked_select or func is Tensor.masked_select:
        value, mask = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
        return mask, lambda places: value[places.unbind(1)]
    if func is Tensor.__getitem__:
        value, index = args
        several = list(index) if isinstance(index, tuple) else [index]
        masks = [k for k, each in enumerate(several) if isinstance(each, Tensor) and each.dtype == torch.bool]
        if len(masks) == 1:
            (k,) = masks
            before, after = several[:k], several[k + 1 :]
            return several[k], lambda places: value[tuple(before) + places.unbind(1) + tuple(after)]
    return None


def _line() -> str:
    """The line of the model's code that asks."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if not frame.f_code.co_filename.startswith("<") and _HERE not in path.parents and _TORCH not in path.parents:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@contextlib.contextmanager
def answering(module: nn.Module, way: Way) -> Iterator[None]:
    """Have a model's questions answered as on a way, at every forward pass."""
    mode = _Answering(way)

    def begin(*_: Any) -> None:
        mode.count = 0

    handle = module.register_forward_pre_hook(begin)
    try:
        with mode:
            yield
    finally:
        handle.remove()


def ways(run: Callable[[], None], failures: tuple[type[BaseException], ...]) -> Iterator[Way]:
    """The ways of a model: as it goes by itself, and with the other answer at each line that asks yes or no.

    Args:
        run: the forward pass.
        failures: what it may raise where it was given an answer.
    """
    seen: set[tuple[str, bool]] = set()
    todo: list[list[Any]] = [[]]
    while todo:
        given = todo.pop(0)
        mode = _Asking(given)
        try:
            with mode:
                run()
        except failures as error:
            if not given or isinstance(error, OpaqueError):
                raise
            continue
        asked = mode.way.asked
        yield mode.way
        seen |= {(each.line, each.answer) for each in asked if isinstance(each.answer, bool)}
        for count, each in enumerate(asked):
            if isinstance(each.answer, bool) and (each.line, not each.answer) not in seen:
                seen.add((each.line, not each.answer))
                todo.append([*(one.answer for one in asked[:count]), not each.answer])


# Stand-ins, of which no more is looked at than what they take and the shapes of what they give.
@torch.library.custom_op("lmc_fast::asked", mutates_args=())
def _asked(values: list[Tensor]) -> Tensor:
    return values[0].new_zeros(())


@_asked.register_fake
def _(values: list[Tensor]) -> Tensor:
    return values[0].new_zeros(())


@torch.library.custom_op("lmc_fast::places", mutates_args=())
def _places(mask: Tensor, count: int) -> Tensor:
    return mask.new_zeros((count, mask.ndim), dtype=torch.int64)


@_places.register_fake
def _(mask: Tensor, count: int) -> Tensor:
    return mask.new_zeros((count, mask.ndim), dtype=torch.int64)


# Nothing uses what it gives, and it has to stay.
torch.fx.node.has_side_effect(torch.ops.lmc_fast.asked.default)


@rule("lmc_fast.asked")
def _of_asked(look: Look) -> Dims:
    """[1], or [...] and [...] laid over each other -> []: the answer is the same for all of them together."""
    look.broadcast(look.of(node) for node in look.tensors())
    return []


@rule("lmc_fast.places")
def _of_places(look: Look) -> Dims:
    """[...] -> [k, rank]: places of a mask, which are told apart."""
    return look.all_pinned("chosen by a mask")[0]
