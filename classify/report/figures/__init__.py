"""One file a figure: from results to SVG."""
