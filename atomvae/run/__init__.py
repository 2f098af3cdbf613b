"""A whole analysis: configuration, run folder, stages, where to compute, the command line."""
