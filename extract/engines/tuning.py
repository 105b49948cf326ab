"""Which engine and which batch size: measured on the real network, in the first seconds.

No engine is fastest for every network, and on a CPU the large batch that suits a GPU is the
slowest. A run that would be over before a measurement repays itself takes the default.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from data.common.cli import log
from extract.engines import build as engines
from extract.engines import constants
from extract.engines.device import EngineError, OutOfMemoryError
from extract.engines.embed import Embedder, Images
from extract.engines.measured import Measurement, Measurements, Subject, read, write
from extract.engines.plan import Plan


def choose(subject: Subject, n_images: int) -> Plan:
    """Choose the engine and the batch size of a run, by measuring where that repays itself."""
    names, instead_of, halve = subject.names(), None, subject.batch_size is None
    if subject.engine == "compiled" and subject.batch_size is None:
        # Every size would have to be compiled: it takes the one that suits torch.
        subject = replace(subject, batch_size=_size_for_torch(subject, n_images))
    size = subject.first_batch_size()
    if subject.engine in engines.CHECKED:
        try:
            subject, size = _fitting(subject, size, halve)
        except EngineError as error:
            log_failed(subject.engine, error)
            instead_of = subject.engine
            names = torch_paths(subject, without=subject.engine)
    if len(names) == 1 and subject.batch_size is not None:
        return subject.plan(names[0], subject.batch_size, instead_of)
    best = _fastest(subject, names, n_images)
    if best is None:
        return subject.plan(names[0], size, instead_of)
    return subject.plan(best.engine, best.batch_size, instead_of)


def _fitting(subject: Subject, size: int, halve: bool) -> tuple[Subject, int]:
    """Admit the engine that the user insists on, at half the batch size where memory is short."""
    while True:
        try:
            _admit(subject, subject.engine, size)
        except OutOfMemoryError:
            if not halve or size == 1:
                raise
        else:
            return subject, size
        size //= 2
        if subject.batch_size is not None:
            subject = replace(subject, batch_size=size)
        log(f"out of memory; trying batches of {size}")


def _size_for_torch(subject: Subject, n_images: int) -> int:
    """Find the batch size at which torch's default engine is the fastest."""
    plain = replace(subject, engine=engines.default_engine(subject.backbone))
    best = _fastest(plain, plain.names(), n_images)
    return subject.first_batch_size() if best is None else best.batch_size


def _fastest(subject: Subject, names: Sequence[str], n_images: int) -> Measurement | None:
    """Find the fastest candidate that gives torch's vectors; None where that is not worth while.

    What an earlier run measured is taken, after a look at the vectors of its engine.
    """
    known = _read(subject, names)
    fresh = known is None
    if known is None:
        seconds = _seconds_of_one(subject, names[0])
        size, slow = subject.first_batch_size(), constants.SLOW_BATCH
        if slow * seconds > constants.LONG_SECONDS:
            size = min(size, slow)
        known = Measurements()
        likely = _likely_best(subject, names, size, seconds * n_images, known)
        if likely is not None and n_images / likely.rate < constants.WORTH_SECONDS:
            return likely if likely.rate * seconds > 1.0 else None
        if seconds * n_images < constants.WORTH_SECONDS:
            return None
        known = measure(subject, names, size, known)
    compiled = _try_compiling(subject, known, n_images)
    if fresh or compiled:
        if known.best(n_images).seconds(n_images) > constants.SETTLE_SECONDS:
            _settle(subject, known)
        write(subject, names, known)
        log(known.summary())
        _weigh_precision(subject, known.best(n_images))
    for name, reason in known.failed.items():
        log_failed(name, reason)
    if fresh or compiled:
        return known.best(n_images, compiled)
    return _readmitted(subject, known, n_images)


def _likely_best(
    subject: Subject, names: Sequence[str], size: int, seconds: float, found: Measurements
) -> Measurement | None:
    """Try what is the fastest almost everywhere, alone, for a run too short to measure all.

    None where it cannot be tried, or where its preparation takes longer than the default's run.
    """
    if "openvino" not in names or seconds < constants.WORTH_CONVERTING_SECONDS:
        return None
    trial = _try(subject, "openvino", size, found, once=True)
    # Of a longer run, all that failed is said when the others have been measured.
    if "openvino" in found.failed and seconds < constants.WORTH_SECONDS:
        log_failed("openvino", found.failed["openvino"])
    found.trials.clear()  # one batch says which engine is faster, not which size
    return trial


def _readmitted(subject: Subject, known: Measurements, n_images: int) -> Measurement:
    """Take the best candidate of earlier measurements that still gives torch's vectors."""
    while known.trials:
        best = known.best(n_images)
        if best.engine not in engines.CHECKED or best.engine == subject.engine:
            return best
        try:
            _admit(subject, best.engine, best.batch_size)
        except EngineError as error:
            log_failed(best.engine, error)
            known.drop(best.engine)
            if not known.trials:
                others = torch_paths(subject, without=best.engine)
                known = measure(subject, others, subject.first_batch_size())
        else:
            return best
    raise AssertionError("measuring gives one trial at least")


def _read(subject: Subject, names: Sequence[str]) -> Measurements | None:
    """Read what earlier runs measured of the engines that this one may use."""
    known = read(subject, names)
    if known is not None and subject.engine == "auto" and not _can_compile(subject):
        known.drop("compiled")
    return known


def _can_compile(subject: Subject) -> bool:
    """Tell whether a compiled network may be used, and can be made here."""
    reason = engines.why_not("compiled", subject.device, subject.precision)
    return subject.may_compile and reason is None


def _try_compiling(subject: Subject, known: Measurements, n_images: int) -> bool:
    """Compile the network and time it, where that may pay; tell whether it was done here."""
    if subject.engine != "auto" or known.knows("compiled"):
        return False
    seconds = known.best(n_images).seconds(n_images)
    if constants.COMPILE_GAIN * seconds < constants.COMPILE_SECONDS or not _can_compile(subject):
        return False
    log("compiling the network, to find out whether that repays itself")
    own = [trial for trial in known.trials if trial.engine != "openvino"]
    size = max(own or known.trials, key=lambda trial: trial.rate).batch_size
    trial = _try(subject, "compiled", size, known)
    if trial is not None:
        log(f"compiled in {trial.build_seconds:.0f} s")
    return trial is not None or "compiled" in known.failed


def _settle(subject: Subject, known: Measurements) -> None:
    """Time the contenders again, in turn: whatever else a machine does must not decide.

    Other programs only ever make a trial slower, so the fastest of its batches counts.
    """
    start = time.perf_counter()
    for _ in range(constants.ROUNDS):
        ranked = known.best_of_each()
        contenders = [
            trial for trial in ranked if trial.rate > constants.CONTENDER * ranked[0].rate
        ]
        for trial in contenders[: constants.CONTENDERS] if len(contenders) > 1 else []:
            embedder = subject.embedder(trial.engine, trial.batch_size)
            images = subject.batch(trial.batch_size)
            embedder.embed(images)
            rate = max(trial.rate, trial.batch_size / _seconds_of_batch(embedder, images))
            known.trials[known.trials.index(trial)] = replace(trial, rate=rate)
    known.seconds += time.perf_counter() - start


def _weigh_precision(subject: Subject, best: Measurement) -> None:
    """Say where a precision that costs exactness does not even save time, as on many CPUs."""
    if subject.device.type != "cpu" or subject.precision == "fp32":
        return
    engine = engines.default_engine(subject.backbone) if best.engine == "compiled" else best.engine
    exact = _try(replace(subject, precision="fp32"), engine, best.batch_size, Measurements())
    if exact is not None and exact.rate > best.rate:
        log(
            f"{subject.precision} is slower than fp32 on this processor ({best.rate:.3g} against "
            f"{exact.rate:.3g} images/s): --precision fp32 is exact and takes less time"
        )


def _seconds_of_batch(embedder: Embedder, images: Images, *, once: bool = False) -> float:
    """Embed a batch, or the same one again and again for a while: the seconds of the fastest."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < constants.TRIAL_SECONDS and not once):
        before = time.perf_counter()
        embedder.embed(images)
        seconds.append(time.perf_counter() - before)
    return min(seconds)


def choose_quickly(subject: Subject, n_images: int) -> Plan:
    """Choose from what earlier runs measured, or else the default: nothing is run."""
    names = subject.names()
    known = _read(subject, names)
    if known is None:
        return subject.plan(names[0], subject.first_batch_size())
    best = known.best(n_images)
    return subject.plan(best.engine, best.batch_size)


def torch_paths(subject: Subject, without: str) -> list[str]:
    """List what is left when an engine has failed, the default one first."""
    every = replace(subject, engine="auto").names()
    return [name for name in every if name not in ("openvino", without)]


def log_failed(engine: str, reason: object) -> None:
    """Say in one line that an engine is not used."""
    log(f"the engine {engine} is not used, torch takes its place: {reason}")


def measure(
    subject: Subject, names: Sequence[str], batch_size: int, found: Measurements | None = None
) -> Measurements:
    """Time every engine at one batch size, and the fastest ones at others.

    Of ``found``, engines that have failed are not tried again.
    """
    log("measuring which engine and batch size are the fastest")
    start = time.perf_counter()
    found = Measurements() if found is None else found
    while not found.trials:
        for name in names:
            _try(subject, name, batch_size, found)
        if not found.trials and batch_size == 1:
            raise OutOfMemoryError("one image does not fit")
        batch_size //= 2 if not found.trials else 1
    if subject.batch_size is None:
        fastest = max(trial.rate for trial in found.trials)
        for trial in tuple(found.trials):
            if trial.rate >= constants.CLOSE * fastest:
                _climb(subject, trial, found)
    found.seconds = time.perf_counter() - start
    return found


def _climb(subject: Subject, trial: Measurement, found: Measurements) -> None:
    """Go on to larger batches as long as they are faster, or else to smaller ones."""
    largest = constants.LARGEST_BATCH.get(subject.device.type, trial.batch_size)
    for factor in (2.0, 0.5):
        best, size = trial, int(trial.batch_size * factor)
        while 1 <= size <= largest and subject.fits(size):
            other = _try(subject, trial.engine, size, found)
            if other is None or other.rate < constants.GAIN * best.rate:
                break
            best, size = other, int(size * factor)
        if best is not trial:
            return


def _try(
    subject: Subject, name: str, size: int, found: Measurements, *, once: bool = False
) -> Measurement | None:
    """Time one engine at one batch size; None where it fails or has no memory for it."""
    if name in found.failed:
        return None
    start = time.perf_counter()
    try:
        embedder = _admit(subject, name, size, constants.FEWER_ROWS if once else None)
        built = [trial.build_seconds for trial in found.trials if trial.engine == name]
        first = time.perf_counter()
        seconds = _seconds_of_batch(embedder, subject.batch(size), once=once)
    except EngineError as error:
        found.failed[name] = str(error)
        return None
    except OutOfMemoryError:
        return None
    # What is made once, such as a conversion, is kept for the other batch sizes and the run.
    trial = Measurement(name, size, size / seconds, built[0] if built else first - start)
    found.trials.append(trial)
    return trial


def _admit(subject: Subject, name: str, size: int, most_rows: int | None = None) -> Embedder:
    """Prepare an engine, and check its vectors of the first images; which warms it up, too."""
    rows = min(most_rows or constants.CHECKED_ROWS, size, len(subject.images))
    reference = None
    if name in engines.CHECKED:
        plain = replace(subject, precision="fp32").embedder("torch", rows)
        reference = plain.embed(subject.batch(rows))
    embedder = subject.embedder(name, size)
    vectors = embedder.embed(subject.batch(rows))
    if reference is not None:
        engines.check_rows(vectors, reference, subject.precision)
    return embedder


def _seconds_of_one(subject: Subject, name: str) -> float:
    """Estimate the seconds of an image from one small batch, on the default engine."""
    size = 1 if subject.device.type == "cpu" else constants.SLOW_BATCH
    try:
        embedder = subject.embedder(name, size)
        images = subject.batch(size)
        embedder.embed(images)
        start = time.perf_counter()
        embedder.embed(images)
    except OutOfMemoryError:
        # So large a network is worth measuring, and that finds out what fits.
        return float("inf")
    return (time.perf_counter() - start) / size
