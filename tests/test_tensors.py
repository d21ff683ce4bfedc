"""Kinds of tensor: which are computed with, which are gathered first, which are refused."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from lmc_fast._models import check_numbers, counted_names, tensors_of
from lmc_fast._tensors import addresses, addresses_at_once, check_dense, identities, plain, tensor_identity

CPU = torch.device("cpu")


class Named(Tensor):
    """A subclass that adds a word and takes nothing into its own hands."""

    word = "mine"


class Doubling(Tensor):
    """A subclass whose __torch_function__ changes what operations mean."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("the package must not run operations through a caller's subclass")


def freed() -> Tensor:
    tensor = torch.randn(6, 4)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut_short() -> Tensor:
    tensor = torch.randn(6, 4)
    tensor.untyped_storage().resize_(40)
    return tensor


def cut_behind_an_offset() -> Tensor:
    tensor = torch.randn(12, 4)[6:]
    tensor.untyped_storage().resize_(6 * 4 * 4)
    return tensor


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.empty(6, 4)


def of_vmap() -> Tensor:
    found = []
    torch.vmap(lambda x: (found.append(x), x.sum())[1])(torch.randn(3, 6, 4))
    return found[0]


def of_grad() -> Tensor:
    found = []
    torch.func.grad(lambda x: (found.append(x), x.sum())[1])(torch.randn(6, 4))
    return found[0]


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse_coo": (lambda: torch.randn(6, 4).to_sparse(), "layout sparse_coo"),
    "sparse_csr": (lambda: torch.randn(6, 4).to_sparse_csr(), "layout sparse_csr"),
    "sparse_csc": (lambda: torch.randn(6, 4).to_sparse_csc(), "layout sparse_csc"),
    "sparse_bsr": (lambda: torch.randn(6, 4).to_sparse_bsr((2, 2)), "layout sparse_bsr"),
    "mkldnn": (lambda: torch.randn(6, 4).to_mkldnn(), "layout _mkldnn"),
    "nested": (lambda: torch.nested.nested_tensor([torch.randn(6, 4)]), "a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([torch.randn(6, 4)], layout=torch.jagged), "a nested tensor"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.randn(6, 4), 0.1, 0, torch.qint8), "a quantised tensor"),
    "meta": (lambda: torch.empty(6, 4, device="meta"), "meta device"),
    "fake": (fake, "a FakeTensor, whose numbers lie elsewhere"),
    "wrapper": (lambda: TwoTensor(torch.randn(6, 4), torch.randn(6, 4)), "a TwoTensor, whose numbers lie elsewhere"),
    "functional": (lambda: torch._to_functional_tensor(torch.randn(6, 4)), "without memory of its own"),
    "vmap": (of_vmap, "without memory of its own"),
    "grad": (of_grad, "without memory of its own"),
    "freed": (freed, r"freed or cut short \(0 of 96 bytes\)"),
    "cut short": (cut_short, r"freed or cut short \(40 of 96 bytes\)"),
    "cut behind an offset": (cut_behind_an_offset, r"freed or cut short \(96 of 192 bytes\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_dense_numbers_is_refused_by_name(kind: str) -> None:
    make, says = REFUSED[kind]
    tensor = make()
    with pytest.raises(ValueError, match=rf"model\['w'\] must be a dense tensor with data, got .*{says}"):
        tensors_of("model", {"w": tensor})
    with pytest.raises(ValueError, match=rf"x must be a dense tensor with data, got .*{says}"):
        check_dense("x", tensor)
    with pytest.raises(ValueError, match=r"x must be"):
        addresses("x", [tensor], CPU, (torch.float32,))
    assert addresses_at_once([tensor], CPU, (torch.float32,)) is None


def wide_negative() -> Tensor:
    return torch.randn(6, 4, dtype=torch.complex64).conj().imag


TAKEN: dict[str, Callable[[], Tensor]] = {
    "parameter": lambda: nn.Parameter(torch.randn(6, 4)),
    "buffer": lambda: nn.Buffer(torch.randn(6, 4)) if hasattr(nn, "Buffer") else torch.randn(6, 4),
    "subclass": lambda: torch.randn(6, 4).as_subclass(Named),
    "subclass of its own functions": lambda: torch.randn(6, 4).as_subclass(Doubling),
    "parameter subclass": lambda: nn.Parameter(torch.randn(6, 4).as_subclass(Named)),
    "transposed": lambda: torch.randn(4, 6).T,
    "with an offset": lambda: torch.randn(9, 4)[3:],
    "expanded": lambda: torch.randn(1, 4).expand(6, 4),
    "lazy negative": wide_negative,
    "lazy conjugate": lambda: torch.randn(6, 4, dtype=torch.complex64).conj(),
    "odd address": lambda: torch.frombuffer(bytearray(range(97)), dtype=torch.int32, offset=1).reshape(6, 4),
    "inference": lambda: torch.inference_mode()(lambda: torch.randn(6, 4))(),
    "float8": lambda: torch.randn(6, 4).to(torch.float8_e4m3fn),
    "bool": lambda: torch.randn(6, 4) > 0,
    "uint16": lambda: torch.arange(24).reshape(6, 4).to(torch.uint16),
    "empty": lambda: torch.empty(0, 4),
    "scalar": lambda: torch.tensor(3.0),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_has_dense_numbers_comes_in_as_the_base_class(kind: str) -> None:
    given = TAKEN[kind]()
    with torch._C.DisableTorchFunctionSubclass():
        expected = given.detach().as_subclass(Tensor).resolve_neg().resolve_conj().clone()
    found = plain("x", given)
    assert type(found) is Tensor
    assert not found.requires_grad
    assert not found.is_neg()
    assert not found.is_conj()
    assert found.data_ptr() % found.element_size() == 0
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(found.to(torch.complex64), expected.to(torch.complex64))


def test_nothing_is_copied_that_can_be_read_where_it_is() -> None:
    given = torch.randn(6, 4)
    for tensor in (given, given.T, given.as_subclass(Named), nn.Parameter(given)):
        assert plain("x", tensor).data_ptr() == given.data_ptr()


def test_shapes_are_enough_where_nobody_looks_at_numbers() -> None:
    for make in (lambda: torch.empty(6, 4, device="meta"), fake):
        (found,) = tensors_of("model", {"w": make()}, shapes_only=True).values()
        assert found.shape == (6, 4)
    with pytest.raises(ValueError, match="layout sparse_coo"):
        tensors_of("model", {"w": torch.randn(6, 4).to_sparse()}, shapes_only=True)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_numbers_that_are_not_summed_are_told_apart(dtype: torch.dtype) -> None:
    tensors = tensors_of("model", {"w": torch.zeros(3).to(dtype)})
    with pytest.raises(ValueError, match=rf"model\['w'\] must be a dense float16.*, got {dtype}"):
        check_numbers("model", tensors)
    check_numbers("model", {"w": torch.zeros(3), "n": torch.zeros(3, dtype=torch.uint8)})


# Identity.


def test_different_tensors_are_never_tied() -> None:
    base = torch.zeros(1)
    z = torch.randn(6, 4, dtype=torch.complex64)
    shards = torch.randn(6, 4)
    pairs = {
        "freed": (freed(), freed()),
        "empty": (torch.empty(0), torch.empty(0)),
        "meta": (torch.empty(3, device="meta"), torch.empty(3, device="meta")),
        "fake": (fake(), fake()),
        "wrapper": (TwoTensor(shards, shards), TwoTensor(shards.clone(), shards)),
        "expanded": (base.expand(6, 4), base.expand(6, 4)),
        "expanded otherwise": (base.expand(6, 4), base.expand(4, 6)),
        "negative": (z.imag, z.conj().imag),
        "conjugate": (z, z.conj()),
        "sparse": (shards.to_sparse(), shards.to_sparse()),
        "nested": (torch.nested.nested_tensor([shards]), torch.nested.nested_tensor([shards])),
        "vmap": (of_vmap(), of_vmap()),
        "other part": (shards[:3], shards[3:]),
        "other strides": (shards[:4], shards[:4].T),
        "other dtype": (shards, shards.view(torch.int32)),
    }
    for name, (a, b) in pairs.items():
        assert tensor_identity(a) != tensor_identity(b), name
        assert tensor_identity(a) == tensor_identity(a), name
        one, two, again = identities([a, b, a])
        assert one == again != two, name


@pytest.mark.parametrize("odd", [False, True], ids=["ordinary", "one is not"])
def test_tensors_are_told_apart_at_once_as_one_by_one(odd: bool) -> None:
    whole = torch.zeros(4, 6)
    tensors = [whole, whole[:2], whole.detach(), nn.Parameter(whole), whole.view(6, 4), whole.view(torch.int32)]
    tensors += [torch.zeros(4, 6), torch.tensor(0), torch.tensor(0)]
    tensors += [whole.T] if odd else []
    singly, found = list(map(tensor_identity, tensors)), identities(tensors)
    for i, one in enumerate(tensors):
        for k in range(len(tensors)):
            assert (found[i] == found[k]) == (singly[i] == singly[k]), (i, k, one.shape)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_weights_are_seen_through_a_state_dict(device: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4, device=device), nn.Linear(4, 4, device=device))
    model[1].weight = model[0].weight
    tensors = tensors_of("model", model, shapes_only=True)
    assert tensor_identity(tensors["0.weight"]) == tensor_identity(tensors["1.weight"])
    assert tensor_identity(tensors["0.bias"]) != tensor_identity(tensors["1.bias"])


def test_a_tied_tensor_that_has_to_be_computed_stays_one() -> None:
    lazy = wide_negative()
    tensors = tensors_of("model", {"a": lazy, "b": lazy.detach(), "c": wide_negative()})
    assert counted_names({}, tensors) == ["a", "c"]
    with FakeTensorMode():
        one = torch.empty(3)
        tensors = tensors_of("model", {"a": one, "b": one.detach(), "c": torch.empty(3)}, shapes_only=True)
    assert tensor_identity(tensors["a"]) == tensor_identity(tensors["b"]) != tensor_identity(tensors["c"])


# Distributed tensors, on the one rank that a test has.


@pytest.fixture
def mesh() -> Iterator[Any]:
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh

    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"tcp://127.0.0.1:{port}")
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["sharded", "replicated", "partial"])
def test_distributed_tensors_are_gathered(mesh: Any, how: str) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    full = torch.randn(6, 4)
    placement = {"sharded": Shard(0), "replicated": Replicate(), "partial": Partial()}[how]
    given = DTensor.from_local(full, mesh, [placement])
    found = tensors_of("model", {"w": nn.Parameter(given)})["w"]
    assert type(found) is Tensor
    assert not found.requires_grad
    assert torch.equal(found, full)
    assert tensors_of("model", {"w": given}, shapes_only=True)["w"].shape == full.shape


def test_two_names_of_one_distributed_parameter_are_one(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for layer in module:
        layer.weight = nn.Parameter(distribute_tensor(torch.randn(4, 4), mesh, [Shard(0)]))
    assert counted_names(module, tensors_of("model", module)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    module[1].weight = module[0].weight
    tensors = tensors_of("model", module)
    assert tensor_identity(tensors["0.weight"]) == tensor_identity(tensors["1.weight"])
    assert counted_names(module, tensors) == ["0.weight", "0.bias", "1.bias"]


def test_a_collective_under_way_is_waited_for(mesh: Any) -> None:
    from torch.distributed import _functional_collectives as collectives

    full = torch.randn(6, 4)
    given = collectives.all_gather_tensor(full, 0, mesh)
    assert type(given) is not Tensor
    assert torch.equal(plain("x", given), full)


# Addresses.


def test_addresses_are_given_out_for_what_is_in_memory_alone() -> None:
    tensors = [torch.randn(3, k) for k in range(1, 7)]
    expected = [tensor.data_ptr() for tensor in tensors]
    assert addresses("x", tensors, CPU, (torch.float32,)) == expected
    assert addresses_at_once(tensors, CPU, (torch.float32,)) == expected
    for wrong, error, says in (
        (torch.zeros(3).double(), TypeError, "x must hold float32, got torch.float64"),
        (wide_negative(), ValueError, "x must hold computed numbers, got a lazy negative"),
        (np.zeros(3), TypeError, "x must be a tensor, got a ndarray"),
        (torch.frombuffer(bytearray(41), dtype=torch.float32, offset=1), ValueError, "multiples of 4 bytes"),
        (freed(), ValueError, "freed"),
    ):
        for given in ([wrong], [*tensors, wrong]):
            with pytest.raises(error, match=says):
                addresses("x", given, CPU, (torch.float32,))
    with pytest.raises(ValueError, match="x must be on cuda:0, got a tensor on cpu"):
        addresses("x", tensors, torch.device("cuda", 0), (torch.float32,))
