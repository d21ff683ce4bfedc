"""Gains of norms that may go into the linear maps that read them, found in exported graphs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch.export.graph_signature import InputKind
from torch.fx import Node

from ..folds import Fold, Reader
from .gain import Gain, Read
from .light import Program
from .look import packet_name
from .places import SAME, SHAPED, VIEWS, Place, letter, onward, origin, shape_of, written
from .term import Pin

__all__ = ["Gain", "Gains"]

NORMS = ("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
# What a weight may go through before it is used.
_LAID = (
    *SAME,
    *SHAPED,
    *("aten.transpose", "aten.permute", "aten.t", "aten.expand", "aten.index", "aten.index_select", "aten.select"),
    *("aten.slice", "aten.split", "aten.chunk", "aten.unbind", "getitem", "operator.getitem"),
)


class Gains:
    """The gains of a model's graphs.

    Args:
        identities: by name what is equal for the names of one tied tensor.
    """

    def __init__(self, identities: Mapping[str, Hashable]) -> None:
        self.identities = identities
        self.gains: dict[str, Gain] = {}
        # The parameters among the inputs of all graphs, and the prefixes of these.
        self.names: dict[Node, str] = {}
        self.prefixes: dict[Node, str] = {}

    def see(self, program: Program, prefix: str) -> None:
        """Find the gains of one graph."""
        places = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        nodes = list(program.graph.nodes)
        for node in nodes:
            self.prefixes[node] = prefix
            place = places.get(node.name) if node.op == "placeholder" else None
            if place is not None and place.kind == InputKind.PARAMETER:
                name = f"{prefix}{place.target}"
                if name in self.identities:
                    self.names[node] = name
        for node in nodes:
            if node.op == "call_function":
                self._look_at(node)

    def settle(self) -> None:
        """Follow every gain to what reads it, after the last graph."""
        for gain in self.gains.values():
            self._check_uses(gain)
            if gain.why is None and gain.bias is not None:
                gain.keeps_bias = not self._follow(gain, is_affine=True) or any(r.bias is None for r in gain.reads)
            if gain.why is None and (gain.bias is None or gain.keeps_bias) and not self._write(gain):
                self._follow(gain, is_affine=False)
        self.check_shared()

    def at(self, node: Node) -> tuple[frozenset[Node], Pin | None]:
        """Of an operation the arguments that are the same everywhere in pure form; or why its gain stays."""
        for gain in self.gains.values():
            if node in gain.uses and gain.why is not None:
                return frozenset(), gain.why
            if gain.why is None:
                found = {*gain.uses.get(node, ()), *(() if gain.keeps_bias else gain.adds.get(node, ()))}
                if found:
                    return frozenset(found), None
        return frozenset(), None

    def folds(self, gain: Gain) -> Fold:
        """What a spec says of a gain that can be folded."""
        readers: dict[Reader, None] = {}
        for read in gain.reads:
            takes_bias = read.bias is not None and gain.bias is not None and not gain.keeps_bias
            bias = self.names[read.bias] if read.bias is not None and takes_bias else None
            place = read.place
            one = Reader("", read.axis, bias, place.offset, place.outer, place.inner)
            for name, tied in self._names_there(read):
                readers[replace(one, parameter=name, tied=tied)] = None
        return Fold(gain.weight, tuple(readers), gain.bias, gain.keeps_bias, gain.neutral)

    def users(self, node: Node) -> Iterator[Node]:
        """The operations that a parameter goes into, past what only lays it out anew."""
        for user in node.users:
            if packet_name(user.target) in _LAID and user.args and user.args[0] is node:
                yield from self.users(user)
            elif user.op == "output" or user.meta.get("val") is not None:
                yield user

    def named(self, name: str) -> list[Node]:
        """The inputs of graphs that are this parameter, whatever it is called there."""
        return [node for node, other in self.names.items() if self.identities[other] == self.identities[name]]

    def name_at(self, user: Node, node: Node) -> str | None:
        """Of a tied parameter the name that belongs to the part of the model whose operation this is."""
        tied = self.tied(self.names[node])
        stack: Any = list((user.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]).partition("@")[0] if stack else ""
        found = [name for name in tied if name.rpartition(".")[0] == f"{self.prefixes[user]}{path}"]
        return found[0] if len(found) == 1 else None

    def tied(self, name: str) -> list[str]:
        """All names of a parameter."""
        return [other for other, identity in self.identities.items() if identity == self.identities[name]]

    def reading(self, name: str) -> set[Node]:
        """Operations that read folded gains through a parameter that is untied then."""
        gains = [gain for gain in self.gains.values() if gain.why is None]
        return {
            read.user
            for gain in gains
            for read in gain.reads
            if self.names[read.weight] in self.tied(name) and self._names_there(read)[0][1] is not None
        }

    def is_mean_free(self, name: str, dim: int) -> bool:
        """Whether LayerNorms alone read what a parameter writes along a dimension: its mean changes nothing."""
        ahead = [(node, Place(dim)) for node in self.named(name)]
        skipped, seen = self.reading(name), set(ahead)
        while ahead:
            node, place = ahead.pop()
            for user in node.users:
                if user in skipped or (user.op != "output" and user.meta.get("val") is None):
                    continue
                folded = any(user in gain.uses for gain in self.gains.values() if gain.why is None)
                is_scale = folded and packet_name(user.target) == "aten.mul"
                # A scale that is folded is 1.
                steps = [(user, place)] if is_scale else written(user, node, place)
                if steps is None:
                    return False
                ahead += [step for step in steps if step not in seen]
                seen |= set(steps)
        return bool(seen)

    def _look_at(self, node: Node) -> None:
        name = packet_name(node.target)
        if name in NORMS:
            shape: Any = node.args[1]
            weight = node.args[2] if len(node.args) > 2 else node.kwargs.get("weight")
            bias = (node.args[3] if len(node.args) > 3 else node.kwargs.get("bias")) if "layer_norm" in name else None
            if len(shape) == 1 and isinstance(weight, Node):
                self._note(node, weight, bias if isinstance(bias, Node) else None)
        elif name in ("aten.mul", "aten.multiply") and len(node.args) == 2:
            for own, other in (node.args, node.args[::-1]):
                if isinstance(own, Node) and isinstance(other, Node) and self._vector(own) and not self._vector(other):
                    self._note(node, own, None)

    def _vector(self, node: Node) -> tuple[Node, float] | None:
        """The parameter [n] that a value is, and what has been added to it."""
        added = 0.0
        while node.op == "call_function":
            name = packet_name(node.target)
            source: Any = node.args[0] if node.args else None
            if name == "aten.add" and len(node.args) == 2 and not node.kwargs:
                numbers = [each for each in node.args if isinstance(each, (int, float))]
                values = [each for each in node.args if isinstance(each, Node)]
                if len(numbers) != 1:
                    return None
                added, source = added + float(numbers[0]), values[0]
            elif name not in (*SAME, *SHAPED) or shape_of(node)[-1:] != shape_of(source)[-1:]:
                return None
            if not isinstance(source, Node):
                return None
            node = source
        return (node, added) if node in self.names and len(shape_of(node)) == 1 else None

    def _note(self, node: Node, weight: Node, bias: Node | None) -> None:
        found = self._vector(weight)
        if found is None or shape_of(node)[-1] != shape_of(found[0])[0]:
            return
        source, added = found
        name = self.names[source]
        output = node
        users = [user for user in node.users if user.meta.get("val") is not None]
        if packet_name(node.target) in ("aten.native_layer_norm", "aten._fused_rms_norm"):
            output = next((user for user in users if user.args[1] == 0), node)
        elif bias is None and packet_name(node.target) not in NORMS:
            while len(users) == 1 and packet_name(users[0].target) in SAME:
                users = [user for user in users[0].users if user.meta.get("val") is not None]
            if len(users) == 1 and packet_name(users[0].target) == "aten.add":
                vectors = [each for each in users[0].args if isinstance(each, Node) and self._vector(each)]
                if len(vectors) == 1 and shape_of(vectors[0])[-1] == shape_of(source)[0]:
                    output, bias = users[0], vectors[0]
        of_bias = None if bias is None else self._vector(bias)
        gain = self.gains.setdefault(name, Gain(name, neutral=1.0 - added))
        gain.uses.setdefault(node, set()).add(weight)
        gain.outputs.append(output)
        bias_name = None if of_bias is None else self.names[of_bias[0]]
        if gain.neutral != 1.0 - added or (len(gain.uses) > 1 and gain.bias != bias_name):
            gain.refuse(node, "it is used in two ways")
        if (bias is None) != (of_bias is None) or (of_bias is not None and of_bias[1]):
            gain.refuse(node, "what is added to it is no parameter")
        gain.bias = bias_name
        if bias is not None:
            gain.adds.setdefault(output if output is not node and bias in output.args else node, set()).add(bias)

    def _check_uses(self, gain: Gain) -> None:
        """Refuse a gain or a bias that is used elsewhere, too."""
        for name, uses in ((gain.weight, gain.uses), (gain.bias, gain.adds)):
            if name is None:
                continue
            if len(self.tied(name)) > 1:
                gain.refuse(next(iter(gain.uses)), f"{name!r} is tied to {self.tied(name)[1]!r}")
            for node in self.named(name):
                for user in self.users(node):
                    # A gain of 1 + weight is added to first.
                    own = uses if name != gain.weight or gain.neutral == 1.0 else {*uses, *_sums(node)}
                    if user not in own:
                        gain.refuse(user, f"{name!r} is used elsewhere as well")

    def _follow(self, gain: Gain, *, is_affine: bool) -> bool:
        """Find all that reads a gain; whether it is read by linear maps alone.

        Args:
            is_affine: with the norm's bias; without it a failure is the gain's.
        """
        seen: set[tuple[Node, Place]] = set()
        ahead = [(output, Place(len(shape_of(output)) - 1)) for output in gain.outputs]
        gain.reads = []
        while ahead:
            node, place = ahead.pop()
            if (node, place) in seen:
                continue
            seen.add((node, place))
            for user in node.users:
                if user.op == "output":
                    if not is_affine:
                        gain.refuse(user, "the model gives it")
                    return False
                if user.meta.get("val") is None:
                    continue
                read = self._read(user, node, place, is_affine=is_affine)
                steps = None if read else onward(user, node, place, is_affine=is_affine)
                if read:
                    gain.reads.append(read)
                elif steps is None:
                    if not is_affine:
                        gain.refuse(user, "this is no linear map that sums over it with a parameter of its own")
                    return False
                else:
                    ahead += steps
        if not gain.reads and not is_affine:
            gain.refuse(gain.outputs[0], "nothing reads it")
        return bool(gain.reads)

    def _write(self, gain: Gain) -> bool:
        """Whether linear maps alone write what a gain multiplies, and nothing else reads these: scales of layers."""
        gain.reads = []
        for node, own in gain.uses.items():
            if packet_name(node.target) in NORMS:
                return False
            others = [each for each in node.all_input_nodes if each not in own]
            value: Node | None = others[0] if others else None
            user = node
            while value is not None and len(_tensors(value)) == 1 and packet_name(value.target) in (*SAME, *VIEWS):
                source: Any = value.args[0]
                is_whole = shape_of(source)[-1:] == shape_of(value)[-1:]
                user, value = value, source if is_whole else None
            name = "" if value is None or value.op != "call_function" else packet_name(value.target)
            if value is None or name not in ("aten.linear", "aten.addmm") or _tensors(value) != [user]:
                return False
            weight, bias = (
                (value.args[1], value.args[2:3]) if name == "aten.linear" else (value.args[2], value.args[:1])
            )
            written = [(weight, 0 if name == "aten.linear" else 1), *((each, 0) for each in bias if each is not None)]
            for each, axis in written:
                found = origin(each, axis)
                if found is None or found[0] not in self.names:
                    return False
                gain.reads.append(Read(*found, None, Place(found[1]), value))
        return bool(gain.reads)

    def _read(self, user: Node, node: Node, place: Place, *, is_affine: bool) -> Read | None:
        """The linear map that an operation is, if it sums over the units of this value with a parameter."""
        name, args = packet_name(user.target), user.args
        rank = len(shape_of(node))
        weight: Any = None
        bias: Any = None
        if name == "aten.linear" and args[0] is node and args[1] is not node and place.dim == rank - 1:
            weight, axis = args[1], len(shape_of(args[1])) - 1
            bias = args[2] if len(args) > 2 else None
        elif name in ("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.addmm", "aten.baddbmm"):
            start = 1 if "add" in name else 0
            bias = args[0] if start else None
            one, other = args[start], args[start + 1]
            if one is node and other is not node and place.dim == rank - 1:
                weight, axis = other, max(0, len(shape_of(other)) - 2)
            elif other is node and one is not node and place.dim == max(0, rank - 2):
                weight, axis = one, len(shape_of(one)) - 1
            # A sum of one column each is no vector of sums.
            bias = bias if weight is other else None
            if start and bias is None and weight is not None:
                return None
        elif name == "aten.einsum":
            weight, axis = letter(user, node, place)
        elif name in ("aten.conv1d", "aten.conv2d", "aten.conv3d") and args[0] is node:
            groups = args[6] if len(args) > 6 else 1
            padding: Any = args[4] if len(args) > 4 else 0
            is_padded = any(padding) if isinstance(padding, (list, tuple)) else padding != 0
            if groups == 1 and place.dim == rank - len(shape_of(args[1])) + 1 and not (is_affine and is_padded):
                weight, axis = args[1], 1
                bias = args[2] if len(args) > 2 else None
        if weight is None:
            return None
        found = origin(weight, axis)
        of_bias = None if bias is None else origin(bias, 0)
        own_bias = of_bias[0] if of_bias is not None and of_bias[0] in self.names else None
        if found is None or found[0] not in self.names or (is_affine and bias is not None and own_bias is None):
            return None
        return Read(found[0], found[1], own_bias, place, user)

    def _names_there(self, read: Read) -> list[tuple[str, str | None]]:
        """The names of a reader's weight that read the gain, each with the name that it is untied from."""
        name = self.names[read.weight]
        tied = self.tied(name)
        there = self.name_at(read.user, read.weight)
        elsewhere = [other for other in self._others(read) if other is not None]
        if not elsewhere or there is None:
            return [(other, None) for other in tied]
        return [(there, elsewhere[0])]

    def _others(self, read: Read) -> list[str | None]:
        """Names under which a reader's weight is used by what reads none of the gains; None: it has none there."""
        reading = {each.user for gain in self.gains.values() for each in gain.reads}
        users = [(user, node) for node in self.named(self.names[read.weight]) for user in self.users(node)]
        return [self.name_at(user, node) for user, node in users if user not in reading]

    def check_shared(self) -> None:
        """Refuse gains whose readers read something else as well: under a name of their own they are untied."""
        is_new = True
        while is_new:
            is_new = False
            for gain in self.gains.values():
                gain.reads = gain.reads if gain.why is None else []
            ways: dict[Hashable, dict[Node, set[tuple[str, int, Place]]]] = {}
            for gain in self.gains.values():
                for read in gain.reads:
                    of_weight = ways.setdefault(self.identities[self.names[read.weight]], {})
                    of_weight.setdefault(read.user, set()).add((gain.weight, read.axis, replace(read.place, dim=0)))
            for gain in self.gains.values():
                for read in gain.reads:
                    name = self.names[read.weight]
                    several = ways[self.identities[name]]
                    others, there = self._others(read), self.name_at(read.user, read.weight)
                    is_mixed = any(other is None or other == there for other in others) or (others and there is None)
                    if is_mixed:
                        gain.refuse(read.user, f"{name!r} is used elsewhere as well")
                    elif len({frozenset(way) for way in several.values()}) > 1:
                        gain.refuse(read.user, f"{name!r} reads other values as well")
                    if gain.why is not None:
                        is_new = True
                        break


def _tensors(node: Node) -> list[Node]:
    """The operations that use a value, those without a result left out."""
    return [user for user in node.users if user.op == "output" or user.meta.get("val") is not None]


def _sums(node: Node) -> Collection[Node]:
    """Operations that add a number to a parameter, and what they are used by."""
    found = [
        user
        for user in node.users
        if packet_name(user.target) in (*SAME, "aten.add") and len(user.all_input_nodes) == 1
    ]
    return {*found, *(each for user in found for each in _sums(user))}
