"""Rows that a test hands over a block at a time."""


class Rows:
    """A source over an array, which counts what is read of it."""

    def __init__(self, X):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype
        self.largest = 0

    def __len__(self):
        return len(self.X)

    def read(self, start, stop, out=None):
        self.largest = max(self.largest, stop - start)
        if out is None:
            return self.X[start:stop].copy()
        out[:] = self.X[start:stop]
        return out

    def gather(self, rows):
        return self.X[rows]
