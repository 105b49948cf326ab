"""Constants of the solver that measurements set, each with what set it; nothing restates them.

Sizes in bytes and numbers were measured on two cores of a server CPU with 1 to 2 MB of cache a
core; `benchmarks/notes.md` has the tables. To change one, run ``make bench PARTS="one-c path"``
before and after. A constant that states a rule and not a measurement stays where it is used.
"""

from __future__ import annotations

# --- Products with the features (`design`, `passes`) -------------------------------------------

# Rows in one product: features that stay in the shared cache, so that the second product of a pass
# finds there what the first one read, and enough of them that the interpreter's part is small
# (blocks of a core's own cache, a quarter of this, took a third longer on two cores).
BLOCK_BYTES = 5_300_000
FEWEST_ROWS, MOST_ROWS = 64, 4096
# OpenBLAS multiplies without packing below 10^6 multiply-adds, which for thin factors is twice
# as fast (the packed copy of the features costs more than the arithmetic).
SMALL_PRODUCT = 1_000_000
# The product back is fastest with half as many: batches of 32 rows for ten columns of 1,280
# features took 16 ms where those of 64 took 20.
SMALL_BACK = 500_000
# Folding the shift in loses as many digits as |shift| / scale has; beyond this a copy is made.
LARGEST_FOLD = 50.0
# Rows in another order are copied up to this size; a pass that gathers them takes half as long
# again.
COPY_BYTES = 300_000_000
# What one thread does at a time: enough for its start to cost nothing, little enough to share out.
PIECE_BYTES = 16_000_000
# With fewer pieces than this threads share the columns, at least so many each (products of fewer
# take a fifth longer in all), in so many parts.
FEW_SPANS, FEWEST_COLUMNS, COLUMN_PARTS = 4, 400, 8
# Sums larger than this are added up by several threads.
SHARE_NUMBERS = 250_000
# Rows of the features in one step of the means and deviations.
MOMENT_ROWS = 4096

# --- Tables of parameters and of scores (`threads`, `row_norms`, `certificate`) ----------------

# Numbers in a piece: two or three of them stay in a core's own cache.
PIECE_NUMBERS = 65_536
# Numbers whose rows are divided by their norms at a time.
NORM_NUMBERS = 1_000_000
# Rows, and float64 scores, in one block of the certificate.
CERTIFICATE_ROWS = 4096
CERTIFICATE_NUMBERS = 500_000

# --- Features on the disk (`out_of_core`, `memory`) --------------------------------------------

# Scores that are made at once where rows are answered for; and rows, however many columns there
# are, since what a step does with the weights of all columns is the same for one row.
STEP_NUMBERS, STEP_ROWS = 500_000, 16
# Scores that may be made at once of features in memory, where larger products are faster.
WHOLE_NUMBERS = 20_000_000
# From so many columns on most of the time goes into what is made of the scores, which threads
# share: numbers of a step.
WIDE_COLUMNS, WIDE_NUMBERS = 4096, 1_000_000
# One-vs-one cuts a chunk into the runs of its classes, which should not be too short.
CHUNK_BYTES, RUN_BYTES, LARGEST_CHUNK = 32_000_000, 1_000_000, 256_000_000
SMALLEST_CHUNK = 1_000_000
GOOD_CHUNK = 8_000_000
# A chunk leaves room for so many threads.
CHUNK_THREADS = 4
# Objects of the interpreter for each column: status, counters, its own inverse.
OBJECT_BYTES = 3000
# Sizes of curvature that columns' factorisations are made for: more are rare.
BUCKETS = 6
# Samples of the shared basis, from the best to the smallest that is of any use.
SHARED_SAMPLES = (12_000, 6_000, 3_000, 1_500)

# --- The minimiser (`lbfgs`, `line_search`, `moves`) -------------------------------------------

# How many iterations without progress before rounding is blamed.
PATIENCE = 30
# And how many iterations in a row may go nowhere: from L-BFGS's direction, from the preconditioned
# gradient, from the gradient.
FAILURES = 3
# Iterations that a problem's speed is judged by, and the least speed, in powers of e an iteration.
SPAN = 6
SLOWEST = 0.02
# The arrays of corrections are made smaller when no more than this share of their rows is in use;
# copying the others together each time would take longer than the products.
IN_USE = 0.5
# Points along a direction that are looked at before the line search gives up.
LARGEST_TRIALS = 40
# A step is at most this many times the one before, until one has been too long.
STRETCH = 10.0
# Newton's steps stay this far inside the bracket, as a share of its width.
MARGIN = 0.05
# The share of the slope at zero that may be left after a step that does not lower the value.
CURVATURE = 0.9
# The line search ends where the slope has fallen to this share; Newton's step does the rest.
FLAT = 0.7
# Where that step led astray, the search is done again, this exactly and without it.
EXACT = 0.01
# Newton's step may change the step's length and an intercept by this much.
LARGEST_STRETCH = 0.5
LARGEST_SHIFT = 1.0

# --- Which preconditioner a fit gets (`fit`) ---------------------------------------------------

# An inverse Hessian for each column may cost this many passes and hold this many numbers.
LARGEST_PRICE = 12.0
FACTOR_NUMBERS = 50_000_000
# Multiply-adds that are done at once whatever a pass costs.
SMALL_WORK = 2e9
# What an update of the shared one costs, in passes.
SHARED_PRICE = 13.0
# A column's own inverse beside the shared one, in iterations of that column.
SLOW_PRICE = 20.0
# Rows are fitted in an orthonormal basis of their span where they are at most this share of the
# features, and at most so many for each column of the scores (the basis costs as many passes).
SPAN_SHARE = 0.9
SPAN_ROWS = 10
# Fewer features in single precision than this, of all rows together, are copied to double where
# single precision does not reach the tolerance: up to 64 MB.
DOUBLE_NUMBERS = 8_000_000

# --- One-vs-one of few rows (`few_rows`) --------------------------------------------------------

# Rows of two classes together, up to which their pair is fitted in the rows' own coordinates, and
# numbers in the products of all rows with each other (the part `few` of the benchmarks).
FEW_ROWS = 64
GRAM_NUMBERS = 32_000_000
# Numbers in the products of the rows of the pairs that are solved at a time.
PAIR_NUMBERS = 40_000
# How often a step may be shortened.
HALVINGS = 40

# --- Certificates of a softmax of many classes (`certificate`) ----------------------------------

# With so many classes, the intercepts keep a Hessian for as long as every step leaves no more than
# this share of what is out of balance.
CHORD_CLASSES, CHORD = 64, 0.1

# --- The path of C (`classify.selection`) -------------------------------------------------------

# Scores of held-out rows at a value of C, above which a tenth of all rows is enough.
JUDGED_NUMBERS = 100_000_000
# Scores of one-vs-one there, above which only some of these rows get probabilities: to couple a row
# of 499,500 scores takes three times as long as to count its votes.
COUPLED_NUMBERS = 25_000_000

# --- An inverse for each column (`preconditioner.sampled`) -------------------------------------

# Rows in the sample that all columns share, and in each column's own, as multiples of the width.
SHARED_ROWS = 6
OWN_ROWS = 2
# The same for columns that share one and are slow, the iterations after which they are judged, and
# the numbers that all those inverses hold.
SLOW_ROWS = 1.5
SETTLED = 10
SLOW_NUMBERS = 18_000_000
# Where these do not suffice, the next are made once there is room for so many.
SLOW_TOGETHER = 4
# Inverses are renewed after so many iterations at the latest, in units of their price, if
# iterations are cheap: where classes are apart and C is large, the curvature goes on falling.
LONGEST = 5.0
# Rows whose curvature is computed at a time.
CURVATURE_ROWS = 4096
# Rows of panels that a triangle is kept in.
PANELS = 4
# The least curvature of an intercept, per row of weight 1 and in units of C.
SOFTEST = 1e-6

# --- One inverse that columns share (`preconditioner.shared`, `preconditioner.factors`) --------

# Columns whose curvatures are within this factor of each other share a factorisation.
BUCKET = 9.0
# Directions in which a column has its own part, the fewest features for that, and numbers in all
# those parts; see `LIGHT`.
LEADING = 128
NARROW = 256
DENSE_NUMBERS = 16_000_000
LIGHT_NUMBERS = 100_000_000
# Iterations of subspace iteration from a random basis.
LEADING_ITERATIONS = 3
# Rows of the sample in one piece of work, sums held at once, and parts of the features.
SAMPLE_ROWS = 1024
PARTS = 4
FEATURE_PARTS = 4
# Columns that one thread works on at a time.
TOGETHER = 16
# Where most columns have no more curvature than this in all, an average of what lies outside the
# leading directions will do; it needs no matrix of features by features, and has room for more.
LIGHT, MOST = 3.0, 0.95
# Triangles up to this size are inverted directly.
LEAF = 32

# --- A start in a few directions (`preconditioner.principal_start`) ----------------------------

START_DIRECTIONS = 128
# Fewer features than this many times the directions are not worth a problem of their own.
START_WIDTHS = 4
# Rows of the restricted problem where the curvature of an average direction at zero is this many
# times the penalty's, and at most; more where it is larger, for the sample is then fitted closer.
START_ROWS = 10_000
START_MOST_ROWS = 50_000
START_CURVATURE = 25.0
START_GROWTH = 0.3
# Rows of a class at least, if it has so many; rows in one piece of work.
START_CLASS_ROWS = 200
START_PIECE = 1024
# Rows a feature that the directions are found with, and iterations to find them.
START_SPREAD = 2
START_ITERATIONS = 2
# Fewer scores than this a pass are one thread's work.
START_FEW_SCORES = 300_000
# How well the restricted problems are solved: better where iterations are more expensive, since
# each column has an inverse of its own.
START_TOL, START_CLOSE_TOL = 0.3, 0.1
START_MAX_ITER = 20
# Rows for each direction in the restricted problems' own inverses, what these cost in passes, and
# how many columns may have one; and rows for each direction in one that they share.
START_OWN_ROWS = 2
START_OWN_PRICE = 4.0
START_COLUMNS = 300
START_SHARED_ROWS = 8
# Below this curvature of an average direction, against the penalty's one, zero is near enough.
START_LEAST_CURVATURE = 1.0

# --- A device (`torch_backend`) ----------------------------------------------------------------

# Numbers in one temporary of a pass: a quarter of a gigabyte in float32.
DEVICE_CHUNK_NUMBERS = 1 << 26
# Rows whose products are summed in the features' own precision.
DEVICE_BLOCK_ROWS = 2048
# What one inverse Hessian a column may cost on a device: a second or two of multiply-adds at
# twenty teraflops or else some passes, and a share of the device's memory.
DEVICE_FACTOR_WORK = 2e13
DEVICE_FACTOR_PASSES = 12.0
DEVICE_FACTOR_SHARE = 0.25
# The numbers of those inverses where the device is the host.
DEVICE_FACTOR_NUMBERS = 500_000_000
# Times that an inverse that does not exist is tried again with a larger diagonal.
DEVICE_ATTEMPTS = 12
# Triangles up to this size are inverted directly, larger ones by halves.
DEVICE_LEAF = 128
# The iterations at which the inverses are renewed: soon, and then ever more rarely.
DEVICE_RENEWALS = (5, 14, *range(60, 1000, 60))
