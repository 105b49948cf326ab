"""Estimators and rows that tests of the solver's twin share."""

import numpy as np
from problems_for_tests import blobs

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic

OURS = {"multinomial": MultinomialLogistic, "ovr": OneVsRestLogistic, "ovo": OneVsOneLogistic}


def data(n=400, d=8, k=4, dtype=np.float32, **options):
    X, labels = blobs(n=n, d=d, k=k, dtype=dtype, **options)
    shuffle = np.random.default_rng(9).permutation(n)
    return X[shuffle] / 3, np.array(list("dcbafe"))[labels[shuffle]]
