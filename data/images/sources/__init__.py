"""Where images and labels come from: a file a source, listed in `data.images.sources.registry`."""
