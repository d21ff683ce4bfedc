"""Triton kernels against their references in float64: on a GPU (-m gpu), or in Triton's interpreter.

The interpreter takes processes of its own, which `test_kernels_pass_in_the_interpreter` starts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from benchmarks import models
from lmc_fast.matching.engine import descent
from lmc_fast.matching.engine import gains as kept_gains
from lmc_fast.matching.engine import terms as kept_terms
from lmc_fast.ops.gain_matrix import (
    Term,
    gain_candidates,
    gain_matrices,
    gain_matrix,
    gain_matrix_and_candidates,
)
from lmc_fast.ops.gain_matrix import naive as gain_naive
from lmc_fast.ops.permuted_lerp import naive as lerp_naive
from lmc_fast.ops.permuted_lerp import permuted_lerp, permuted_lerp_many
from lmc_fast.ops.spectral_overlap import spectral_overlap

from ..slow import slow_but
from .candidates import assert_promised
from .interpreting import interpret_quickly

pytest.importorskip("triton", reason="Triton is not installed: pip install 'lmc_fast[triton]'")

HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32]
EITHER = slow_but(FLOATS, lambda dtype: dtype != torch.float16)


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that kernels run on; in the interpreter with small tiles, so that small inputs fill several."""
    if request.param == "cpu":
        from lmc_fast.ops.gain_matrix import triton as gain
        from lmc_fast.ops.gain_matrix import triton_candidates as candidates
        from lmc_fast.ops.gain_matrix import triton_halves as halves
        from lmc_fast.ops.gain_matrix import triton_pack as pack
        from lmc_fast.ops.gain_matrix.configs import Config
        from lmc_fast.ops.permuted_lerp import triton as lerp
        from lmc_fast.ops.spectral_overlap import triton as overlap

        interpret_quickly(monkeypatch)
        small = Config(16, 32, 16, 4, 2, 2)
        monkeypatch.setattr(gain, "DEFAULTS", dict.fromkeys(gain.DEFAULTS, (small, small, small)))
        monkeypatch.setattr(gain, "half_configs", lambda k, device: (small,))
        monkeypatch.setattr(halves, "SPLIT_TILE", (16, 32, 4))
        monkeypatch.setattr(halves, "PADDED", 16)
        monkeypatch.setattr(candidates, "SEARCH_TILE", (32, 16, 4))
        monkeypatch.setattr(candidates, "MERGE_ENTRIES", 512)
        monkeypatch.setattr(pack, "PACK_TILE", (16, 32, 4))
        monkeypatch.setattr(lerp, "CONFIG", (2, 32, 4))
        monkeypatch.setattr(overlap, "CONFIG", (16, 32, 16, 4, 2))
    return str(request.param)


def test_kernels_pass_in_the_interpreter(request: pytest.FixtureRequest) -> None:
    """Those of `test_halves.py`, too: one process for both."""
    files = [__file__, str(Path(__file__).with_name("test_halves.py"))]
    is_slow = request.config.getoption("--slow")
    every = ["--slow"] if is_slow else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "interpreter", *every, *files],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= (110 if is_slow else 85), done.stdout
    assert "skipped" not in done.stdout


def permutation(n: int, device: str) -> Tensor:
    return torch.randperm(n).to(device)


def draw_gather(shape: tuple[int, ...], device: str, share: float = 0.6) -> tuple[Tensor | None, ...]:
    return tuple(permutation(n, device) if float(torch.rand(())) < share else None for n in shape)


# Interpolation.


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64], ids=str)
def test_interpolation_of_a_model(dtype: torch.dtype, device: str) -> None:
    shapes = [(), (1,), (2, 3), (9, 1), (5, 4, 3, 2), (3, 70), (5, 4, 3, 3), (2, 64), (0, 3), (3, 2, 2, 2, 2)]
    if device == "cuda":
        shapes += [(63, 1), (9, 8, 3, 3), (3, 100), (1000, 1003), (512, 256, 3, 3), (4096,), (2, 70000)]
    tensors = [[torch.randn(shape, device=device).to(dtype) for _ in range(3)] for shape in shapes]
    gathers = [[draw_gather(shape, device) for _ in range(3)] for shape in shapes]
    weights = [[0.5, -0.25, 2.0], [0.0, 1.0, 0.0]]
    results = permuted_lerp_many(tensors, weights, gathers, backend="triton")
    doubles = [[tensor.double() for tensor in part] for part in tensors]
    for row, exact in zip(results, lerp_naive.permuted_lerp_many(doubles, weights, gathers), strict=True):
        for out, expected in zip(row, exact, strict=True):
            assert out.dtype == dtype and out.shape == expected.shape
            # The interpreter cuts where a GPU rounds to bfloat16.
            share = 1.01 if (device, dtype) == ("cpu", torch.bfloat16) else 0.51
            rounding = share * torch.finfo(dtype).eps + (0 if dtype == torch.float64 else 1e-6)
            torch.testing.assert_close(out.double(), expected, rtol=rounding, atol=1e-6)


def test_interpolation_of_strided_tensors(device: str) -> None:
    a = torch.randn(40, 48, device=device)
    b, c = torch.randn(48, 40, device=device).T, torch.randn(40, 96, device=device)[:, ::2]
    gathers = [(None, None), draw_gather((40, 48), device, 1.0), draw_gather((40, 48), device, 1.0)]
    out = torch.full_like(a, torch.nan)
    permuted_lerp([a, b, c], [0.2, 0.3, 0.5], gathers, out=out, backend="triton")
    torch.testing.assert_close(out, lerp_naive.permuted_lerp([a, b, c], [0.2, 0.3, 0.5], gathers))


def test_interpolation_reads_nothing_of_weight_zero(device: str) -> None:
    a, b = torch.ones(33, device=device), torch.full((33,), torch.nan, device=device)
    out = permuted_lerp([a, b], [1.0, 0.0], [(None,), (None,)], backend="triton")
    assert torch.equal(out, a)


def test_interpolation_has_the_gradients_of_its_reference(device: str) -> None:
    shapes = [(7, 33), (33,), (4, 3, 3, 3)]
    gathers = [[draw_gather(shape, device), draw_gather(shape, device)] for shape in shapes]
    leaves = [[torch.randn(shape, device=device, requires_grad=m == 1) for m in range(2)] for shape in shapes]
    grads = []
    for options in ({"backend": "triton"}, {"backend": "torch"}):
        outs = permuted_lerp_many(leaves, [[0.4, 0.6], [0.1, 0.9]], gathers, **options)
        loss = torch.stack([(out * out).sum() for row in outs for out in row]).sum()
        grads.append(torch.autograd.grad(loss, [part[1] for part in leaves]))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_interpolation_passes_gradcheck(device: str) -> None:
    gathers = [draw_gather((2, 3), device, 1.0)]
    tensor = torch.randn(2, 3, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: permuted_lerp([t], [0.7], gathers, backend="triton"), [tensor])


def test_interpolation_refuses_indices_beyond_their_dimension(device: str) -> None:
    for wrong in (-1, 3):
        index = torch.tensor([0, wrong, 2], device=device)
        with pytest.raises(IndexError, match="gathers must hold indices of their dimensions"):
            permuted_lerp([torch.ones(3, device=device)], [1.0], [(index,)], backend="triton")


# Gain matrices.


def terms_of(kind: str, n: int, k: int, dtype: torch.dtype, device: str) -> list[Term]:
    """Terms of every layout that a parameter can have; k: about how many entries a unit has."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    k9 = max(1, k // 9)
    old, new = permutation(k, device), permutation(k, device)
    moved = torch.arange(0, k, 3, device=device)
    kinds = {
        "plain": lambda: [Term(draw(n, k), draw(n, k), (0,), (None, None))],
        "rows": lambda: [Term(draw(n, k), draw(n, k), (0,), (None, new))],
        "columns": lambda: [Term(draw(k, n), draw(k, n), (1,), (new, None))],
        "sliced": lambda: [Term(draw(n, 2 * k)[:, ::2], draw(2 * n, k)[::2], (0,), (None, new))],
        "convolution": lambda: [
            Term(draw(n, k9, 3, 3), draw(n, k9, 3, 3), (0,), (None, permutation(k9, device), None, None))
        ],
        "convolution's inputs": lambda: [
            Term(draw(k9, n, 3, 3), draw(k9, n, 3, 3), (1,), (permutation(k9, device), None, None, None))
        ],
        "two unit dimensions": lambda: [Term(draw(2, k, n, 1), draw(2, k, n, 1), (0, 2), (None, new, None, None))],
        "bias": lambda: [Term(draw(n), draw(n), (0,), (None,))],
        "correction": lambda: [Term(draw(moved.numel(), n), draw(k, n), (1,), (new[moved], None), (old[moved], None))],
    }
    if kind == "group":
        names = ("rows", "columns", "convolution", "convolution's inputs", "bias", "bias", "correction")
        return [term for name in names for term in kinds[name]()]
    return kinds[kind]()


KINDS = (
    *("plain", "rows", "columns", "sliced", "convolution", "convolution's inputs", "two unit dimensions"),
    *("bias", "correction", "group"),
)


def error_of(gain: Tensor, terms: list[Term], base: Tensor | None = None) -> float:
    """Distance from the exact sum, relative to the root of the sum of all squared products: cancelling is no error."""
    doubles = [Term(t.a.double(), t.b.double(), t.units, t.gathers, t.before) for t in terms]
    exact = gain_naive.gain_matrix(doubles, None if base is None else base.double().clone())
    squares = [Term(t.a.double() ** 2, t.b.double() ** 2, t.units, t.gathers) for t in terms]
    scale = gain_naive.gain_matrix(squares, None if base is None else base.double() ** 2).sum().sqrt()
    return float((gain.double() - exact).norm() / scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", EITHER, ids=str)
def test_gains_are_exact_to_float32(dtype: torch.dtype, kind: str, device: str) -> None:
    for n, k in [(1, 5), (33, 30)] if device == "cpu" else [(1, 5), (63, 100), (1000, 1003), (700, 4096)]:
        terms = terms_of(kind, n, k, dtype, device)
        gain = gain_matrix(terms, backend="triton")
        assert gain.dtype == torch.float32
        assert error_of(gain, terms) < 1e-6
        units = gain.shape[0]
        base = torch.randn(units, units, device=device)
        was = base.clone()
        assert gain_matrix(terms, base, backend="triton") is base
        assert error_of(base, terms, was) < 1e-6


@pytest.mark.parametrize("precision", ["fp16x3", "tf32x3", "ieee"])
def test_gains_in_float32_keep_its_digits(precision: str, device: str) -> None:
    n, k = (40, 90) if device == "cpu" else (1000, 4096)
    terms = terms_of("rows", n, k, torch.float32, device)
    assert error_of(gain_matrix(terms, precision=precision, backend="triton"), terms) < 1e-6


@pytest.mark.parametrize("kind", slow_but(["rows", "columns", "group"], lambda kind: kind == "rows"))
def test_gains_split_along_the_entries_are_the_same_every_time(
    kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmc_fast.ops.gain_matrix import triton_cut as cut

    monkeypatch.setattr(cut, "_processors", lambda device: 64)
    k = 900 if device == "cuda" else 40 if kind == "group" else 150
    terms = terms_of(kind, 37, k, torch.float32, device)
    first = gain_matrix(terms, backend="triton")
    assert error_of(first, terms) < 1e-6
    assert torch.equal(gain_matrix(terms, backend="triton"), first)
    base = torch.randn(37, 37, device=device)
    was = base.clone()
    assert error_of(gain_matrix(terms, base, backend="triton"), terms, was) < 1e-6


@pytest.mark.parametrize("dtype", EITHER, ids=str)
def test_gains_of_many_groups_are_exact_to_float32(dtype: torch.dtype, device: str) -> None:
    """Every layout, sizes that fill no tile, one with nothing to sum; half of them added to what was there."""
    sizes = [(1, 5), (16, 9), (33, 9), (17, 4)] if device == "cpu" else [(1, 5), (63, 100), (256, 300), (1100, 64)]
    groups = [terms_of(kind, *sizes[g % 4], dtype, device) for g, kind in enumerate(KINDS)]
    nothing = torch.ones(7, 0, device=device, dtype=dtype)
    groups.append([Term(nothing, nothing, (0,), (None, None))])
    bases = [
        None if g % 2 else torch.randn(_size(terms), _size(terms) + 3, device=device)[:, :-3]
        for g, terms in enumerate(groups)
    ]
    were = [None if base is None else base.clone() for base in bases]
    gains = gain_matrices(groups, bases, backend="triton")
    for gain, terms, base, was in zip(gains, groups, bases, were, strict=True):
        assert gain.dtype == torch.float32 and gain.shape == (_size(terms),) * 2
        assert base is None or gain is base
        if terms[0].entry_count():
            assert error_of(gain, terms, was) < 1e-6
        else:
            assert torch.equal(gain, torch.zeros_like(gain) if was is None else was)
    again = gain_matrices(groups, were, backend="triton")
    assert all(torch.equal(one, other) for one, other in zip(again, gains, strict=True))


def _size(terms: list[Term]) -> int:
    return terms[0].unit_count()


def test_gains_of_many_groups_may_differ_in_dtype_and_have_no_terms(device: str) -> None:
    groups = [terms_of("rows", 20, 30, torch.bfloat16, device), [], terms_of("group", 9, 12, torch.float32, device)]
    base = torch.randn(5, 5, device=device)
    was = base.clone()
    first, second, third = gain_matrices(groups, [None, base, None], backend="triton")
    assert error_of(first, groups[0]) < 1e-6 and error_of(third, groups[2]) < 1e-6
    assert second is base and torch.equal(base, was)
    assert gain_matrices([], backend="triton") == []


def test_gains_of_units_in_many_dimensions_and_many_gathers(device: str) -> None:
    """More dimensions than the table of the kernel holds: laid out by torch first."""
    a, b = (torch.randn(2, 1, 2, 2, 2, 3, 2, 2, 2, 2, device=device).transpose(0, 4) for _ in range(2))
    gathers = tuple(None if d in (0, 2, 4, 6) else permutation(n, device) for d, n in enumerate(a.shape))
    old = tuple(None if index is None else index.flip(0) for index in gathers)
    terms = [Term(a, b, (0, 2, 4, 6), gathers, old), Term(a.bfloat16(), b.bfloat16(), (0, 2, 4, 6), gathers)]
    assert error_of(gain_matrix(terms, backend="triton"), terms) < 1e-6


def test_gains_of_two_dtypes_are_summed_in_the_wider_one(device: str) -> None:
    terms = terms_of("rows", 20, 30, torch.bfloat16, device) + terms_of("bias", 20, 30, torch.float32, device)
    assert error_of(gain_matrix(terms, backend="triton"), terms) < 1e-6


def test_a_search_finds_the_same_by_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains of groups apart come from one launch, and are corrected there by what has moved."""
    a, b = (models.randomise(models.small_mlp((20, 17, 33, 9)), seed=seed) for seed in (1, 2))
    spec = lmc.architectures.mlp(a)
    expected = lmc.weight_matching(a, b, spec)
    calls: list[int] = []

    def by_kernels(groups: Sequence[Sequence[Term]], bases: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(groups))
        return gain_matrices(groups, bases, backend="triton")

    monkeypatch.setattr(descent, "small_descent", lambda *_: None)
    monkeypatch.setattr(kept_terms, "at_once", lambda tensor: True)
    monkeypatch.setattr(kept_gains, "gain_matrices", by_kernels)
    monkeypatch.setattr(kept_terms, "gain_matrix", partial(gain_matrix, backend="triton"))
    found = lmc.weight_matching(a, b, spec, device=device)
    assert max(calls) > 1 and found.converged
    assert found.objective == pytest.approx(expected.objective, rel=1e-6)
    for name, choice in expected.permutations.choices.items():
        assert (found.permutations.choices[name] == choice).all()


def test_gains_refuse_what_they_cannot(device: str) -> None:
    double = terms_of("plain", 3, 4, torch.float64, device)
    with pytest.raises(RuntimeError, match="its matrix product has no float64 form"):
        gain_matrix(double, backend="triton")
    mixed = terms_of("plain", 3, 4, torch.float32, device) + terms_of("plain", 5, 4, torch.float32, device)
    with pytest.raises(ValueError, match=r"terms must have one number of units, got \[3, 5\]"):
        gain_matrix(mixed, backend="triton")


# Candidates of gains.


@pytest.mark.parametrize("kind", ["normal", "tied", "constant", "spread"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 63), (33, 70)])
def test_candidates_are_what_they_promise(n: int, m: int, kind: str, device: str) -> None:
    kinds = {
        "normal": lambda: torch.randn(n, m),
        "tied": lambda: torch.randint(0, 3, (n, m)).float(),
        "constant": lambda: torch.full((n, m), -2.5),
        # Columns far apart, none of whose tiles overflows.
        "spread": lambda: torch.randn(n, m) + 100 * (torch.arange(m) % 16 == 5),
    }
    gain, duals = kinds[kind]().to(device), torch.randn(m, dtype=torch.float64) * (0 if kind == "tied" else 3)
    for k in (1, 4, 12):
        found = gain_candidates(gain, duals, k, backend="triton")
        assert_promised(gain, duals, k, found)
        if k == 4:
            strided = gain_candidates(torch.cat([gain.T, gain.T]).T[:, :m], duals, k, backend="triton")
            assert all(torch.equal(mine, again) for mine, again in zip(strided, found, strict=True))
        reference = gain_naive.gain_candidates(gain, duals, k)
        assert (found.bounds >= reference.bounds).all()
        # Tiles of 16 columns keep 4 each: up to so many none leaves out what the reference lists.
        if (kind == "spread" and k == 4) or k == 1:
            assert torch.equal(found.bounds, reference.bounds)
            if kind != "constant" and kind != "tied":
                assert torch.equal(found.columns, reference.columns)


@pytest.mark.parametrize("width", [16, 64], ids=["three tiles", "one tile"])
def test_candidates_of_rows_that_are_not_finite_are_none(
    width: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmc_fast.ops.gain_matrix import triton_candidates as candidates

    monkeypatch.setattr(candidates, "SEARCH_TILE", (32, width, 4))
    gain, duals = torch.randn(6, 40, device=device), torch.randn(40)
    gain[1, 3], gain[2, 39], gain[4, 0] = torch.nan, torch.inf, -torch.inf
    # A difference beyond the numbers' range is none, too.
    gain[5, 20], duals[20] = -3e38, 3e38
    found = gain_candidates(gain, duals, 5, backend="triton")
    assert found.bounds.isinf().tolist() == [False, True, True, False, True, True]
    assert (found.columns[[1, 2, 4, 5]] == -1).all()
    # Each tile of a row keeps so many; a row that is one tile lists no more.
    listed = min(5, -(-40 // width) * candidates.KEPT)
    assert (found.columns[[0, 3], :listed] >= 0).all() and (found.columns[[0, 3], listed:] == -1).all()
    for mine, reference in zip(found, gain_naive.gain_candidates(gain, duals, 5), strict=True):
        assert mine.shape == reference.shape and mine.dtype == reference.dtype
    assert_promised(gain, duals, 5, found)


@pytest.mark.parametrize(
    ("kind", "dtype", "based", "split"),
    [
        ("rows", torch.bfloat16, False, False),
        ("correction", torch.float32, True, False),
        ("group", torch.float16, True, False),
        ("rows", torch.float32, True, True),
    ],
    ids=["half types", "a correction", "a group with a base", "split"],
)
def test_products_leave_the_candidates_of_their_gains(
    kind: str, dtype: torch.dtype, based: bool, split: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmc_fast.ops.gain_matrix import triton as gain
    from lmc_fast.ops.gain_matrix import triton_cut as cut

    # Of tiles alone.
    monkeypatch.setattr(gain.blas, "takes", lambda terms, precision: False)
    monkeypatch.setattr(cut, "_processors", lambda device: 64 if split else 1)
    searched = []
    monkeypatch.setattr(gain, "gain_candidates", lambda *args: searched.append(args) or gain_candidates(*args))
    # What is split must be small: only where tiles leave processors idle are there parts for them.
    n, k = (37, 130 if split else 9) if device == "cpu" else (150 if split else 700, 4096)
    terms = terms_of(kind, n, k, dtype, device)
    duals = torch.randn(n, dtype=torch.float64)
    base, other = (torch.ones(n, n + 3, device=device)[:, :-3] if based else None for _ in range(2))
    out, found = gain_matrix_and_candidates(terms, duals, 6, base, backend="triton")
    assert torch.equal(out, gain_matrix(terms, other, backend="triton"))
    assert base is None or out is base
    assert_promised(out, duals, 6, found)
    # A product in one pass is not read again.
    assert bool(searched) == split


def test_candidates_of_nothing(device: str) -> None:
    empty = torch.ones(0, 3, device=device)
    gain, found = gain_matrix_and_candidates(
        [Term(empty, empty, (0,), (None, None))], torch.zeros(0), 4, backend="triton"
    )
    assert gain.shape == (0, 0) and found.columns.shape == (0, 4) and found.bounds.shape == (0,)
    base = torch.randn(5, 5, device=device)
    gain, found = gain_matrix_and_candidates([], torch.zeros(5), 9, base, backend="triton")
    assert gain is base
    assert_promised(base, torch.zeros(5), 9, found)


def test_candidates_refuse_float64(device: str) -> None:
    gain = torch.ones(3, 3, dtype=torch.float64, device=device)
    with pytest.raises(RuntimeError, match="its search has no float64 form"):
        gain_candidates(gain, torch.zeros(3), backend="triton")


# Spectral overlap.


@pytest.mark.parametrize(("m", "n"), [(1, 1), (37, 50), (50, 20)])
def test_overlaps_are_those_of_the_reference(m: int, n: int, device: str) -> None:
    sides = []
    for _ in range(2):
        u, s, vh = torch.linalg.svd(torch.randn(m, n), full_matrices=False)
        sides += [u.to(device), s.to(device), vh.T.to(device)]
    gammas = (0.3, 0.0, 1.0)
    for rows, columns in ((None, None), (permutation(m, device), permutation(n, device))):
        found = spectral_overlap(*sides, rows, columns, gammas=gammas, backend="triton")
        doubles = [side.double() for side in sides]
        exact = spectral_overlap(*doubles, rows, columns, gammas=gammas, backend="torch")
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_overlaps_of_matrices_of_another_rank_and_nothing(device: str) -> None:
    u, s, v = (torch.randn(9, 4, device=device), torch.rand(4, device=device), torch.randn(7, 4, device=device))
    expected = spectral_overlap(u, s, v, u[:, :3], s[:3], v[:, :3], backend="torch")
    found = spectral_overlap(u, s, v, u[:, :3], s[:3], v[:, :3], backend="triton")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    nothing = spectral_overlap(u, s, v, u[:, :0], s[:0], v[:, :0], backend="triton")
    assert nothing.tolist() == [0.0, 0.0]


# Tuning.


def tuned_runs(device: str) -> dict[str, tuple[int, Callable[[], list[Tensor]]]]:
    """For each kernel how many configurations it has, and a run that asks for them; what it adds to stays as it was."""
    from lmc_fast.ops.gain_matrix import triton as gain
    from lmc_fast.ops.gain_matrix import triton_pack as pack
    from lmc_fast.ops.permuted_lerp import triton as lerp
    from lmc_fast.ops.spectral_overlap import triton as overlap

    kind = ("float32", "cuda" if torch.version.hip is None else "hip")
    plain = terms_of("plain", 20, 40, torch.float32, device)
    two = plain + terms_of("bias", 20, 40, torch.float32, device)
    bases = torch.randn(2, 20, 20, device=device)
    sides = [torch.randn(9, 4, device=device), torch.rand(4, device=device), torch.randn(7, 4, device=device)]
    return {
        "product_kernel": (
            len({*gain.DEFAULTS[kind], *gain.OTHERS[kind]}),
            lambda: [gain_matrix(plain, bases[0].clone(), backend="triton")],
        ),
        "grouped_kernel": (
            1 + len(gain.GROUPED_OTHERS[kind]),
            lambda: gain_matrices([plain, plain], [bases[0].clone(), None], backend="triton"),
        ),
        "pack_kernel": (
            1 + len(pack.PACK_OTHERS),
            lambda: [gain_matrix(two, bases[1].clone(), backend="triton")],
        ),
        "lerp_kernel": (
            1 + len(lerp.OTHERS),
            lambda: [permuted_lerp(sides[:1] * 2, [0.2, 0.8], [(None, None)] * 2, backend="triton")],
        ),
        "overlap_kernel": (1 + len(overlap.OTHERS), lambda: [spectral_overlap(*sides, *sides, backend="triton")]),
    }


TUNED = ["product_kernel", "grouped_kernel", "pack_kernel", "lerp_kernel", "overlap_kernel"]


@pytest.mark.parametrize("kernel", slow_but(TUNED, lambda kernel: kernel in ("product_kernel", "lerp_kernel")))
def test_kernels_are_tuned_only_when_asked(
    kernel: str, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each configuration is timed once, the result is the same by any, and the choice is kept."""
    import triton

    from lmc_fast.ops import tuning

    timed: list[float] = []

    def do_bench(run: Callable[[], object], return_mode: str) -> float:
        run()
        timed.append(-len(timed))
        return timed[-1]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    monkeypatch.setattr(tuning, "_chosen", {})
    monkeypatch.setenv("LMC_FAST_CACHE", str(tmp_path))
    count, run = tuned_runs(device)[kernel]
    expected = run()
    assert timed == []
    monkeypatch.setenv("LMC_FAST_AUTOTUNE", "1")
    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    for _ in range(2):
        for result, wanted in zip(run(), expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)
    files = {path.name.partition("-")[0]: path for path in tmp_path.rglob("*.json")}
    assert kernel in files
    kept = json.loads(files[kernel].read_text(encoding="utf-8"))
    assert len(kept["times"]) == count
    # The last is the fastest by this clock.
    assert kept["config"] == kept["times"][-1][0]
    assert len(timed) == sum(len(json.loads(path.read_text(encoding="utf-8"))["times"]) for path in files.values())
