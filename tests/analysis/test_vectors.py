"""Cosine maps between singular vectors, and inputs of layers against right singular vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lmc_fast as lmc
from benchmarks import models

from .test_spectral import STRUCTURES, make


@pytest.mark.parametrize("kind", ["mlp", "flatten", "heads"])
def test_a_permuted_copys_vectors_lie_on_the_diagonal(kind: str) -> None:
    model = make(kind, 1)
    truth = lmc.Permutations.random(STRUCTURES[kind][1](model), 3)
    copy = truth.inverse().apply(model)
    for layer in lmc.vector_cosines(model, copy, truth, top=4).values():
        size = min(4, len(layer.values_a))
        assert layer.left.shape == layer.right.shape == (size, size)
        np.testing.assert_allclose(layer.left, np.eye(size), atol=1e-8)
        np.testing.assert_allclose(layer.right, np.eye(size), atol=1e-8)
        np.testing.assert_allclose(layer.values_a, layer.values_b, rtol=1e-10)


def test_maps_are_the_cosines() -> None:
    a, b = ({"w": torch.randn(9, 6).double()} for _ in range(2))
    u_a, u_b = (torch.linalg.svd(side["w"])[0] for side in (a, b))
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model=a)
    permutations = lmc.Permutations.random(spec, 1)
    found = lmc.vector_cosines(a, b, permutations, top=5)["w"]
    expected = (u_a[:, :5].T @ u_b[permutations["p"], :5]).abs()
    np.testing.assert_allclose(found.left, expected.numpy(), atol=1e-12)
    with pytest.raises(ValueError, match="top must be a whole number of at least 1, got 0"):
        lmc.vector_cosines(a, b, top=0)


def by_hand(weight: Tensor, samples: Tensor) -> Tensor:
    """Mean |<v_i, z>| / ||z|| over the rows of samples that are not zero."""
    v = torch.linalg.svd(weight.reshape(weight.shape[0], -1), full_matrices=False)[2].T
    samples = samples[samples.norm(dim=1) > 0]
    return ((samples @ v).abs() / samples.norm(dim=1, keepdim=True)).mean(0)


def test_inputs_of_linear_layers_count_by_sample_over_all_batches() -> None:
    model = models.small_mlp().double()
    data = torch.randn(11, 4).double()
    data[2] = 0
    found = lmc.input_alignment(model, [data[:4], (data[4:], torch.zeros(7))])
    assert [layer.name for layer in found.layers] == ["1.weight", "3.weight", "5.weight"]
    inputs = [data, torch.relu(model[1](data)), torch.relu(model[3](torch.relu(model[1](data))))]
    for layer, z in zip(found.layers, inputs, strict=True):
        weight = model.get_parameter(layer.name).detach()
        np.testing.assert_allclose(layer.cosines, by_hand(weight, z.detach()).numpy(), atol=1e-12)
        assert layer.samples == int((z.norm(dim=1) > 0).sum())
        assert layer.random == pytest.approx(math.sqrt(2 / (math.pi * weight.shape[1])))
        np.testing.assert_allclose(layer.values, torch.linalg.svdvals(weight).numpy())
    assert found.layers[0].samples == 10
    assert "1.weight" in str(found)


CONVOLUTIONS = {
    "plain": (nn.Conv2d(4, 6, 3), (5, 4, 7, 6)),
    "strides, zeros around": (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0)), (5, 4, 7, 6)),
    "spread, same": (nn.Conv2d(4, 6, 3, dilation=2, padding="same"), (5, 4, 7, 6)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (5, 4, 7, 6)),
    "one dimension": (nn.Conv1d(4, 6, 3, padding=1), (5, 4, 7)),
    "three dimensions": (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 4, 5, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 7, 6)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_patches_of_a_convolution_are_what_its_weight_meets(kind: str) -> None:
    """W z over all patches is the convolution's output, position by position; then the means are as by hand."""
    from lmc_fast.analysis.vectors import _samples

    layer, shape = CONVOLUTIONS[kind]
    layer = models.randomise(layer, 1).double()
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.bias is not None
    x = torch.randn(shape).double()
    weight = layer.weight.detach()
    z = torch.cat(list(_samples(x, layer)))
    output = (layer(x) - layer.bias.reshape(-1, *[1] * (x.ndim - 2))).detach()
    # [batch, groups, positions, rows of a group]
    patches = z.reshape(x.shape[0], layer.groups, -1, z.shape[1])
    rows = weight.reshape(layer.groups, -1, z.shape[1])
    met = torch.einsum("bgpk,grk->bgrp", patches, rows).reshape(output.shape)
    torch.testing.assert_close(met, output)
    (found,) = lmc.input_alignment(nn.Sequential(layer), [x[:1], x[1:]]).layers
    np.testing.assert_allclose(found.cosines, by_hand(weight, z).numpy(), atol=1e-12)
    assert found.samples == len(z)


def test_inputs_along_the_first_vector_are_seen() -> None:
    layer = nn.Linear(8, 5, bias=False)
    v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)[2]
    found = lmc.input_alignment(nn.Sequential(layer), [3 * v[:1], -v[:1]])
    np.testing.assert_allclose(found.layers[0].cosines, [1, 0, 0, 0, 0], atol=1e-6)


def test_the_model_stays_and_factors_are_taken() -> None:
    model = models.randomise(models.small_resnet(), 1).train()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = torch.randn(6, 1, 8, 8)
    factors = lmc.singular_factors(model)
    found = lmc.input_alignment(model, [data], factors=factors, parameters=["fc.weight", "conv1.weight"])
    assert [layer.name for layer in found.layers] == ["conv1.weight", "fc.weight"]
    assert all(part.training and not part._forward_hooks for part in model.modules())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    patches = functional.unfold(data, 3, padding=1).transpose(1, 2).reshape(-1, 9)
    expected = by_hand(model.conv1.weight.detach(), patches)
    np.testing.assert_allclose(found.layers[0].cosines, expected.numpy(), atol=1e-5)


def test_bad_input_is_named() -> None:
    model = models.small_mlp()
    with pytest.raises(TypeError, match="model must be a torch"):
        lmc.input_alignment(model.state_dict(), [torch.randn(2, 4)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches must hold one batch at least, got none"):
        lmc.input_alignment(model, [])
    with pytest.raises(
        ValueError, match=r"parameters must name weights of Linear or convolution layers, got '1\.bias'"
    ):
        lmc.input_alignment(model, [torch.randn(2, 4)], parameters=["1.bias"])
    with pytest.raises(ValueError, match=r"inputs must be finite, but those of '1\.weight' are not"):
        lmc.input_alignment(model, [torch.full((2, 4), torch.inf)])
    with pytest.raises(ValueError, match="model must have Linear or convolution layers, got none"):
        lmc.input_alignment(nn.ReLU(), [torch.randn(2, 4)])
    with pytest.raises(TypeError, match="factors must be SpectralFactors or None"):
        lmc.input_alignment(model, [torch.randn(2, 4)], factors={})  # type: ignore[arg-type]
