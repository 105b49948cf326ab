"""Decision trees, forests and gradient boosting on principal components, plain or in reductions."""
