"""Layers of a viewer, and the napari plugin."""
