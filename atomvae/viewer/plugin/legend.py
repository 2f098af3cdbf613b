"""A legend in the canvas: kinds and directions, each in its own colour."""

from collections.abc import Iterable, Iterator
from typing import Any

from atomvae.viewer.plugin.preferences import preference

PREFIX = "atomvae_legend"
MOST = 12  # entries; a longer list covers the picture
Entry = tuple[str, str, tuple[float, ...]]  # place, text, colour


def legend_entries(layers: Iterable[Any]) -> list[Entry]:
    """List what the colours of the visible layers mean.

    Parameters
    ----------
    layers : iterable of napari layers
        Ours have ``metadata["atomvae"]["legend"]``.

    Returns
    -------
    list of (str, str, tuple)
        Place in the canvas, text and RGBA colour: kinds of atoms under the caption, directions in
        a row at the bottom.
    """
    entries: list[Entry] = []
    for layer in layers:
        legend = layer.metadata.get("atomvae", {}).get("legend") or []
        if not layer.visible:
            continue
        place = "bottom_left" if hasattr(layer, "vector_style") else "top_left"
        entries += [(place, f"■ {text}", tuple(color)) for text, color in legend[:MOST]]
    return entries


def legend_pieces(viewer: Any) -> Iterator[None]:
    """Bring the legend in the canvas up to date; nothing happens when nothing changed.

    Parameters
    ----------
    viewer : napari viewer
        Its canvas gets an overlay of text for each entry.

    Yields
    ------
    None
        Before each new overlay, since it takes long to be drawn for the first time.
    """
    from napari.components.overlays import TextOverlay

    overlays = viewer.canvas.overlays
    wanted = legend_entries(viewer.layers) if preference("display", "legend", True) else []
    own = [overlays[name] for name in sorted(overlays) if name.startswith(PREFIX)]
    there = [(str(o.position), o.text, tuple(o.color)) for o in own if o.visible]
    if _rounded(there) == _rounded(wanted):
        return
    for overlay, (place, text, color) in zip(own, wanted, strict=False):
        overlay.text, overlay.color, overlay.position = text, color, place
        overlay.visible = True
    for overlay in own[len(wanted) :]:
        overlay.visible = False
    for number, (place, text, color) in enumerate(wanted[len(own) :], len(own)):
        yield
        overlays[f"{PREFIX}_{number:02d}"] = TextOverlay(
            text=text, color=color, position=place, font_size=13, visible=True, box=True
        )


def _rounded(entries: Iterable[Entry]) -> list[Any]:
    """Entries that compare although colours went through single precision."""
    return [(place, text, [round(float(c), 3) for c in color]) for place, text, color in entries]
