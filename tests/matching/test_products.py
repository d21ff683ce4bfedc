"""Products that gains are summed from: the same bits by any number of threads, and torch's own number put back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lmc_fast.matching.engine import products
from lmc_fast.matching.engine.products import Products, at_most, threads_for

# Units and entries: one thread's share at least for each of four, shares that are not alike, columns that are few.
SIZES = [(256, 512), (300, 800), (257, 1000), (640, 40)]
LAID_OUT = {"rows": lambda x: x, "columns": lambda x: x.T.contiguous().T}


@pytest.fixture(autouse=True)
def threads_are_put_back() -> Iterator[None]:
    found = torch.get_num_threads()
    yield
    torch.set_num_threads(found)


@pytest.fixture
def any_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0.0)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", LAID_OUT.values(), ids=LAID_OUT.keys())
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("any_is_large")
def test_a_sum_has_the_same_bits_by_any_number_of_threads(size: tuple[int, int], layout: object) -> None:
    units, entries = size
    assert callable(layout)
    a, b, before = layout(drawn(0, units, entries)), layout(drawn(1, units, entries)), drawn(2, units, units)
    wanted = a.double() @ b.double().T
    found = {}
    for threads in (1, 2, 3, 4, 5):
        for by_rows in (False, True):
            torch.set_num_threads(threads)
            new, more = torch.full((units, units), float("nan")), before.clone()
            each = Products(by_rows)
            each.add(new, a, b, is_new=True)
            each.add(more, a, b, is_new=False)
            assert torch.get_num_threads() == threads
            found[threads, by_rows] = new, more
    for new, more in found.values():
        assert torch.equal(new, found[1, False][0])
        assert torch.equal(more, found[1, False][1])
    assert torch.allclose(found[1, False][0].double(), wanted, atol=1e-3)
    assert torch.allclose(found[1, False][1].double(), wanted + before, atol=1e-3)


class TestRows:
    def seen(self, units: int, threads: int, *, by_rows: bool = True, work: float = 1e9) -> dict[int, str]:
        """For each row the thread that had it, and how many threads torch had there."""
        torch.set_num_threads(threads)
        who: dict[int, str] = {}

        def task(rows: slice) -> None:
            for row in range(units)[rows]:
                assert row not in who
                who[row] = f"{threading.current_thread().name}, {torch.get_num_threads()}"

        Products(by_rows).over_rows(torch.empty(units, 1), task, work)
        assert torch.get_num_threads() == threads
        return who

    def test_each_is_taken_once_and_by_one_thread_of_torch(self) -> None:
        for threads in (2, 3, 4):
            who = self.seen(300, threads)
            assert sorted(who) == list(range(300))
            assert {name.split(", ")[1] for name in who.values()} == {"1"}
            assert who[0].startswith(threading.current_thread().name)
            assert who[299].startswith("lmc_fast products")

    def test_a_thread_that_has_more_of_torchs_gives_them_up(self) -> None:
        torch.set_num_threads(2)
        found: dict[int, int] = {}
        each = Products(by_rows=True)

        def task(rows: slice) -> None:
            found[rows.start] = torch.get_num_threads()
            torch.set_num_threads(2)

        for _ in range(2):
            each.over_rows(torch.empty(300, 1), task, 1e9)
        assert found == {0: 1, 128: 1}

    def test_shares_are_whole_numbers_of_units_that_a_product_comes_out_the_same_with(self) -> None:
        who = self.seen(300, 2)
        starts = [row for row in range(1, 300) if who[row] != who[row - 1]]
        assert starts == [128]

    @pytest.mark.parametrize(
        ("units", "threads", "by_rows", "work"),
        [(300, 1, True, 1e9), (300, 5, True, 1e9), (300, 2, False, 1e9), (300, 2, True, 1e5), (60, 2, True, 1e9)],
        ids=["one thread", "many threads", "not asked for", "little to do", "few rows"],
    )
    def test_else_the_caller_does_all(self, units: int, threads: int, by_rows: bool, work: float) -> None:
        who = self.seen(units, threads, by_rows=by_rows, work=work)
        assert sorted(who) == list(range(units))
        (one,) = set(who.values())
        assert one.startswith(threading.current_thread().name)

    def test_what_goes_wrong_is_told_when_all_have_ended(self) -> None:
        torch.set_num_threads(2)
        ended = []

        def task(rows: slice) -> None:
            if rows.start == 0:
                raise ValueError("the first rows")
            time.sleep(0.05)
            ended.append(rows)

        with pytest.raises(ValueError, match="the first rows"):
            Products(by_rows=True).over_rows(torch.empty(300, 1), task, 1e9)
        assert ended
        assert torch.get_num_threads() == 2

        def other(rows: slice) -> None:
            if rows.start != 0:
                raise ValueError("other rows")

        with pytest.raises(ValueError, match="other rows"):
            Products(by_rows=True).over_rows(torch.empty(300, 1), other, 1e9)


def test_threads_are_no_more_than_asked_for_and_put_back() -> None:
    torch.set_num_threads(3)
    for most, wanted in ((2, 2), (3, 3), (8, 3)):
        with at_most(most):
            assert torch.get_num_threads() == wanted
        assert torch.get_num_threads() == 3


def test_few_units_are_multiplied_by_few_threads() -> None:
    assert [threads_for(units) for units in (1, 63, 64, 127, 128, 1024)] == [1, 1, 1, 1, 2, 16]
