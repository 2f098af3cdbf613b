"""One small file per family of file formats; each reader returns a lazy Movie."""
