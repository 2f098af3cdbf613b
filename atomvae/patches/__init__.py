"""A patch around every atom, in Zarr."""
