"""Networks that timm does not have: of open_clip, of transformers, and of the user's own code."""
