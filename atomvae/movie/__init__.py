"""The movie: frames with a calibration, read from any microscope file, and its drift."""
