"""The settings of a simulated movie, and presets for what people image."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from atomvae.errors import InputError
from atomvae.settings import Settings

Difficulty = Literal["poisson", "scan", "full"]


def _pairs(value: Any) -> Any:
    """Turn a mapping into a tuple of pairs: settings stay hashable."""
    return tuple(value.items()) if isinstance(value, Mapping) else value


Rates = Annotated[tuple[tuple[str, float], ...], BeforeValidator(_pairs)]
Pixels = Annotated[int, Field(ge=8)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Preset(Settings):
    """All that decides a simulated movie, apart from the seed.

    Examples
    --------
    >>> PRESETS["si_graphene"].replace({"dose": 20, "shape": (128, 128)}).dose
    20.0
    """

    material: Literal["graphene", "mos2", "perovskite"] = "graphene"
    """Which crystal."""
    frames: Annotated[int, Field(ge=1)] = 50
    """Frames of the movie."""
    shape: tuple[Pixels, Pixels] = (512, 512)
    """Rows and columns of a frame."""
    pixel_nm: Positive = 0.0117
    """Pixel size in nm."""
    rotation: float = 0.2
    """Turn of the lattice in radians, counter-clockwise on screen."""
    defects: Rates = ()
    """Defects per nm2 by kind, e.g. {"Si3": 0.3}; kinds: see `history.KINDS`."""
    events: Rates = ()
    """Events per defect (or, for new defects, per 100 nm2) and frame; names: `events.EVENTS`."""
    polar_nm: NotNegative = 0.0
    """Displacement of the B columns in a perovskite domain, nm."""
    wall_nm_per_frame: float = 0.0
    """Speed of the domain wall along its normal, nm per frame."""

    dose: Positive = 2.5
    """Mean electrons per pixel that reach the detector from the perfect crystal."""
    background: Fraction = 0.3
    """Part of the dose that is an even background."""
    probe_nm: Positive = 0.05
    """Standard deviation of the core of the probe, nm."""
    tail: Fraction = 0.3
    """Part of the intensity of an atom that lies in the broad tail of the probe."""
    tail_width: Positive = 2.5
    """Standard deviation of the tail in units of the core."""
    dwell_us: Positive = 8.0
    """Time per pixel, microseconds."""
    flyback_us: NotNegative = 200.0
    """Time between two rows, microseconds."""
    beam_energy_kev: Positive = 60.0
    """Beam energy, only written to the metadata."""
    signal: str = "MADF"
    """Detector signal, only written to the metadata."""

    drift_px: tuple[float, float] = (0.0, 0.0)
    """Steady drift (y, x) of the sample, pixels per frame."""
    drift_walk_px: NotNegative = 0.0
    """Standard deviation per axis of a random step of the drift between frames, pixels."""
    shear: float = 0.0
    """The scan's fault: x moves by this many pixels per row."""
    jitter_px: NotNegative = 0.0
    """Standard deviation of the x shift of a row, pixels."""
    hum_px: NotNegative = 0.0
    """Amplitude of the x shift by mains hum (50 Hz), pixels."""
    flyback_bend_px: float = 0.0
    """Shift of x at the left edge, where the beam still settles, pixels."""

    defocus: Fraction = 0.0
    """Relative variation of the probe width over the movie."""
    astigmatism: Fraction = 0.0
    """Largest relative difference of the probe width from its mean by twofold astigmatism."""
    contamination: NotNegative = 0.0
    """Strength of the amorphous contamination, in units of the dose."""
    contamination_growth: NotNegative = 0.0
    """How fast it spreads: lowering of its threshold per frame, standard deviations."""
    lost_frames: Fraction = 0.0
    """Probability that the beam is blanked somewhere in a frame and stays so until its end."""
    lost_rows: Fraction = 0.0
    """Probability of a dark row."""
    pulse_spread: NotNegative = 0.0
    """Relative spread of the pulse of one electron."""
    row_noise: NotNegative = 0.0
    """Standard deviation of the offset of a row, electrons."""
    afterglow: Fraction = 0.0
    """Part of a pixel's signal that arrives in the next pixel of the row."""

    gain: Positive = 6.0
    """File units per electron."""
    offset: float = 10.0
    """File units without electrons."""
    dtype: Literal["uint8", "uint16", "float32"] = "uint16"
    """Type of the pixels; integers are rounded and clipped."""

    def replace(self, changes: Mapping[str, Any]) -> "Preset":
        """Copy with some fields changed.

        Parameters
        ----------
        changes : mapping
            Field names and new values.

        Returns
        -------
        Preset

        Raises
        ------
        InputError
            A name that is no field, or a value that does not fit.
        """
        try:
            return Preset.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"simulation setting {name} = {first['input']!r}: {first['msg'].lower()}; "
                f"see help(atomvae.datasets.presets.Preset)"
            ) from error

    def at(self, difficulty: Difficulty) -> "Preset":
        """Copy without the faults that a difficulty leaves out.

        Parameters
        ----------
        difficulty : {"poisson", "scan", "full"}
            `poisson`: no drift, a perfect scan, events between frames, Poisson noise alone;
            `scan`: and drift, shear, row jitter, hum, flyback bend, events at any time;
            `full`: and changing focus, contamination, lost rows and frames, a real detector.

        Returns
        -------
        Preset

        Raises
        ------
        InputError
            An unknown difficulty.

        Examples
        --------
        >>> PRESETS["graphene"].at("poisson").drift_px
        (0.0, 0.0)
        """
        if difficulty not in _OFF:
            raise InputError(f"difficulty is {difficulty!r}, expected one of {', '.join(_OFF)}")
        fresh = {name: Preset.model_fields[name].default for name in _OFF[difficulty]}
        return self.replace(fresh)

    @property
    def frame_time_s(self) -> float:
        """Seconds from the first row of a frame to the first row of the next."""
        height, width = self.shape
        return height * (width * self.dwell_us + self.flyback_us) * 1e-6


_SCAN = ("drift_px", "drift_walk_px", "shear", "jitter_px", "hum_px", "flyback_bend_px")
_FULL = (
    "defocus", "astigmatism", "contamination", "contamination_growth", "lost_frames", "lost_rows",
    "pulse_spread", "row_noise", "afterglow",
)  # fmt: skip
_OFF: dict[str, tuple[str, ...]] = {"poisson": _SCAN + _FULL, "scan": _FULL, "full": ()}

# Contrast of graphene and MoS2 (background, tail, probe) was matched to real movies of 60 kV.
_GRAPHENE = Preset(
    background=0.35, tail=0.3, probe_nm=0.05,
    drift_px=(0.6, -0.4), drift_walk_px=0.8, shear=0.004, jitter_px=0.15, hum_px=0.1,
    flyback_bend_px=1.0, defocus=0.04, astigmatism=0.05, contamination=0.6,
    contamination_growth=0.005, lost_frames=0.01, lost_rows=0.001, pulse_spread=0.3,
    row_noise=0.03, afterglow=0.04,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "graphene": _GRAPHENE,
    "si_graphene": _GRAPHENE.replace(
        {
            "defects": {"Si3": 0.25, "Si4": 0.06, "vacancy": 0.04},
            "events": {"exchange": 0.12, "loss": 0.01, "capture": 0.05, "hop": 0.05,
                       "knock": 0.1},
        }
    ),
    "mos2_vacancies": Preset(
        material="mos2", frames=30, pixel_nm=0.0156, rotation=0.35,
        defects={"S vacancy": 0.35, "S2 vacancy": 0.05, "V": 0.12},
        events={"sulfur_loss": 4.0, "sulfur_hop": 0.05},
        dose=3.0, background=0.3, tail=0.3, probe_nm=0.055, signal="HAADF", dwell_us=10.0,
        drift_px=(-0.3, 0.5), drift_walk_px=0.6, shear=0.03, jitter_px=0.2, hum_px=0.15,
        flyback_bend_px=1.5, defocus=0.04, astigmatism=0.08, contamination=0.6,
        contamination_growth=0.005, lost_frames=0.01, lost_rows=0.001, pulse_spread=0.3,
        row_noise=0.06, afterglow=0.1, gain=1400.0, offset=4000.0,
    ),
    "perovskite": Preset(
        material="perovskite", frames=20, shape=(1024, 1024), pixel_nm=0.010, rotation=0.03,
        polar_nm=0.018, wall_nm_per_frame=0.1, dose=60.0, background=0.4, tail=0.25, probe_nm=0.042,
        signal="HAADF", beam_energy_kev=200.0, dwell_us=1.0, flyback_us=60.0,
        drift_px=(0.4, 0.7), drift_walk_px=0.5, shear=0.02, jitter_px=0.2, hum_px=0.1,
        flyback_bend_px=1.5, defocus=0.02, astigmatism=0.03, contamination=0.3,
        contamination_growth=0.0, lost_rows=0.0005, pulse_spread=0.2, row_noise=0.2,
        afterglow=0.05, gain=40.0, offset=300.0,
    ),
}  # fmt: skip
"""Presets by name; copy and change one with `replace`."""
