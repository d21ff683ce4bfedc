"""What several processes do in one launch, case by case, beside what one does."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

import lmc_fast as lmc
from benchmarks import models as networks
from lmc_fast import Permutations
from lmc_fast._backend import Launch
from lmc_fast.checkpoints.conversions import Conversion
from lmc_fast.large import joining, merge_checkpoints, plan_merge, ranks, rebase_checkpoints
from lmc_fast.large.inputs import open_input
from lmc_fast.large.joining import is_first_rank
from lmc_fast.large.ranks import Ranks

from . import models
from .launched import launched
from .test_rotations import turned, turning_spec

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not dist.is_available() or not dist.is_gloo_available(), reason="processes that are forked"
)

MANY = ("A", "B", "C")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models; an adapter of the second; and pairs of other kinds of groups."""
    folder = tmp_path_factory.mktemp("work")
    a = models.weights(0)
    for name, state in (("A", a), ("B", models.planted(a, 1, 1.2)[0]), ("C", models.planted(a, 2, 1.2)[0])):
        models.write_directory(folder / name, state)
        save_file(state, folder / f"{name}.safetensors")
    generator = torch.Generator().manual_seed(5)
    outputs, inputs = models.shapes()["1.down.weight"]
    factors = {
        "lora_A": torch.randn(2, inputs, generator=generator),
        "lora_B": torch.randn(outputs, 2, generator=generator),
    }
    (folder / "lora").mkdir()
    adapter = {f"base_model.model.1.down.{name}.weight": x for name, x in factors.items()}
    save_file(adapter, folder / "lora" / "adapter_model.safetensors")
    (folder / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    for name, make, spec in (
        ("grouped", networks.FreeGroupedNet, networks.FreeGroupedNet.spec()),
        ("inputs", networks.SharedInputs, networks.SharedInputs.spec()),
        ("crossed", Crossed, Crossed.spec()),
        ("mlp", mlp, lmc.architectures.mlp(mlp())),
    ):
        spec.to_json(folder / f"{name}.json")
        state = seeded(make, 0)
        other = Permutations.random(spec.bind(state), 3).apply(state)
        noise = seeded(make, 1)
        save_file(state, folder / f"{name}-a.safetensors")
        for letter, share in (("b", 0.1), ("c", 0.2)):
            noisy = {key: (x + share * noise[key]).contiguous() for key, x in other.items()}
            save_file(noisy, folder / f"{name}-{letter}.safetensors")
    models.write_directory(folder / "T", turned(a, 1))
    return folder


def mlp() -> nn.Module:
    """With weights large enough to be led by their leading parts, which stand out."""
    sizes = [150, 300, 260, 180]
    layers: list[nn.Module] = []
    for m, n in pairwise(sizes):
        layer = nn.Linear(m, n)
        layer.weight.data += torch.randn(n, 6) @ torch.randn(6, m) / 10
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Crossed(nn.Module):
    """Units that are numbered by two groups, each in one order for all of the other's, and found nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.mix = nn.Linear(7, 30, bias=False), nn.Linear(30, 9, bias=False)

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        both = lmc.Segment("outer", inner=(lmc.Segment("inner"),))
        axes = {"read.weight": (both, None), "mix.weight": (None, both)}
        return lmc.PermutationSpec.from_axes(axes, [lmc.Group("outer", 5), lmc.Group("inner", 6)])


def seeded(make: Callable[[], nn.Module], seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: x.detach().clone() for name, x in make().state_dict().items()}


def cases(folder: Path) -> dict[str, Callable[[Path], object]]:
    spec: Any = models.spec()
    three = [folder / name for name in MANY]
    files = [folder / f"{name}.safetensors" for name in MANY]

    def of(kind: str, count: int, **options: Any) -> Callable[[Path], object]:
        paths = [folder / f"{kind}-{letter}.safetensors" for letter in "abc"[:count]]
        return lambda out: merge_checkpoints(*paths, out=out, spec=folder / f"{kind}.json", **options)

    return {
        "each over the first": lambda out: merge_checkpoints(*three, out=out, spec=spec),
        "in place": lambda out: merge_checkpoints(*three[:2], out=out, spec=spec, freeze=["D", "q0", "F1"]),
        "aligned": lambda out: merge_checkpoints(*three[:2], out=out, spec=spec, align_only=True, dtype="bfloat16"),
        "files.safetensors": lambda out: merge_checkpoints(*files, out=out, spec=spec),
        "rebased": lambda out: rebase_checkpoints(*three, out=out, spec=spec),
        "adapter": lambda out: rebase_checkpoints(folder / "lora", *three[1::-1], out=out, spec=spec),
        "turned": lambda out: merge_checkpoints(folder / "A", folder / "T", out=out, spec=turning_spec()),
        "turned together": lambda out: merge_checkpoints(
            folder / "A", folder / "T", out=out, spec=turning_spec(), method="merge_many"
        ),
        "led.safetensors": of("mlp", 2),
        "not led.safetensors": of("mlp", 2, search="coordinate_descent"),
        "relaxed.safetensors": of("mlp", 2, search="frank_wolfe"),
        "together.safetensors": of("mlp", 3, method="c2m3"),
        "inside each other.safetensors": of("grouped", 2),
        # As on a GPU: what a rank has is moved to its device, and all of it where the first leads.
        "led on a device.safetensors": of("mlp", 2, device="cpu"),
        "on a device.safetensors": of("grouped", 2, device="cpu", search="coordinate_descent"),
        "crossed.safetensors": of("crossed", 2, search="coordinate_descent"),
        "around each other.safetensors": of("inputs", 2, search="coordinate_descent"),
    }


def work(folder: Path, where: Path) -> None:
    where.mkdir(exist_ok=True)
    for name, case in cases(folder).items():
        case(where / name)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """What one process writes."""
    threads = torch.get_num_threads()
    # As the ranks have them: rotations are not whole numbers.
    torch.set_num_threads(1)
    work(folder, folder / "alone")
    torch.set_num_threads(threads)
    return folder / "alone"


@pytest.fixture(scope="module")
def together(folder: Path) -> Path:
    """What two ranks write, with a note by each of what else it found."""
    (folder / "said").mkdir()

    def both(rank: int) -> None:
        (folder / "together").mkdir(exist_ok=True)
        work(folder, folder / "together")
        assert is_first_rank() == (rank == 0)
        for out, message in ((folder / "A", "must lie apart"), (folder / "no" / "out", "does not exist")):
            with pytest.raises((ValueError, OSError), match=message):
                merge_checkpoints(folder / "A", folder / "B", out=out, spec=models.spec())
        assert plan_merge(folder / "A", folder / "B", spec=models.spec(), calibrate=False).models == 2

    ended = launched(2, both, folder / "said")
    assert [one.code for one in ended] == [0, 0], ended
    assert [one.err for one in ended] == ["", ""]
    return folder / "together"


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(Path()))
def test_two_ranks_write_what_one_process_writes(alone: Path, together: Path, name: str) -> None:
    one, two = alone / name, together / name
    if one.is_file():
        assert two.read_bytes() == one.read_bytes()
    else:
        assert models.contents(two) == models.contents(one)
        assert len(models.contents(one)) > 3
    assert not list(together.glob(".*"))


def test_what_is_put_together_is_shared_out(folder: Path, tmp_path: Path) -> None:
    each = open_input(folder / "A.safetensors", "a")
    names = [("0.up.weight", "1.up.weight"), ("0.up.bias", "1.up.bias"), ("0.norm.weight", "1.norm.weight")]

    def stacked(sources: tuple[str, str]) -> Conversion:
        target = sources[0][2:]
        return Conversion(sources, (target,), False, lambda raw: {target: torch.stack([raw[name] for name in sources])})

    each.conversions = tuple(map(stacked, names))
    each.put_together(tmp_path, 0, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0.safetensors", "a-2.safetensors"]
    each.put_together(tmp_path, 1, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    each.attach(tmp_path)
    # Nothing was written again.
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert {name: tuple(x.shape) for name, x in each.tensors.items()} == {
        "up.weight": (2, models.UNITS, models.HIDDEN),
        "up.bias": (2, models.UNITS),
        "norm.weight": (2, models.HIDDEN),
    }


def test_a_gpu_is_the_ranks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Launch(5, 8, 1, 4, "host", 1, 0, False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert joining._own_device(torch.device("cuda"), found) == torch.device("cuda", 1)
    assert joining._own_device(torch.device("cuda", 3), found) == torch.device("cuda", 3)
    assert joining._own_device(torch.device("cpu"), found) == torch.device("cpu")
    assert joining._own_device(None, found) is None


@pytest.mark.parametrize(
    ("device", "gpus", "begun", "backend"),
    [(None, 4, False, "gloo"), ("cuda:1", 4, False, "nccl"), ("cuda:1", 2, False, "gloo"), ("cuda:1", 4, True, "nccl")],
    ids=["cpu", "a gpu each", "gpus that are shared", "a group that was begun"],
)
def test_gains_go_by_nccl_where_each_rank_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str | None, gpus: int, begun: bool, backend: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(str(device)))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(ranks._dist, "PrefixStore", lambda name, store: name)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda backend, **_: asked.append(backend))
    team = Ranks.__new__(Ranks)
    team.device = None if device is None else torch.device(device)
    team.size, team.is_begun, team._store = 4, begun, None
    team._found = Launch(1, 4, 1, 0 if begun else 4, "host", 1, 0, False)
    team.open()
    assert asked == ([device] if backend == "nccl" else []) + [backend]
    assert team.wire == torch.device(device if backend == "nccl" and device else "cpu")
