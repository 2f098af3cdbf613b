"""Width and polarity of the columns, read off an image."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from atomvae.atoms.mask import local_mean

_FALLBACK_PX = 2.0  # width when an image shows nothing to measure
PERIODIC = 0.4  # periodicity above which columns form a crystal: those reach 0.5, textures 0.2
_NARROWEST, _WIDEST = 0.7, 30.0  # px
_REACH = 64  # px, largest lag
_RING = np.rint(np.hypot(*np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1])).astype(int)


class Scale(NamedTuple):
    """What the autocorrelation tells.

    Width of the columns (px); how periodic they are: 0 not at all, about 1 a crystal; whether the
    lattice has six nearest lattice vectors of one length.
    """

    width_px: float
    periodicity: float
    hexagonal: bool


def column_scale(
    images: list[NDArray[np.float64]],
    valid: list[NDArray[np.bool_]],
    width_px: float | None = None,
) -> Scale:
    """Width and periodicity of the columns from the autocorrelation.

    The autocorrelation of Gaussian columns of width s falls as exp(-r^2 / 4 s^2) around its
    centre; the noise adds a spike at r = 0 only, which is left out. A slow background is removed
    first, over a length that follows the width found. The highest value away from the centre,
    relative to the centre, is the periodicity. In a crystal every region counts alike, else
    contamination or a heavy atom would speak for all.

    Parameters
    ----------
    images
        Frames (y, x), finite float64; their autocorrelations are averaged.
    valid
        bool (y, x) per frame.
    width_px
        The width if known, px.

    Returns
    -------
    Scale
        Width 2.0 and periodicity 0 when the images are constant or too small to tell. Where
        columns overlap (spacing below four widths) the width comes out too small.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64] % 16 - 8.0
    >>> image = np.exp(-(y**2 + x**2) / (2 * 2.5**2))
    >>> scale = column_scale([image], [image > -1])
    >>> abs(scale.width_px - 2.5) < 0.3, bool(scale.periodicity > 0.8)
    (True, True)
    """
    evened = _scale(images, valid, width_px, True)
    if evened.periodicity > PERIODIC:
        return evened
    return _scale(images, valid, width_px, False)._replace(
        periodicity=evened.periodicity, hexagonal=False
    )


def _scale(
    images: list[NDArray[np.float64]],
    valid: list[NDArray[np.bool_]],
    width_px: float | None,
    even: bool,
) -> Scale:
    """Scale of images as they are, or with the same contrast everywhere."""
    width = width_px or _FALLBACK_PX
    for _ in range(3):
        blur = max(10.0, 3.0 * width)
        maps = [_autocorrelation(i, v, blur, even) for i, v in zip(images, valid, strict=True)]
        correlation = np.mean(maps, axis=0)
        profile = ndimage.mean(correlation, _RING, np.arange(_REACH + 1))
        centre = _central_peak(profile[np.isfinite(profile)])
        if centre is None:
            return Scale(width, 0.0, False)
        found, height, end = centre
        outside = np.where((end < _RING) & np.isfinite(correlation), correlation, 0.0)
        scale = Scale(width_px or found, float(outside.max() / height), _is_hexagonal(outside, end))
        if width_px or max(10.0, 3.0 * found) < 1.05 * blur:
            return scale
        width = found
    return scale


def _is_hexagonal(outside: NDArray[np.float64], end: int) -> bool:
    """Whether the nearest high maximum repeats when turned by 60 and 120 degrees."""
    top = (ndimage.maximum_filter(outside, 5) == outside) & (outside > 0.6 * outside.max())
    y, x = np.nonzero(top)
    if not y.size:
        return False
    nearest = np.argmin(_RING[y, x])
    vector = complex(x[nearest] - _REACH, y[nearest] - _REACH)
    slack = max(2, round(0.1 * abs(vector)))  # scans are sheared
    for turn in (np.pi / 3, 2 * np.pi / 3):
        at = vector * np.exp(1j * turn)
        row, column = round(at.imag) + _REACH, round(at.real) + _REACH
        near = outside[max(row - slack, 0) : row + slack + 1, max(column - slack, 0) :][
            :, : 2 * slack + 1
        ]
        if near.max(initial=0.0) < 0.7 * outside[y[nearest], x[nearest]]:
            return False
    return True


def _autocorrelation(
    image: NDArray[np.float64], valid: NDArray[np.bool_], blur: float, even: bool
) -> NDArray[np.float64]:
    """Autocorrelation at lags up to `_REACH`; NaN beyond a quarter of the frame."""
    rest = np.where(valid, image - local_mean(image, valid, blur), 0.0)
    if even:
        contrast = np.sqrt(np.maximum(ndimage.uniform_filter(rest**2, round(6 * blur)), 0.0))
        rest /= np.maximum(contrast, max(1e-3 * float(contrast.max()), 1e-300))
    correlation = np.fft.irfft2(np.abs(np.fft.rfft2(rest)) ** 2, s=rest.shape) / rest.size
    reach = max(2, min(_REACH, min(rest.shape) // 4))
    lag = np.arange(-reach, reach + 1)
    padded = np.full(_RING.shape, np.nan)
    inside = slice(_REACH - reach, _REACH + reach + 1)
    padded[inside, inside] = correlation[np.ix_(lag % rest.shape[0], lag % rest.shape[1])]
    return padded


def _central_peak(profile: NDArray[np.float64]) -> tuple[float, float, int] | None:
    """Width, height without noise, and end of the central peak; None when there is none."""
    rising = np.flatnonzero(np.diff(profile[1:]) >= 0)
    end = int(rising[0]) + 1 if rising.size else len(profile) - 1
    depth = profile[1] - profile[end]
    if end < 3 or depth <= 1e-9 * max(abs(profile[0]), 1e-300):
        return None
    lag, value = np.arange(1, end + 1), (profile[1 : end + 1] - profile[end]) / depth

    def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
        model = p[0] * np.exp(-((lag / p[1]) ** 2) / 4) + p[2]
        residual: NDArray[np.float64] = (model - value) * np.sqrt(lag)  # a ring holds 2 pi r px
        return residual

    bounds = ([0.1, _NARROWEST, -1.0], [10.0, _WIDEST, 0.5])
    fit = optimize.least_squares(misfit, np.clip([1.0, end / 3.0, 0.0], *bounds), bounds=bounds).x
    height = (fit[0] + fit[2]) * depth + profile[end]
    return float(fit[1]), float(max(height, depth)), end


def bright_columns(
    images: list[NDArray[np.float64]], valid: list[NDArray[np.bool_]], scale: Scale
) -> bool:
    """Whether columns are bright: the band-passed image is skewed to the bright side.

    Overlapping bright columns of a honeycomb are skewed to the dark side by its holes, exactly as
    a hexagonal lattice of dark columns would be; of the two, the honeycomb is assumed.

    Parameters
    ----------
    images
        Frames (y, x), finite float64.
    valid
        bool (y, x) per frame.
    scale
        Of the columns, see `column_scale`.

    Returns
    -------
    bool
        False for dark columns (annular bright field).

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64] % 16 - 8.0
    >>> image = np.exp(-(y**2 + x**2) / (2 * 2.5**2))
    >>> inside, scale = [image > -1], Scale(2.5, 1.0, False)
    >>> bright_columns([image], inside, scale), bright_columns([-image], inside, scale)
    (True, False)
    """
    if scale.hexagonal:
        return True
    skew = 0.0
    for image, inside in zip(images, valid, strict=True):
        fine, broad = (local_mean(image, inside, k * scale.width_px) for k in (1.0, 4.0))
        band = (fine - broad)[inside]
        spread = band.std() if band.size else 0.0
        skew += float(np.mean(((band - band.mean()) / spread) ** 3)) if spread > 0 else 0.0
    return skew > -0.05
