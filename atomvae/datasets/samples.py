"""Small movies to try things on, made when they are asked for."""

from atomvae.datasets.presets import PRESETS
from atomvae.datasets.simulate import Simulation, simulate


def graphene_movie() -> Simulation:
    """Graphene with Si that hops: 12 frames of 256 x 256, about 360 atoms each.

    `sample_data/si_graphene.tif` is ``graphene_movie().save("si_graphene.tif")``.

    Returns
    -------
    Simulation

    Examples
    --------
    >>> graphene_movie().movie.shape
    (12, 256, 256)
    """
    preset = PRESETS["si_graphene"].replace(
        {
            "pixel_nm": 0.012,
            "probe_nm": 0.044,
            "background": 0.25,
            "tail": 0.2,
            "defects": {"Si3": 0.6, "Si4": 0.1, "vacancy": 0.1},
            "events": {"exchange": 0.15, "loss": 0.02, "capture": 0.05, "hop": 0.05},
            "contamination": 0.3,
            "lost_frames": 0.0,
            "lost_rows": 0.0005,
            "drift_walk_px": 0.5,
        }
    )
    return simulate(preset, frames=12, shape=(256, 256), dose=25, seed=7)


def mos2_movie() -> Simulation:
    """MoS2 that loses sulfur: 8 frames of 256 x 256.

    Returns
    -------
    Simulation

    Examples
    --------
    >>> mos2_movie().movie.shape
    (8, 256, 256)
    """
    return simulate("mos2_vacancies", frames=8, shape=(256, 256), dose=10, seed=3)


def perovskite_movie() -> Simulation:
    """Polar perovskite with a domain wall that moves: 8 frames of 320 x 320.

    Returns
    -------
    Simulation

    Examples
    --------
    >>> perovskite_movie().movie.shape
    (8, 320, 320)
    """
    preset = PRESETS["perovskite"].replace({"pixel_nm": 0.02, "wall_nm_per_frame": 0.3})
    return simulate(preset, frames=8, shape=(320, 320), seed=1)
