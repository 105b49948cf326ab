"""What measuring set of engines and batch sizes; the runs are in ``benchmarks/notes.md``.

``make bench PARTS=engines`` measures them: stage one on a CPU, two cores of an Intel Xeon.
"""

from __future__ import annotations

# Batch sizes to begin with: on a CPU the activations of large batches do not fit into its caches.
CPU_BATCH = 16
CUDA_BATCH = 256
# Where the search for a larger batch ends: the fastest were 32 and 64 on a CPU.
LARGEST_BATCH = {"cpu": 64, "cuda": 1024}
# Images that an OpenVINO stream of its own works on at a time: with 4, all networks were faster by
# 3 to 10 % than with all threads on a whole batch, and than with 1, 2 and 8.
OPENVINO_PART = 4
# A host that runs out of memory kills the process: no batch may take more of what is free.
MEMORY_SHARE = 0.5

# A run that is ended sooner is not worth measuring for; one that the default engine ends sooner
# than the second is not even worth a conversion to OpenVINO, which takes 1 to 3 seconds and is then
# two to five times as fast (all networks that `make bench PARTS="engines photos"` has tried).
WORTH_SECONDS = 30.0
WORTH_CONVERTING_SECONDS = 4.0
# Engines are compared at the default batch size, or at this one where a batch takes long.
SLOW_BATCH = 4
LONG_SECONDS = 1.0
# Each candidate is timed for so long, after a first batch that warms it up.
TRIAL_SECONDS = 0.4
# Of an engine this much slower than the best, no other batch size is tried.
CLOSE = 0.8
# Another batch size must be faster by more than the noise of a trial.
GAIN = 1.02
# Before a run that takes longer, the best trial of each engine no slower than this is timed again,
# so often: something else on the host once held up two trials of the best engine.
SETTLE_SECONDS = 120.0
CONTENDER = 0.6
CONTENDERS = 3
ROUNDS = 3
# Compiling takes tens of seconds, and is only tried, once, where it may save more than that.
COMPILE_SECONDS = 30.0
COMPILE_GAIN = 0.25

# Images whose vectors are compared with torch's before an engine is used.
CHECKED_ROWS = 16
# The same before a short run.
FEWER_ROWS = 4
# Largest difference from torch in float32, relative to the largest value of the first batch; the
# benchmark's engines differ by 2e-6 and less, 24 families of networks by 1.4e-6 (one by 6e-4: a
# bicubic resize of its own, which OpenVINO computes otherwise).
FP32_TOLERANCE = 1e-4
# Half-precision networks lose digits at every layer: the direction of a row is what remains.
LOWEST_COSINE = {"fp32": 0.9999, "fp16": 0.99, "bf16": 0.98}

# Image files that a process decodes between two messages: one costs little beside them, and at the
# end of a run no process is left alone with many.
DECODED_TOGETHER = 4
# Decoded images that may wait for the network, in bytes, and of the free memory.
AHEAD_BYTES = 128 << 20
AHEAD_SHARE = 0.1
