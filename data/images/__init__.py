"""Images at rest: class folders, CIFAR, digits; downloading and decoding them."""
