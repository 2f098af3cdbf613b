"""Where patches lie in the latent space."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomvae.errors import InputError
from atomvae.maps.style import (
    BLUE,
    colour_bar,
    is_kind,
    label,
    need,
    numbers,
    padded,
    panels,
    robust_limits,
    scale,
)

NAMED = 12  # kinds whose names still fit into a cloud of points


def draw_latents(
    table: pd.DataFrame, *, x: str = "z_0", y: str = "z_1", color: str | None = None
) -> Figure:
    """Draw one column against another, coloured by any third.

    Parameters
    ----------
    table
        Latents, or a table of `map_latents`.
    x, y
        Columns of the axes.
    color
        Column of the colour: a number, an angle or a class; None for none.

    Examples
    --------
    >>> table = pd.DataFrame({"z_0": [0.0, 1.0], "z_1": [1.0, 0.0], "class": [0, 1]})
    >>> len(draw_latents(table, color="class").axes)
    2
    """
    need(table, x, y, *([] if color is None else [color]))
    figure, (axis,) = panels(1, 0.9, width=4.5)
    _scatter(axis, table, x, y, color)
    axis.set(
        xlim=padded(robust_limits(numbers(table, x, table), 0.2), 0.1),
        ylim=padded(robust_limits(numbers(table, y, table), 0.2)),
    )
    if color is not None:
        colour_bar(figure, axis, table, color)
    return figure


def embed_tsne(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    n: int = 2000,
    perplexity: float = 30.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Lay out rows of a table in the plane so that neighbours stay neighbours (t-SNE).

    Only who is near whom means something: the sizes of clusters and the distances between them
    don't.

    Parameters
    ----------
    table
        Latents, or a table of `map_latents`.
    columns
        What makes rows neighbours, taken as it is; the continuous content by default (z_0, z_1,
        ..., all of whose names end in a number, but for poses).
    n
        Rows at most; of more, so many are drawn at random.
    perplexity
        Number of neighbours that count, about; less for fewer than 91 rows.
    seed
        Of the rows that are drawn and of the layout, which starts from principal components.

    Returns
    -------
    DataFrame
        The rows that were drawn, in the order of the table, with tsne_0 and tsne_1 (no unit).

    Raises
    ------
    InputError
        If a column is missing, there is none, or fewer than four rows are finite.

    References
    ----------
    van der Maaten, Hinton, "Visualizing data using t-SNE", J. Mach. Learn. Res. 9 (2008) 2579;
    start from principal components: Kobak, Linderman, Nat. Biotechnol. 39 (2021) 156.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame(rng.normal(size=(40, 3)), columns=["z_0", "z_1", "z_2"])
    >>> embed_tsne(table, n=20).shape
    (20, 5)
    """
    from sklearn.manifold import TSNE  # here, because it takes a second to import

    names = content_names(table) if columns is None else list(columns)
    need(table, *names)
    values = table[names].to_numpy(np.float64)
    there = np.flatnonzero(np.isfinite(values).all(1))
    if not names or len(there) < 4:
        raise InputError(
            f"found {len(there)} rows with finite values of {names}, expected at least 4 of some "
            "columns, e.g. columns=['z_0', 'z_1']"
        )
    if len(there) > n:
        there = np.sort(np.random.default_rng(seed).choice(there, n, replace=False))
    some = values[there].astype(np.float32)
    if len(names) == 1:  # principal components want two
        some = np.concatenate([some, np.zeros_like(some)], 1)
    layout = TSNE(
        perplexity=min(perplexity, (len(there) - 1) / 3), init="pca", random_state=seed
    ).fit_transform(some)
    return table.iloc[there].assign(tsne_0=layout[:, 0], tsne_1=layout[:, 1])


def content_names(table: pd.DataFrame) -> list[str]:
    """Columns of continuous content, by their names: NAME_0, NAME_1, ..., but for poses.

    Examples
    --------
    >>> content_names(pd.DataFrame(columns=["z_0", "z_0_sd", "number_0", "shear_0", "angle"]))
    ['z_0', 'number_0']
    """
    parts = [(str(c), str(c).rpartition("_")) for c in table.columns]
    return [c for c, (name, _, number) in parts if number.isdigit() and name and name != "shear"]


def draw_tsne(
    table: pd.DataFrame,
    color: str | Sequence[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    n: int = 2000,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Figure:
    """Draw the t-SNE of the latents, once for each column of colours.

    Parameters
    ----------
    table, columns, n, perplexity, seed
        As of `embed_tsne`.
    color
        Columns of the colours, one panel each; None for none.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame(rng.normal(size=(40, 2)), columns=["z_0", "z_1"])
    >>> print(draw_tsne(table).get_supxlabel().replace(chr(10), " "))
    t-SNE of z_0, z_1: all 40 rows, perplexity 13. Only neighbours mean something: sizes of
    clusters and distances between them don't.
    """
    colors: list[str | None] = [color] if color is None or isinstance(color, str) else [*color]
    need(table, *(c for c in colors if c is not None))
    laid = embed_tsne(table, columns, n=n, perplexity=perplexity, seed=seed)
    figure, axes = panels(len(colors), 1.0, width=3.6, across=3)
    for axis, name in zip(axes, colors, strict=True):
        _scatter(axis, laid, "tsne_0", "tsne_1", name, of=table)
        axis.set(xticks=[], yticks=[])  # no numbers: they would mean nothing
        axis.set_aspect("equal", adjustable="datalim")
        axis.margins(0.08)
        if name is not None:
            colour_bar(figure, axis, table, name)
    names = ", ".join(content_names(table) if columns is None else columns)
    rows = (
        f"{len(laid)} of {len(table)} rows, seed {seed}"
        if len(laid) < len(table)
        else (f"all {len(table)} rows")
    )
    caption = (
        f"t-SNE of {names}: {rows}, perplexity {min(perplexity, (len(laid) - 1) / 3):g}. Only "
        "neighbours mean something: sizes of clusters and distances between them don't."
    )
    width = 60 * min(len(colors), 3)
    figure.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8)
    return figure


def _scatter(
    axis: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    color: str | None,
    of: pd.DataFrame | None = None,
) -> None:
    """Draw rows as points; the scale of their colours is that of the whole table `of`."""
    # Many points: smaller and fainter, so that density still shows.
    crowd = max(len(table), 1)
    look: dict[str, Any] = {
        "s": float(np.clip(2e4 / crowd, 1, 20)), "alpha": float(np.clip(3e4 / crowd, 0.15, 0.9)),
        "linewidths": 0, "rasterized": True,
    }  # fmt: skip
    order = np.random.default_rng(0).permutation(len(table))  # no colour always on top
    rows = table.iloc[order]
    place = numbers(table, x, rows), numbers(table, y, rows)
    if color is None:
        axis.scatter(*place, color=BLUE, **look)
    else:
        whole = table if of is None else of
        norm, colours, names = scale(whole, color)
        axis.scatter(*place, c=numbers(whole, color, rows), norm=norm, cmap=colours, **look)
        if is_kind(whole, color) and len(names) <= NAMED:
            _name_kinds(axis, table, x, y, color)
    axis.set(xlabel=label(x), ylabel=label(y))


def _name_kinds(axis: Axes, table: pd.DataFrame, x: str, y: str, color: str) -> None:
    """Write the name of each kind amid its points, so that colour is not the only sign."""
    place = np.stack([numbers(table, x, table), numbers(table, y, table)], 1)
    for kind in pd.unique(table[color].sort_values()):
        own = place[(table[color] == kind).to_numpy()]
        middle = np.nanmedian(own, 0)
        near = own[np.nanargmin(((own - middle) ** 2).sum(1))]  # a median may lie in a void
        axis.text(
            float(near[0]), float(near[1]), str(kind), ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "lw": 0},
        )  # fmt: skip
