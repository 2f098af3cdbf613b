"""Movie and table as layers: plain tuples, made without napari."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from atomvae.errors import InputError
from atomvae.movie.movie import Movie
from atomvae.viewer.colors import ANGLES, ColorScale, hue_circle, motif_order, table_scale

LayerData = tuple[Any, dict[str, Any], str]

FIELD_EDGE = 256  # px of a field: drawn in some 50 ms, which a slider can wait for
MANY_MARKS = 200_000  # arrows or spokes; napari looks at all of them at each step of the slider
MANY_LINKS = 150_000  # places of tracks; all of them are drawn each time, whatever the frame
LARGE = 2048  # px; above it a frame is offered in several resolutions
FIRST_CHOICE = ("class", "z_0", "species", "amplitude", "score")


def to_layers(
    movie: Movie | None,
    table: pd.DataFrame | None = None,
    *,
    color_by: str | None = None,
    symmetry: int | None = None,
    spacing_px: float | None = None,
    rasters: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    source: str | None = None,
) -> list[LayerData]:
    """Turn a movie and its table of atoms into layers that share one time slider.

    All layers have the same scale, units and axis names (t, y, x), so that one slider moves them
    all and the scale bar is right. Calibrated axes are in seconds and nanometres, the others in
    frames and pixels. Every column of the table travels with the atoms as a feature.

    Parameters
    ----------
    movie : Movie or None
        The frames; ``None`` when there is only a table, then in pixels.
    table : DataFrame, optional
        Columns ``frame``, ``y``, ``x`` (px) and any others; with ``angle`` (radians,
        counter-clockwise on screen) there are arrows, with ``track`` there are tracks (of very many
        atoms in steps of several frames).
    color_by : str, optional
        Column that colours the atoms; by default the first of class, z_0, species, amplitude and
        score that the table has.
    symmetry : int, optional
        Order n of the motif: angles differing by 2 pi / n are the same. With n = 1 an atom gets
        an arrow; otherwise n equal spokes, which look the same in every equivalent position. By
        default from the column ``angle_n``, else 1.
    spacing_px : float, optional
        Distance between neighbouring atoms in px, which sets the sizes; measured if not given.
    rasters : mapping of str to ndarray (t, y, x), optional
        Fields on the pixels of the movie, such as a strain or a density; hidden at first.
    source : str, optional
        Where the data lie, kept in ``metadata["atomvae"]["source"]``.

    Returns
    -------
    list of (data, keyword arguments, type)
        napari's LayerData, from below to above: movie, rasters, tracks, angles, atoms.

    Raises
    ------
    InputError
        If a column is missing or the table has frames that the movie has not.

    Examples
    --------
    >>> movie = Movie.from_array(np.zeros((2, 8, 8)), pixel_size=0.01, frame_time=0.5)
    >>> table = pd.DataFrame({"frame": [0, 1], "y": [3.0, 4.0], "x": [2.0, 5.0], "z_0": [0.1, 0.7]})
    >>> [(kind, options["scale"]) for _, options, kind in to_layers(movie, table)]
    [('image', (0.5, 0.01, 0.01)), ('points', (0.5, 0.01, 0.01))]
    """
    shared = _calibration(movie) | {"metadata": {"atomvae": {"source": source}}}
    layers: list[LayerData] = []
    if movie is not None:
        layers.append(_movie_layer(movie, shared))
        layers += _raster_layers(rasters or {}, movie, shared)
    if table is None:
        return layers
    _check(table, movie)
    table = table.reset_index(drop=True)
    spacing = spacing_px or _spacing(table)
    if "track" in table and (table["track"] >= 0).any():
        layers.append(_track_layer(table, color_by, shared))
    if "angle" in table and table["angle"].notna().any():
        order = motif_order(table) if symmetry is None else symmetry
        layers.append(_angle_layer(table, order, spacing, shared))
    layers.append(_atom_layer(table, color_by, spacing, shared))
    return layers


def angle_marks(
    table: pd.DataFrame, symmetry: int, length: float, pixel: tuple[float, float] = (1.0, 1.0)
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Arrows, or spokes for a symmetric motif, that show the angle of each atom.

    Parameters
    ----------
    table : DataFrame
        Columns ``frame``, ``y``, ``x``, ``angle`` (radians, counter-clockwise seen on screen with
        y down) and, if known, ``angle_sd``: a mark shrinks by the factor exp(-(n sd)^2 / 2), the
        mean resultant of the angle, so that an angle that is only noise is not drawn as if known.
    symmetry : int
        Order n of the motif; there are n spokes for each atom, none twice.
    length : float
        Length in px.
    pixel : (float, float)
        Height and width of a pixel in any unit; angles are those of the specimen.

    Returns
    -------
    vectors : ndarray (m, 2, 3) float64
        Start and direction as (t, y, x) in px.
    rows : ndarray (m,) int
        Row of the table that a vector belongs to.

    Examples
    --------
    >>> up = pd.DataFrame({"frame": [0], "y": [5.0], "x": [5.0], "angle": [np.pi / 2]})
    >>> vectors, _ = angle_marks(up, 1, 2.0)
    >>> vectors[0].round(6).tolist()  # from the atom to 2 px above it
    [[0.0, 5.0, 5.0], [0.0, -2.0, 0.0]]
    """
    angle = table["angle"].to_numpy(np.float64)
    known = np.flatnonzero(np.isfinite(angle))
    spokes = _spokes(symmetry)
    rows = np.repeat(known, len(spokes))
    turned = (angle[known, None] + spokes).ravel()
    reach = np.full(len(rows), length)
    if "angle_sd" in table:
        sd = table["angle_sd"].fillna(0).to_numpy(np.float64)[rows]
        reach *= np.exp(-0.5 * (symmetry * sd) ** 2)
    unit = np.sqrt(pixel[0] * pixel[1])
    step = np.stack([-np.sin(turned) / pixel[0], np.cos(turned) / pixel[1]], -1)
    step *= (reach * unit)[:, None]
    vectors = np.zeros((len(rows), 2, 3))
    vectors[:, 0] = table[["frame", "y", "x"]].to_numpy(np.float64)[rows]
    vectors[:, 1, 1:] = step
    return vectors, rows


def atom_features(table: pd.DataFrame) -> pd.DataFrame:
    """Make the features of a layer, with text as plain objects.

    napari asks for all columns as arrays whenever colours change, and pandas would convert its own
    kind of text each time.

    Parameters
    ----------
    table : DataFrame
        The atoms.

    Returns
    -------
    DataFrame
        A copy.

    Examples
    --------
    >>> atom_features(pd.DataFrame({"species": ["Si"]}))["species"].dtype
    dtype('O')
    """
    text: pd.DataFrame = table.select_dtypes("str")
    return table.assign(**{str(name): text[name].astype(object) for name in text})


def field_layer(
    table: pd.DataFrame,
    column: str,
    *,
    frames: int,
    shape: tuple[int, int] | None,
    like: Mapping[str, Any],
) -> LayerData:
    """Make a field of a column: each place has the value of the nearest atom of its frame.

    Parameters
    ----------
    table : DataFrame
        ``frame``, ``y``, ``x`` (px) and the column.
    column : str
        A column of numbers.
    frames : int
        Number of frames.
    shape : (int, int), optional
        Of a frame, px; by default as far as the atoms reach.
    like : mapping
        ``scale``, ``units`` and ``axis_labels`` of the layer of the atoms.

    Returns
    -------
    LayerData
        An image of at most `FIELD_EDGE` pixels along an edge, drawn frame by frame when it is
        looked at, with one scale of colours for all frames.

    Raises
    ------
    InputError
        If the column holds no numbers.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0], "y": [2.0, 9.0], "x": [2.0, 9.0], "z_0": [0.0, 1.0]})
    >>> axes = {"scale": (1, 1, 1), "units": ("pixel",) * 3, "axis_labels": ("t", "y", "x")}
    >>> field, options, kind = field_layer(table, "z_0", frames=1, shape=(12, 12), like=axes)
    >>> field.shape, float(field[0, 2, 2]), options["name"]
    ((1, 12, 12), 0.0, 'field of z_0')
    """
    import dask.array as da

    from atomvae.maps.raster import raster

    if not pd.api.types.is_numeric_dtype(table[column]):
        raise InputError(f"column {column!r} holds no numbers; a field needs one at each atom")
    reach = table[["y", "x"]].max().to_numpy() if len(table) else np.zeros(2)
    height, width = shape or tuple(int(v) + 2 for v in reach)
    step = max(1.0, max(height, width) / FIELD_EDGE)
    size = (int(np.ceil(height / step)), int(np.ceil(width / step)))
    by_frame = dict(iter(table[["frame", "y", "x", column]].groupby("frame")))

    def draw(block_info: Any = None) -> NDArray[np.float32]:
        frame = block_info[None]["chunk-location"][0]
        rows = by_frame.get(frame, table.iloc[:0])
        return raster(rows, column, frame, (height, width), pixel_step=step)[None]

    field = da.map_blocks(
        draw,
        chunks=((1,) * frames, *((n,) for n in size)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    scale = table_scale(table, column)
    colors: dict[str, Any] = {"colors": scale.colors, "name": f"atomvae {scale.kind}"}
    stretch = np.array([1.0, step, step]) * np.asarray(like["scale"], float)
    shift = (step - 1) / 2 * np.asarray(like["scale"], float)
    return (
        field,
        {
            "name": f"field of {column}",
            "scale": tuple(stretch),
            "translate": (0.0, shift[1], shift[2]),
            "units": like["units"],
            "axis_labels": like["axis_labels"],
            "colormap": colors,
            "contrast_limits": scale.limits,
            "opacity": 0.6,
            "metadata": {"atomvae_field": column},
        },
        "image",
    )


def _spokes(symmetry: int) -> NDArray[np.float64]:
    """Directions of one atom's marks relative to its angle."""
    if symmetry < 1:
        raise InputError(f"symmetry is {symmetry}, expected the order of the motif: 1, 2, 3, ...")
    return 2 * np.pi * np.arange(symmetry) / symmetry


def _calibration(movie: Movie | None) -> dict[str, Any]:
    """Scale, units and axis names that all layers share."""
    pixel = movie.pixel_size if movie is not None else None
    time = movie.frame_time if movie is not None else None
    length = "nm" if pixel else "pixel"
    return {
        "scale": (time or 1.0, *(pixel or (1.0, 1.0))),
        "units": ("s" if time else "pixel", length, length),
        "axis_labels": ("t", "y", "x"),
    }


def _movie_layer(movie: Movie, shared: dict[str, Any]) -> LayerData:
    """Hand over the frames lazily; several resolutions when a frame is larger than a screen."""
    options: dict[str, Any] = {
        **shared,
        "name": "movie",
        "colormap": "gray",
        "contrast_limits": _contrast(movie),
    }
    if max(movie.frames.shape[1:]) <= LARGE:
        return movie.frames, options | {"multiscale": False}, "image"
    import dask.array as da

    levels = [movie.frames]
    while max(levels[-1].shape[1:]) > LARGE // 2:
        half = da.coarsen(np.mean, levels[-1], {1: 2, 2: 2}, trim_excess=True)
        levels.append(half.astype(movie.frames.dtype))
    return levels, options | {"multiscale": True}, "image"


def _contrast(movie: Movie) -> tuple[float, float]:
    """Limits that a few hot pixels do not spoil, from at most eight frames."""
    chosen = np.unique(np.linspace(0, movie.frames.shape[0] - 1, 8).astype(int))
    step = max(1, max(movie.frames.shape[1:]) // 512)
    sample = np.stack([movie.frame(int(t))[::step, ::step] for t in chosen])
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, [0.5, 99]) if sample.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1.0)


def _raster_layers(
    rasters: Mapping[str, NDArray[np.floating[Any]]], movie: Movie, shared: dict[str, Any]
) -> list[LayerData]:
    """Fields over the movie, coloured with one scale for all frames."""
    layers: list[LayerData] = []
    for name, field in rasters.items():
        if field.shape != movie.frames.shape:
            raise InputError(
                f"raster {name!r} has shape {field.shape}, expected that of the movie, "
                f"{movie.frames.shape}"
            )
        low, high = np.nanpercentile(field, [1, 99])
        limits = (float(low), float(high if high > low else low + 1.0))
        options = {"name": name, "colormap": "viridis", "opacity": 0.6, "visible": False}
        layers.append((field, shared | options | {"contrast_limits": limits}, "image"))
    return layers


def _atom_layer(
    table: pd.DataFrame, color_by: str | None, spacing: float, shared: dict[str, Any]
) -> LayerData:
    """One point per atom and frame, coloured by one column."""
    if color_by is None:
        color_by = next((name for name in FIRST_CHOICE if name in table), None)
    features = atom_features(table)
    options: dict[str, Any] = {
        **shared,
        "name": "atoms",
        "size": 0.42 * spacing,
        "border_color": "black",
        "border_width": 0.1,
        "opacity": 0.9,
        "features": features,
    }
    if color_by is not None and len(table):
        scale = table_scale(table, color_by)
        options |= _about(shared, scale.about(color_by))
        features[color_by] = scale.values
        options |= scale.settings("face", color_by)
    return _columns_together(table[["frame", "y", "x"]].to_numpy(np.float64)), options, "points"


def _angle_layer(
    table: pd.DataFrame, symmetry: int, spacing: float, shared: dict[str, Any]
) -> LayerData:
    """Arrows or spokes, coloured by the direction modulo the symmetry, in degrees."""
    pixel = (shared["scale"][1], shared["scale"][2])
    reach = 0.75 if symmetry == 1 else 0.48  # spokes of neighbours just meet
    period = 360.0 / len(_spokes(symmetry))  # which refuses a symmetry of zero
    marked, spokes = table, symmetry
    if symmetry > 1 and symmetry * len(table) > MANY_MARKS:  # one spoke says it, too
        half = np.pi / symmetry
        folded = np.mod(table["angle"] + half, 2 * half) - half
        marked, spokes = table.assign(angle=folded), 1
        if "angle_sd" in table:  # which shrinks marks by the symmetry
            marked = marked.assign(angle_sd=symmetry * table["angle_sd"])
    vectors, rows = angle_marks(marked, spokes, reach * spacing, pixel)
    degrees = np.mod(np.degrees(table["angle"].to_numpy(np.float64)[rows]), period)
    scale = ColorScale(degrees, "cyclic", (0.0, period), hue_circle())
    own = [name for name in ("atom_id", *ANGLES, "angle_sd") if name in table]
    features = table[own].iloc[rows].reset_index(drop=True).assign(angle_deg=degrees)
    options = {
        **shared,
        "name": "angles",
        "features": features,
        "length": 1.0,
        "edge_width": 0.1 * spacing,
        "vector_style": "arrow" if symmetry == 1 else "line",
        "opacity": 1.0,
        "visible": len(vectors) <= MANY_MARKS,
    }
    shows = scale.about("" if symmetry == 1 else f"modulo {period:g}°")
    marks = np.arange(4) * period / 4
    colors = [tuple(c) for c in scale.rgba(marks).round(4).tolist()]
    shows["legend"] = [(f"{v:g}°", c) for v, c in zip(marks, colors, strict=True)]
    options |= _about(shared, shows) | scale.settings("edge", "angle_deg")
    return _columns_together(vectors), options, "vectors"


def _columns_together(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same array with each coordinate contiguous in memory.

    At each step of the slider napari looks for the rows of the frame and for the extent of all
    rows, one coordinate after the other: ten times faster like this.
    """
    return np.asfortranarray(array)


def _about(shared: dict[str, Any], colors: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a layer that also say what its colours stand for."""
    return {"metadata": {"atomvae": shared["metadata"]["atomvae"] | colors}}


def _track_layer(table: pd.DataFrame, color_by: str | None, shared: dict[str, Any]) -> LayerData:
    """Linked atoms; hidden at first, since in a drifting movie tails cover the atoms."""
    linked = table[table["track"] >= 0].sort_values(["track", "frame"])
    if len(linked) > MANY_LINKS:  # every second place, or third, ..., and the ends
        place = linked.groupby("track").cumcount()
        end = linked["track"].ne(linked["track"].shift(-1))
        linked = linked[end | (place % -(-len(linked) // MANY_LINKS) == 0)]
    data = linked[["track", "frame", "y", "x"]].to_numpy(np.float64)
    options: dict[str, Any] = {
        "name": "tracks",
        "visible": False,
        "tail_width": 2,
        "tail_length": 20,
        "features": linked.select_dtypes("number").reset_index(drop=True),
        "blending": "translucent",  # additive tails turn white over a movie
    }
    if color_by in options["features"]:
        options |= {"color_by": color_by, "colormap": "viridis"}
    return data, shared | options, "tracks"


def _spacing(table: pd.DataFrame) -> float:
    """Median distance to the nearest neighbour in the first frames, px."""
    found = []
    for _, atoms in table.groupby("frame", sort=True):
        if len(atoms) > 1:
            position = atoms[["y", "x"]].to_numpy(np.float64)
            found.append(cKDTree(position).query(position, k=2)[0][:, 1])
        if len(found) == 5:
            break
    return float(np.median(np.concatenate(found))) if found else 10.0


def _check(table: pd.DataFrame, movie: Movie | None) -> None:
    """Say what a table lacks before napari does."""
    missing = [name for name in ("frame", "y", "x") if name not in table]
    if missing:
        raise InputError(
            f"the table has no column {missing[0]!r}, expected one row per atom with frame, y, x"
        )
    if movie is not None and len(table) and table["frame"].max() >= movie.frames.shape[0]:
        raise InputError(
            f"the table has atoms in frame {table['frame'].max()}, but the movie ends with frame "
            f"{movie.frames.shape[0] - 1}; they do not belong together"
        )
