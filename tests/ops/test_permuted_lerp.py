"""Permuted interpolation on the CPU: sums written out by hand, the compiled core against the reference, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.permuted_lerp import naive, permuted_lerp, permuted_lerp_many

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Blocks of every length that the core treats in its own way: entries, short and middle runs, long ones, cut ones.
SHAPES = [
    (),
    (1,),
    (2, 3),
    (63, 1),
    (5, 4, 3, 2),
    (3, 1000),
    (4097, 3),
    (33, 17, 3, 3),
    (6, 40, 9),
    (2, 150, 9),
    (3, 40, 49),
    (3, 5, 140),
    (2, 5000),
]
Gather = tuple[Tensor | None, ...]


def draw_gather(shape: tuple[int, ...], share: float = 0.6) -> Gather:
    return tuple(torch.randperm(n) if float(torch.rand(())) < share else None for n in shape)


def draw_tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    """Standard normal; "transposed": last dimension outermost in memory, "sliced": every second entry of each row."""
    if layout == "transposed":
        return torch.randn(shape[::-1]).to(dtype).permute(tuple(reversed(range(len(shape)))))
    if layout == "sliced":
        return torch.randn((*shape, 2)).to(dtype)[..., 1]
    return torch.randn(shape).to(dtype)


def exact_sum(tensors: list[Tensor], weights: list[float], gathers: list[Gather]) -> Tensor:
    shape = tensors[0].shape
    expected = torch.zeros(shape, dtype=torch.float64)
    for tensor, weight, indices in zip(tensors, weights, gathers, strict=True):
        places = [torch.arange(n) if i is None else i for i, n in zip(indices, shape, strict=True)]
        grid = torch.meshgrid(*places, indexing="ij") if places else ()
        expected += weight * tensor.double()[grid]
    return expected


def relative_error(out: Tensor, exact: Tensor) -> float:
    return float((out.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", [(1,), (2, 3), (63, 1), (5, 4, 3, 2)], ids=str)
def test_the_reference_is_the_weighted_sum_of_gathered_tensors(shape: tuple[int, ...]) -> None:
    tensors = [torch.randn(shape) for _ in range(3)]
    gathers = [draw_gather(shape, 1.0), (None,) * len(shape), draw_gather(shape, 1.0)]
    out = naive.permuted_lerp(tensors, [0.5, -0.25, 2.0], gathers)
    torch.testing.assert_close(out.double(), exact_sum(tensors, [0.5, -0.25, 2.0], gathers), rtol=1e-6, atol=1e-6)
    assert all(out.data_ptr() != tensor.data_ptr() for tensor in tensors)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_core_is_the_reference(dtype: torch.dtype, shape: tuple[int, ...], layout: str) -> None:
    for models in (1, 2, 3):
        # The first tensor lies in order, so that both ways of reading meet in one sum.
        tensors = [draw_tensor(shape, dtype, layout if m else "contiguous") for m in range(models)]
        gathers = [draw_gather(shape) for _ in range(models)]
        weights = torch.randn(models).tolist()
        out = permuted_lerp(tensors, weights, gathers, backend="native")
        assert out.dtype == dtype and out.is_contiguous()
        exact = exact_sum(tensors, weights, gathers)
        # Rounded once: the nearest number of its dtype, or the next where float32's own rounding tips the scale.
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), exact, rtol=0.51 * eps + 1e-6 * (eps > 1e-10), atol=3e-7)


@pytest.mark.parametrize("shape", [(64, 1000), (30, 20, 3, 3)], ids=str)
def test_float32_keeps_its_digits(shape: tuple[int, ...]) -> None:
    tensors = [torch.randn(shape) for _ in range(2)]
    gathers = [draw_gather(shape, 1.0) for _ in range(2)]
    out = permuted_lerp(tensors, [0.3, 0.7], gathers, backend="native")
    assert relative_error(out, exact_sum(tensors, [0.3, 0.7], gathers)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_number_comes_through(dtype: torch.dtype) -> None:
    """Zeros, subnormal numbers, infinities and NaN, by vectors and by what is left over at the end."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    out = permuted_lerp([every], [1.0], [(None,)], backend="native")
    assert torch.equal(out.isnan(), every.isnan())
    assert torch.equal(out[~out.isnan()], every[~every.isnan()])
    for start in range(3):
        part = every[start * 9000 : start * 9000 + 37]
        halves = permuted_lerp([part, part], [0.25, 0.5], [(None,), (None,)], backend="native")
        torch.testing.assert_close(halves, (0.75 * part.double()).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_model_and_several_lambdas_at_once(dtype: torch.dtype) -> None:
    shapes = [(40, 30), (40,), (), (0, 3), (30, 8, 3, 3), (1, 70000), (700, 300)]
    tensors = [[torch.randn(shape).to(dtype) for _ in range(2)] for shape in shapes]
    gathers = [[(None,) * len(shape), draw_gather(shape)] for shape in shapes]
    weights = [[1 - lam, lam] for lam in (0.0, 0.25, 1.0)]
    results = permuted_lerp_many(tensors, weights, gathers)
    for row, lam in zip(results, weights, strict=True):
        for part, indices, out in zip(tensors, gathers, row, strict=True):
            assert torch.equal(out, permuted_lerp(part, lam, indices))
    for k, m in ((0, 0), (2, 1)):
        for part, indices, out in zip(tensors, gathers, results[k], strict=True):
            assert torch.equal(out, naive.permuted_lerp([part[m]], [1.0], [indices[m]]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1050, 4100), (300, 1600, 9)], ids=str)
def test_outputs_larger_than_a_cache_are_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """They are written around it, by whole lines and by what is left over where a run begins amid one."""
    tensors = [torch.randn(shape).to(dtype) for _ in range(2)]
    gathers: list[Gather] = [
        (None,) * len(shape),
        (torch.randperm(shape[0]), torch.randperm(shape[1]), None)[: len(shape)],
    ]
    whole = torch.full((tensors[0].numel() + 1,), torch.nan, dtype=dtype)
    out = whole[1:].view(shape)
    permuted_lerp(tensors, [0.5, 0.5], gathers, out=out, backend="native")
    assert torch.equal(out, naive.permuted_lerp(tensors, [0.5, 0.5], gathers))
    assert whole[0].isnan()


def test_threads_do_not_change_the_result() -> None:
    shapes = [(300, 1001), (5, 40001), (700,)]
    tensors = [[torch.randn(shape) for _ in range(3)] for shape in shapes]
    gathers = [[draw_gather(shape) for _ in range(3)] for shape in shapes]
    results = []
    was = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(permuted_lerp_many(tensors, [[0.2, 0.3, 0.5]], gathers, backend="native")[0])
    finally:
        torch.set_num_threads(was)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_out_is_written_and_returned(backend: str) -> None:
    tensors = [torch.randn(40, 60) for _ in range(2)]
    gathers = [draw_gather((40, 60), 1.0) for _ in range(2)]
    expected = naive.permuted_lerp(tensors, [0.5, 0.5], gathers)
    for out in (torch.full((40, 60), torch.nan), torch.full((60, 40), torch.nan).T):
        assert permuted_lerp(tensors, [0.5, 0.5], gathers, out=out, backend=backend) is out
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_mixed_dtypes_are_summed_in_the_wider_one(backend: str) -> None:
    a, b = torch.randn(50).half(), torch.randn(50, dtype=torch.float64)
    out = permuted_lerp([a, b], [0.5, 0.5], [(None,), (None,)], backend=backend)
    assert out.dtype == torch.float16
    assert torch.equal(out, (0.5 * a.double() + 0.5 * b).half())


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_tensor_of_weight_zero_is_not_read(backend: str) -> None:
    a, b = torch.ones(300), torch.full((300,), torch.nan)
    one, none = permuted_lerp_many([[a, b]], [[1.0, 0.0], [0.0, 0.0]], [[(None,), (None,)]], backend=backend)
    assert torch.equal(one[0], a) and torch.equal(none[0], torch.zeros(300))


def test_negated_views_are_seen_as_negated() -> None:
    tensor = torch.randn(5, dtype=torch.complex64).conj().imag
    assert tensor.is_neg()
    assert torch.equal(permuted_lerp([tensor], [1.0], [(None,)]), tensor.clone())


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_gradients_are_inverse_gathers(backend: str) -> None:
    shape = (3, 4, 2)
    gathers = [draw_gather(shape, 1.0), draw_gather(shape, 0.5)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def several(*flat: Tensor) -> tuple[Tensor, ...]:
        rows = permuted_lerp_many([flat], [[0.3, 0.7], [0.0, -2.0]], [gathers], backend=backend)
        return tuple(out for row in rows for out in row)

    assert torch.autograd.gradcheck(several, tensors)
    assert torch.autograd.gradgradcheck(several, tensors)


def test_gradients_are_those_of_the_reference() -> None:
    shapes = [(7, 33), (33,), (9, 4, 3, 3)]
    gathers = [[draw_gather(shape), draw_gather(shape)] for shape in shapes]
    grads = []
    leaves = [[torch.randn(shape, requires_grad=m == 1) for m in range(2)] for shape in shapes]
    for run in (permuted_lerp_many, naive.permuted_lerp_many):
        outs = run(leaves, [[0.4, 0.6], [0.1, 0.9]], gathers)
        loss = torch.stack([(out * out).sum() for row in outs for out in row]).sum()
        grads.append(torch.autograd.grad(loss, [part[1] for part in leaves]))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_gradient_through_what_is_no_permutation() -> None:
    tensor = torch.randn(3, requires_grad=True)
    out = permuted_lerp([tensor], [1.0], [(torch.tensor([0, 0, 1]),)])
    with pytest.raises(RuntimeError, match="gradients through permutations only"):
        out.sum().backward()


def test_no_graph_without_need() -> None:
    tensor = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert not permuted_lerp([tensor], [1.0], [(None,)]).requires_grad


def test_indices_beyond_their_dimension_are_refused() -> None:
    for wrong, dims in itertools.product((-1, 3), (0, 1)):
        index = torch.tensor([0, wrong, 2])
        gathers: Gather = (index, None) if dims == 0 else (None, index)
        with pytest.raises(IndexError, match=rf"gathers\[0\]\[0\]\[{dims}\] must hold indices of its dimension"):
            permuted_lerp([torch.randn(3, 3)], [1.0], [gathers], backend="native")


def test_bad_input_is_named() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    none = (None, None)
    with pytest.raises(ValueError, match=r"tensors\[0\]\[1\] must have the shape of the first, \(2, 3\), got \(3, 2\)"):
        permuted_lerp([a, b.T], [0.5, 0.5], [none, none])
    with pytest.raises(TypeError, match=r"tensors\[0\]\[0\] must be a dense float16"):
        permuted_lerp([a.int()], [1.0], [none])
    with pytest.raises(ValueError, match=r"weights\[0\] must have one entry for each of 2 tensors, got 1"):
        permuted_lerp([a, b], [1.0], [none, none])
    with pytest.raises(ValueError, match=r"gathers\[0\]\[1\] must have one entry for each of 2 dimensions, got 1"):
        permuted_lerp([a, b], [0.5, 0.5], [none, (None,)])
    with pytest.raises(ValueError, match=r"gathers\[0\]\[0\]\[1\] must have shape \(3,\), got \(2,\)"):
        permuted_lerp([a], [1.0], [(None, torch.arange(2))])
    with pytest.raises(TypeError, match=r"gathers\[0\]\[0\]\[0\] must be an int64 tensor or None"):
        permuted_lerp([a], [1.0], [(torch.tensor([0, 1], dtype=torch.int32), None)])
    with pytest.raises(ValueError, match=r"out\[0\]\[0\] must have shape \(2, 3\), dtype torch\.float32"):
        permuted_lerp([a], [1.0], [none], out=torch.empty(3, 2))
    with pytest.raises(ValueError, match=r"out\[0\]\[0\] must share no memory"):
        permuted_lerp([a], [1.0], [none], out=a)
    with pytest.raises(TypeError, match=r"tensors\[0\]\[0\] must be a tensor, got 1"):
        permuted_lerp([1], [1.0], [none])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="out must hold 1 rows of 1 tensors"):
        permuted_lerp_many([[a]], [[1.0]], [[none]], out=[])
    with pytest.raises(ValueError, match=r"tensors\[1\] must hold 1 tensors, got 2"):
        permuted_lerp_many([[a], [a, b]], [[1.0]], [[none], [none, none]])
    with pytest.raises(ValueError, match="backend must be one of"):
        permuted_lerp([a], [1.0], [none], backend="cuda")
    assert permuted_lerp_many([], [[1.0]], []) == [[]]


def test_an_index_that_fits_one_part_is_checked_for_the_next() -> None:
    index = torch.tensor([1, 0, 2])
    tensors = [[torch.randn(3)], [torch.randn(3)], [torch.randn(4)]]
    with pytest.raises(ValueError, match=r"gathers\[2\]\[0\]\[0\] must have shape \(4,\), got \(3,\)"):
        permuted_lerp_many(tensors, [[1.0]], [[(index,)]] * 3)
    with pytest.raises(TypeError, match=r"gathers\[1\]\[0\]\[0\] must be an int64 tensor or None"):
        permuted_lerp_many(tensors[:2], [[1.0]], [[(index,)], [(index.int(),)]])


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_out_may_lie_beside_the_tensors_but_not_on_them(layout: str) -> None:
    """Each part against its own tensors: all places but one are right, and that one by a single entry is not."""
    memory = torch.zeros(5, 12)
    flat = memory.view(-1)

    def cut(start: int) -> Tensor:
        found = flat[start : start + 12].view(3, 4)
        return found if layout == "contiguous" else found.view(4, 3).T

    tensors = [[torch.randn(3, 4), torch.randn(3, 4)], [cut(0), cut(24)]]
    gathers: list[list[Gather]] = [[(None, None)] * 2] * 2
    (right,) = permuted_lerp_many(tensors, [[0.5, 0.5]], gathers, out=[[torch.empty(3, 4), cut(12)]])
    assert right[1].data_ptr() == flat[12:].data_ptr()
    for start in (11, 13, 35, 24):
        with pytest.raises(ValueError, match=r"out\[0\]\[1\] must share no memory"):
            permuted_lerp_many(tensors, [[0.5, 0.5]], gathers, out=[[torch.empty(3, 4), cut(start)]])
