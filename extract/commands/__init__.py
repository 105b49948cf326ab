"""Commands of stage one besides the extraction itself: list, verify, why, images."""
