"""Simulated movies for the File menu; made when asked for, the same every time."""

from typing import Any

LayerData = tuple[Any, dict[str, Any], str]


def si_graphene() -> list[LayerData]:
    """Simulate silicon impurities and defects that move in graphene under the beam."""
    return simulated("si_graphene", 3)


def mos2() -> list[LayerData]:
    """Simulate a MoS2 monolayer in which vacancies appear."""
    return simulated("mos2_vacancies", 3)


def perovskite() -> list[LayerData]:
    """Simulate a perovskite with a polar domain wall that moves."""
    return simulated("perovskite", 1)


def simulated(preset: str, symmetry: int, frames: int = 10, edge: int = 256) -> list[LayerData]:
    """Simulate a short movie and lay its true atoms over it.

    Parameters
    ----------
    preset : str
        Name of a preset of `atomvae.simulate`.
    symmetry : int
        Order of the motif around an atom of the perfect crystal.
    frames : int
        Number of frames.
    edge : int
        Height and width of a frame, px.

    Returns
    -------
    list of LayerData
        The movie, and the true atoms coloured by species.
    """
    from atomvae.datasets.simulate import simulate
    from atomvae.viewer.layers import to_layers

    made = simulate(preset, frames=frames, shape=(edge, edge), seed=1)
    column = "species" if "species" in made.truth else None
    layers = to_layers(
        made.movie,
        made.truth,
        color_by=column,
        symmetry=symmetry,
        source=f"simulate({preset!r})",
    )
    movie, *others = layers
    return [movie, *[_named(layer, f"true {layer[1]['name']}") for layer in others]]


def _named(layer: LayerData, name: str) -> LayerData:
    """Rename a layer."""
    data, options, kind = layer
    return data, options | {"name": name}, kind
