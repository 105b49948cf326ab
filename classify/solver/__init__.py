"""The solver: arrays in, a solution out; no files, no printing.

Words that mean one thing in this folder:

- A *problem* is one objective with one C of its own: a class against the rest, a pair of classes,
  or the whole multinomial. `n_problems` counts them.
- A *column* is one linear function of the features, with its intercept: a column of the scores.
  Binary problems have one column, the multinomial one for each class. A pass has the columns of the
  problems that are still being solved.
- A *head* is a column folded back to raw features: a row of ``coef_``. `n_heads` counts them.
- A *group* is a range of rows and the columns that they meet; a *row span* is the part of a group
  that one thread takes at a time.
- A *signed score* is a score times the group's sign, so that the loss of a binary problem falls
  towards minus infinity.
- The *residual* is the loss's first derivative in the score, the *curvature* its second.
- An *iteration* is one step of the minimiser for a problem; a *pass* is one read of all rows.
- *Moves* are where problems are during a minimisation, and how they go on from there.
- A *chunk* is what is read from the disk at once; a *block* what one matrix product takes.
"""
