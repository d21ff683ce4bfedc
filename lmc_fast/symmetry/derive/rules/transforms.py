"""Fourier transforms: each entry of the result sees all entries in their order."""

from __future__ import annotations

from ..look import Dims, Look, rule

__all__ = ["transformed"]

_KINDS = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@rule(
    *(f"aten.fft_{kind}{dims}" for dims in ("", "2", "n") for kind in _KINDS),
    *("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r", "aten.fft_fftshift", "aten.fft_ifftshift"),
)
def transformed(look: Look) -> Dims:
    """[..., n, ...] -> [..., k, ...]: places of n are told apart, others stay."""
    dims = look.of(look.tensors()[0])
    given, rank = look["dim"], len(dims)
    if given is None:
        over = set(range(rank - len(look["s"] or dims), rank))
    else:
        over = {d % rank for d in ([given] if isinstance(given, int) else given)}
    look.mixed(dims, *over)
    look.pin([dims[d] for d in over], "places that are transformed")
    return [look.told(size, "frequencies") if d in over else dims[d] for d, size in enumerate(look.shape)]
