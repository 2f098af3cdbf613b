"""While the movie without drift is shown, what was found in its frames moves with them."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import napari

STILL = "movie without drift"


def hold_still(viewer: "napari.ViewerModel") -> None:
    """Move atoms, arrows, tracks and fields by minus the drift of the frame, or back to zero.

    The movie without drift is drawn over the movie, so it is the one that counts where both are
    visible. Whatever is no picture moves, fields of ours too; coordinates in the layers stay
    those of the frames as they were recorded.

    Parameters
    ----------
    viewer : napari viewer
        Its layers have the drift of each frame, ``(t, 2)`` px, in
        ``metadata["atomvae"]["drift"]`` of the one that is named `STILL`.

    Examples
    --------
    >>> from napari.components import ViewerModel
    >>> viewer = ViewerModel()
    >>> about = {"atomvae": {"drift": [[0.0, 0.0], [2.0, 0.0]]}}
    >>> _ = viewer.add_image(np.zeros((2, 8, 8)), name=STILL, metadata=about)
    >>> atoms = viewer.add_points([[1.0, 5.0, 5.0]])
    >>> viewer.dims.set_current_step(0, 1)
    >>> hold_still(viewer)
    >>> atoms.translate.tolist()
    [0.0, -2.0, 0.0]
    """
    shift = np.zeros(2)
    if STILL in viewer.layers and viewer.layers[STILL].visible:
        still = viewer.layers[STILL]
        drift = still.metadata.get("atomvae", {}).get("drift", [(0.0, 0.0)])
        frame = min(int(viewer.dims.current_step[0]), len(drift) - 1)
        shift = 0.0 - np.array(drift[frame]) * still.scale[-2:]
    for layer in viewer.layers:
        if _lies_on_frames(layer) and not np.allclose(layer.translate[-2:], shift):
            layer.translate = [*layer.translate[:-2], *shift]


def _lies_on_frames(layer: Any) -> bool:
    """Whether a layer shows what was found in the frames, and not the frames themselves."""
    return not hasattr(layer, "interpolation2d") or "atomvae_field" in layer.metadata
