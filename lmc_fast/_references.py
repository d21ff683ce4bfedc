"""What refers to a module in ways that `copy.deepcopy` does not follow, led from the original over to the copy.

Functions and weak references are handed to a copy as they are: a forward that was put on the module as a closure, a
hook that reads an attribute of the module around its layer, a part that knows its parent by a weak reference would
compute with the weights of the original. The same holds for what is in an object that cannot be copied.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Iterable, MutableMapping
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["PROXIES", "deep_copied", "led_over"]

T = TypeVar("T")

PROXIES = (weakref.ProxyType, weakref.CallableProxyType)
# Nothing is behind them, or nothing that is a module's own.
_ENDS = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, Tensor, str, bytes, int, float, complex)
_AT_ONCE = (tuple, set, frozenset, types.MethodType, functools.partial, weakref.ref)
_WAYS = ("__new__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__")


def deep_copied(value: T, memo: dict[int, Any]) -> T:
    """As `copy.deepcopy`, with all references of the copy led over to it."""
    twin = copy.deepcopy(value, memo)
    led_over(twin, memo)
    return twin


def led_over(twin: object, memo: dict[int, Any]) -> None:
    """Let what is within a copy refer to copies where it refers to originals.

    Args:
        twin: the copy; what was made for it is changed in place. Things that it shares with the original are not:
            where they refer to one, the copy gets shallow copies of these.
        memo: of `copy.deepcopy`, which made it.
    """
    _Leading(memo).lead(twin)


class _Leading:
    def __init__(self, memo: dict[int, Any]) -> None:
        # Without what stands for itself and the list by which `copy.deepcopy` keeps things alive.
        self.copies = {key: made for key, made in memo.items() if key not in (id(memo), id(made))}
        self.owned = {id(made) for made in self.copies.values()}
        self.reaching: set[int] = set()
        self.done: dict[int, Any] = {}
        # Known by where they are, so that they must stay there.
        self.held: list[Any] = []

    def lead(self, twin: object) -> None:
        self.owned.add(id(twin))
        self._search(twin)
        self._new(twin)

    def _search(self, root: object) -> None:
        """Find everything behind which there is an original."""
        behind: dict[int, list[int]] = {}
        found: list[int] = []
        waiting: list[Any] = [root]
        seen = {id(root)}
        while waiting:
            value = waiting.pop()
            self.held.append(value)
            for entry in self._entries(value):
                if id(entry) in self.copies:
                    found.append(id(value))
                    continue
                behind.setdefault(id(entry), []).append(id(value))
                if id(entry) not in seen:
                    seen.add(id(entry))
                    waiting.append(entry)
        while found:
            place = found.pop()
            if place not in self.reaching:
                self.reaching.add(place)
                found += behind.get(place, ())

    def _entries(self, value: Any) -> Iterable[Any]:
        """What a value refers to."""
        if type(value) in PROXIES or isinstance(value, weakref.ref):
            # Others than originals are held by somebody else, who knows nothing of copies.
            referent = _referent(value)
            known = isinstance(referent, types.MethodType) or id(referent) in self.copies
            return (referent,) if known else ()
        if isinstance(value, _ENDS):
            return ()
        if isinstance(value, types.FunctionType):
            held = (value.__defaults__, value.__kwdefaults__, value.__dict__)
            return (*(value.__closure__ or ()), *(entry for entry in held if entry))
        if isinstance(value, types.CellType):
            # One that is not filled yet has no contents.
            return (value.cell_contents,) if value != types.CellType() else ()
        if isinstance(value, types.MethodType):
            return (value.__func__, value.__self__)
        if isinstance(value, functools.partial):
            return (value.func, *value.args, *value.keywords.values())
        if isinstance(value, dict):
            return (*dict.keys(value), *dict.values(value))
        if isinstance(value, (list, tuple, set, frozenset)):
            return value
        attributes = getattr(value, "__dict__", None)
        # Of what was not made here it must be known how to make another.
        if type(attributes) is dict and (id(value) in self.owned or _is_plain(type(value))):
            return attributes.values()
        return ()

    def _new(self, value: Any) -> Any:
        """What stands for a value in the copy: itself where there is no original behind it."""
        place = id(value)
        if place in self.copies:
            return self.copies[place]
        if place not in self.reaching:
            return value
        if place not in self.done:
            # Made first and filled then: it may be behind itself.
            if type(value) in PROXIES:
                self.done[place] = weakref.proxy(self.copies[id(_referent(value))])
            elif isinstance(value, types.FunctionType):
                self._function(value)
            elif isinstance(value, dict):
                self._dict(value)
            elif isinstance(value, list):
                made = self._target(value, list)
                for index, entry in enumerate(list(value)):
                    list.__setitem__(made, index, self._new(entry))
            elif isinstance(value, _AT_ONCE):
                self.done[place] = self._made_at_once(value)
            else:
                self._object(value)
        return self.done[place]

    def _target(self, value: Any, kind: type) -> Any:
        """What is to be filled: the value itself where it was made for the copy."""
        another: Any = kind if type(value) is kind else copy.copy
        made = self.done[id(value)] = value if id(value) in self.owned else another(value)
        return made

    def _dict(self, value: dict[Any, Any]) -> None:
        items = list(dict.items(value))
        made = self._target(value, dict)
        if any(id(key) in self.copies or id(key) in self.reaching for key, _ in items):
            items = [(self._new(key), entry) for key, entry in items]
            made.clear()
        for key, entry in items:
            dict.__setitem__(made, key, self._new(entry))

    def _object(self, value: Any) -> None:
        if id(value) in self.owned:
            made = value
        else:
            made = object.__new__(type(value))
            made.__dict__.update(value.__dict__)
        self.done[id(value)] = made
        held: MutableMapping[str, Any] = made.__dict__
        for name, entry in list(held.items()):
            held[name] = self._new(entry)

    def _function(self, value: types.FunctionType) -> None:
        cells = value.__closure__ or ()
        # The contents of a cell come last, since they may be the function.
        ours = {id(cell): types.CellType() for cell in cells if id(cell) in self.reaching and id(cell) not in self.done}
        self.done.update(ours)
        closure = tuple(self.done.get(id(cell), cell) for cell in cells)
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, closure)
        self.done[id(value)] = made
        for cell in cells:
            if id(cell) in ours:
                ours[id(cell)].cell_contents = self._new(cell.cell_contents)
        made.__defaults__ = self._new(value.__defaults__)
        made.__kwdefaults__ = self._new(value.__kwdefaults__)
        made.__dict__.update(self._new(value.__dict__))
        for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(made, name, getattr(value, name))

    def _made_at_once(self, value: Any) -> Any:
        if isinstance(value, types.MethodType):
            return types.MethodType(self._new(value.__func__), self._new(value.__self__))
        if isinstance(value, functools.partial):
            keywords = {name: self._new(entry) for name, entry in value.keywords.items()}
            return type(value)(self._new(value.func), *map(self._new, value.args), **keywords)
        if isinstance(value, weakref.WeakMethod):
            # Of a method that is another object at each look.
            return weakref.WeakMethod(self._made_at_once(value()))
        if isinstance(value, weakref.ref):
            return weakref.ref(self.copies[id(value())])
        entries = [self._new(entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)


def _referent(value: Any) -> Any:
    """What a weak reference or a proxy refers to; None where that is gone."""
    if type(value) not in PROXIES:
        return value()
    try:
        # A bound method of the referent's, which knows it.
        return value.__repr__.__self__
    except ReferenceError:
        return None


def _is_plain(kind: type) -> bool:
    """Whether `object.__new__` makes its objects, and their attributes are all of them."""
    return all(getattr(kind, way, None) is getattr(object, way, None) for way in _WAYS)
