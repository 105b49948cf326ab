"""Whether Icebox embeds an image with every architecture of timm: ``make test-backbones``."""
