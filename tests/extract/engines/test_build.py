"""Every engine gives torch's rows; the fastest is chosen; one that fails is replaced."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

from data.reading import open_features, read_header, verify_store
from data.reembedded import read_rechecked
from extract.engines import build as engines
from extract.engines import compiled, constants, embed, measured, tuning
from extract.engines import openvino as openvino_engine
from extract.engines.constants import CPU_BATCH
from extract.engines.device import EngineError
from extract.engines.embed import Embedder
from extract.engines.measured import activation_bytes
from extract.model.backbone import BackboneRequest, load_backbone

CPU = torch.device("cpu")
OPENVINO = engines.openvino_version() is not None
needs_openvino = pytest.mark.skipif(not OPENVINO, reason="OpenVINO is not installed")
COMPILER = compiled.missing_tool(CPU) is None
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
VIT = "vit_tiny_patch16_224"
OTHERS = ["channels-last", "folded", pytest.param("openvino", marks=needs_openvino)]


def backbone(model="test_efficientnet"):
    # Vision transformers that take any size resize their positions in every pass, which OpenVINO
    # cannot convert.
    size = 224 if model == VIT else 32
    return load_backbone(BackboneRequest(model, "random", image_size=size))


def pictures(n):
    return np.random.default_rng(0).integers(0, 256, (n, 20, 24, 3), dtype=np.uint8)


def embedded(network, engine, images, batch=8, precision="fp32"):
    made = Embedder(network, CPU, precision, engine, batch)
    return np.concatenate([made.embed(images[i : i + batch]) for i in range(0, len(images), batch)])


def relative(rows, reference):
    return np.abs(rows - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("model", ["test_efficientnet", "test_resnet", VIT])
def test_engines_agree_at_every_batch_size(model, engine):
    network = backbone(model)
    images = pictures(5 if model == VIT else 11)
    reference = embedded(network, "torch", images)
    if engine == "folded" and model == VIT:
        with pytest.raises(EngineError, match="no batch norm"):
            embedded(network, engine, images)
        return
    sizes = (4, 16) if model == VIT else (1, 4, 16)
    rows = {batch: embedded(network, engine, images, batch) for batch in sizes}
    for batch in rows:
        assert relative(rows[batch], reference) < 1e-5
        assert relative(rows[batch], rows[16]) < 1e-5
    # Another engine leaves the network as it was.
    assert np.array_equal(embedded(network, "torch", images), reference)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_network_with_a_convolution_over_volumes(engine):
    network = load_backbone(BackboneRequest("lambda_resnet26t", "random", image_size=256))
    assert any(tensor.ndim == 5 for tensor in network.module.parameters())
    images = pictures(2)
    reference = embedded(network, "torch", images, 2)
    assert relative(embedded(network, engine, images, 2), reference) < 1e-5


@needs_compiler
def test_a_compiled_network_agrees():
    network = backbone()
    images = pictures(7)
    reference = embedded(network, "torch", images, 4)
    rows = embedded(network, "compiled", images, 4)
    assert relative(rows, reference) < 1e-5
    prepared = set(network.prepared)
    assert np.array_equal(embedded(network, "compiled", images, 4), rows)
    assert set(network.prepared) == prepared, "compiled once"
    # The network itself is as it was, in whatever format it is wanted next.
    assert np.array_equal(embedded(network, "torch", images, 4), reference)


def test_a_network_that_cannot_be_compiled_says_so(monkeypatch):
    def compile_nothing(function, **_):
        def fail(images):
            raise ValueError("no such kernel\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(EngineError, match=r"cannot be compiled \(no such kernel\)"):
        embedded(backbone(), "compiled", pictures(2))


def test_folding_folds_every_norm_of_a_resnet():
    network = backbone("test_resnet")
    from extract.engines.folding import fold_batch_norms, foldable

    assert foldable(network.module)
    folded = fold_batch_norms(network.module, torch.zeros(1, 3, 32, 32))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())


@needs_openvino
def test_bf16_is_close_but_not_the_same():
    if not openvino_engine.computes_in("bf16"):
        pytest.skip("this processor has no bf16")
    network = backbone()
    images = pictures(6)
    full = embedded(network, "torch", images)
    half = embedded(network, "openvino", images, precision="bf16")
    assert not np.array_equal(full, half)
    assert engines.differences(half, full)[1].min() > 0.98


def test_wrong_rows_are_refused():
    rows = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    engines.check_rows(rows, rows, "fp32")
    with pytest.raises(EngineError, match="differs from torch by"):
        engines.check_rows(rows + 0.01, rows, "fp32")
    with pytest.raises(EngineError, match="cosine"):
        engines.check_rows(-rows, rows, "bf16")
    with pytest.raises(EngineError, match="NaN"):
        engines.check_rows(rows * np.nan, rows, "bf16")


def picked(plan):
    return plan.engine, plan.batch_size


@functools.cache
def network():
    """One backbone for tests in which it is as it was afterwards."""
    return backbone()


def subject(**more):
    return tuning.Subject(network(), CPU, "fp32", pictures(5), **more)


@pytest.fixture
def rates(monkeypatch):
    """Make every trial see the rate given here, without a clock."""
    given = {}

    def trial(subject, name, size, found, once=False):
        if name in found.failed or (name, size) not in given:
            return None
        made = measured.Measurement(name, size, given[name, size], 1.0)
        found.trials.append(made)
        return made

    monkeypatch.setattr(tuning, "_try", trial)
    monkeypatch.setattr(tuning, "_seconds_of_one", lambda *_: 0.01)
    monkeypatch.setattr(tuning, "_settle", lambda *_: None)
    return given


def test_the_fastest_engine_and_batch_are_taken_and_remembered(rates, monkeypatch):
    rates.update({("torch", 16): 10, ("channels-last", 16): 90, ("folded", 16): 100})
    rates.update({("folded", 32): 120, ("folded", 64): 110, ("channels-last", 8): 200})
    choice = tuning.choose(subject(), 100_000)
    assert (choice.engine, choice.batch_size) == ("channels-last", 8)
    monkeypatch.setattr(tuning, "measure", None)
    assert tuning.choose(subject(), 100_000) == choice
    assert tuning.choose_quickly(subject(), 100_000) == choice


def test_an_engine_that_was_fine_when_measured_is_checked_again(rates, monkeypatch, capsys):
    rates.update({("torch", 16): 10, ("channels-last", 16): 90, ("folded", 16): 100})
    assert tuning.choose(subject(), 100_000).engine == "folded"
    assert tuning.choose(subject(), 100_000).engine == "folded"

    def wrong(rows, reference, precision):
        raise EngineError("its vectors are others today")

    monkeypatch.setattr(engines, "check_rows", wrong)
    capsys.readouterr()
    assert tuning.choose(subject(), 100_000).engine == "channels-last"
    assert "folded is not used, torch takes its place: its vectors" in capsys.readouterr().err


def test_compiling_is_tried_where_the_run_is_long_and_kept_where_it_pays(rates, monkeypatch):
    monkeypatch.setattr(compiled, "missing_tool", lambda device: None)
    rates.update({("torch", 16): 10, ("channels-last", 16): 100, ("folded", 16): 100})
    rates.update({("compiled", 16): 120})
    short, long = 5_000, 50_000  # 50 s, and 500 s
    assert tuning.choose(subject(), short).engine == "channels-last"
    assert tuning.choose(subject(may_compile=False), long).engine == "channels-last"
    assert picked(tuning.choose(subject(), long)) == ("compiled", 16)
    # What was measured is kept, and the time that compiling took counts in the next run.
    monkeypatch.setattr(tuning, "_try", None)
    found = measured.read(subject(), subject().names())
    slow = [t for t in found.trials if t.engine != "compiled"]
    (quick,) = [t for t in found.trials if t.engine == "compiled"]
    found.trials = [*slow, dataclasses.replace(quick, build_seconds=60.0)]
    measured.write(subject(), subject().names(), found)
    assert picked(tuning.choose(subject(), long)) == ("compiled", 16)
    assert tuning.choose(subject(), 20_000).engine == "channels-last"
    assert tuning.choose(subject(may_compile=False), long).engine == "channels-last"
    assert picked(tuning.choose_quickly(subject(), long)) == ("compiled", 16)


def test_compiling_that_fails_is_said_so_and_not_tried_again(monkeypatch, capsys):
    def fail(*_):
        raise EngineError("the network cannot be compiled (odd)")

    monkeypatch.setattr(compiled, "missing_tool", lambda device: None)
    monkeypatch.setattr(compiled, "compiled_function", fail)
    monkeypatch.setattr(engines, "candidates", lambda *_: ["channels-last"])
    monkeypatch.setattr(constants, "TRIAL_SECONDS", 0.0001)
    assert tuning.choose(subject(), 10**9).engine != "compiled"
    monkeypatch.setattr(tuning, "_try", None)
    assert tuning.choose(subject(), 10**9).engine != "compiled"
    lines = [line for line in capsys.readouterr().err.splitlines() if "(odd)" in line]
    assert len(lines) == 2


def test_a_compiled_network_takes_the_batch_size_that_suits_torch(rates, monkeypatch):
    admitted = []
    monkeypatch.setattr(tuning, "_admit", lambda _, name, size: admitted.append((name, size)))
    rates.update({("channels-last", 16): 100, ("channels-last", 32): 90})
    rates.update({("channels-last", 8): 120, ("channels-last", 4): 110})
    choice = tuning.choose(subject(engine="compiled"), 100_000)
    assert picked(choice) == ("compiled", 8)
    assert admitted == [("compiled", 8)]


def test_contenders_are_timed_again_and_their_fastest_batch_counts(monkeypatch):
    rates = {"torch": 70.0, "channels-last": 110.0, "folded": 90.0}
    monkeypatch.setattr(
        tuning, "_seconds_of_batch", lambda embedder, images: len(images) / rates[embedder.engine]
    )
    trials = [("torch", 50.0), ("channels-last", 62.0), ("folded", 100.0)]
    found = measured.Measurements(
        [measured.Measurement(name, 4, rate, 0.0) for name, rate in trials]
    )
    tuning._settle(subject(), found)
    # torch was too slow to be tried again, and folded does not lose what it had.
    assert [trial.rate for trial in found.trials] == [50.0, pytest.approx(110.0), 100.0]


def test_batch_sizes_of_one_engine_do_not_crowd_out_another(monkeypatch):
    rates = {"torch": 100.0, "channels-last": 130.0}
    monkeypatch.setattr(
        tuning, "_seconds_of_batch", lambda embedder, images: len(images) / rates[embedder.engine]
    )
    trials = [
        ("torch", 2, 99.0),
        ("torch", 4, 98.0),
        ("torch", 8, 97.0),
        ("channels-last", 4, 90.0),
    ]
    found = measured.Measurements([measured.Measurement(*trial, 0.0) for trial in trials])
    tuning._settle(subject(), found)
    assert found.best(100_000).engine == "channels-last"


def test_a_first_batch_that_does_not_fit_while_compiling_is_halved(rates, monkeypatch, capsys):
    """The size that suits torch has not been tried by the compiled network, which needs more."""
    rates.update({("channels-last", size): size for size in (8, 16, 32, 64)})
    monkeypatch.setattr(compiled, "missing_tool", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: _tight(function, 8))
    # Not the one network of all tests, which keeps what another test has compiled.
    made = dataclasses.replace(subject(engine="compiled"), backbone=backbone())
    choice = tuning.choose(made, 100_000)
    assert picked(choice) == ("compiled", 8)
    assert "trying batches of 8" in capsys.readouterr().err
    with pytest.raises(embed.OutOfMemoryError):
        tuning.choose(dataclasses.replace(made, batch_size=16), 100_000)


def _tight(function, most):
    """A compiled network that has memory for so many images."""

    def run(images):
        if len(images) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return function(images)

    return run


@pytest.mark.parametrize("exact", [50.0, 200.0])
def test_a_precision_that_saves_no_time_is_said_so(monkeypatch, capsys, exact):
    def trial(subject, name, size, found, once=False):
        rate = 100.0 if subject.precision == "bf16" else exact
        found.trials.append(measured.Measurement(name, size, rate, 1.0))
        return found.trials[-1]

    monkeypatch.setattr(tuning, "_try", trial)
    monkeypatch.setattr(tuning, "_seconds_of_one", lambda *_: 0.01)
    made = dataclasses.replace(subject(), precision="bf16")
    assert tuning.choose(made, 5_000).engine == made.names()[0]
    said = capsys.readouterr().err
    slower = "bf16 is slower than fp32 on this processor (100 against 200 images/s)"
    assert (slower in said) == (exact > 100)


def test_a_short_run_is_not_measured(rates, monkeypatch):
    monkeypatch.setattr(tuning, "measure", None)
    choice = tuning.choose(subject(), 100)
    assert (choice.engine, choice.batch_size) == ("channels-last", CPU_BATCH)


@needs_openvino
def test_openvino_is_taken_unmeasured_for_a_run_of_seconds(rates, monkeypatch):
    monkeypatch.setattr(tuning, "measure", None)
    rates.update({("openvino", 16): 300})
    # 10 s of the default engine, 3.3 s of this one.
    assert picked(tuning.choose(subject(), 1_000)) == ("openvino", 16)
    # Converting it takes as long as such a run.
    assert picked(tuning.choose(subject(), 300)) == ("channels-last", 16)
    # Slower than the default on this network.
    rates["openvino", 16] = 90
    assert picked(tuning.choose(subject(), 1_000)) == ("channels-last", 16)


@needs_openvino
def test_an_engine_that_failed_at_once_is_not_tried_again_when_all_are_measured(
    rates, monkeypatch, capsys
):
    tried = []

    def trial(subject, name, size, found, once=False):
        if name in found.failed:
            return None
        tried.append(name)
        if name == "openvino":
            found.failed[name] = "no rule for this layer"
            return None
        found.trials.append(measured.Measurement(name, size, 50.0, 1.0))
        return found.trials[-1]

    monkeypatch.setattr(tuning, "_try", trial)
    assert tuning.choose(subject(), 100_000).engine != "openvino"
    assert tried.count("openvino") == 1
    assert capsys.readouterr().err.count("no rule for this layer") == 1


def test_what_the_user_insists_on_is_not_measured(monkeypatch):
    monkeypatch.setattr(tuning, "measure", None)
    choice = tuning.choose(subject(engine="folded", batch_size=3), 10**9)
    assert picked(choice) == ("folded", 3)


def test_no_batch_takes_more_than_the_hosts_memory(rates, monkeypatch):
    made = subject()
    image = activation_bytes(made.backbone)
    # The first convolution of the network has 16 channels of 16 x 16, and more than that follows.
    assert image >= 4 * 4 * 16 * 16 * 16
    rates.update({("channels-last", size): size for size in (2, 4, 8, 16, 32)})
    for free, expected in ((1000 * image, 32), (63 * image, 16), (17 * image, 8), (0, 1)):
        monkeypatch.setattr("extract.engines.measured.free_memory", lambda free=free: free)
        monkeypatch.setenv("XDG_CACHE_HOME", f"/nowhere/{free}")
        assert made.fits(expected) or expected == 1
        assert made.first_batch_size() == min(expected, 16)
        if expected > 1:
            assert tuning.choose(made, 10**6).batch_size == expected
    monkeypatch.setattr("extract.engines.measured.free_memory", lambda: 0)
    assert subject(batch_size=64).first_batch_size() == 64


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    original = Embedder.embed

    def tight(self, images):
        if self.batch_size > 4:
            raise embed.OutOfMemoryError
        return original(self, images)

    monkeypatch.setattr(Embedder, "embed", tight)
    monkeypatch.setattr(constants, "TRIAL_SECONDS", 0.0001)
    found = tuning.measure(subject(), ["torch"], 16)
    assert {trial.batch_size for trial in found.trials} <= {1, 2, 4}
    assert 4 in {trial.batch_size for trial in found.trials}


def datasets(path):
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


@needs_compiler
def test_compiled_runs_end_with_the_same_bits_when_they_are_resumed(small, features, monkeypatch):
    from extract.shards import plan as shards

    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    done = small("--engine", "compiled")
    assert done.code == 0, done.err
    assert read_header(done.path).provenance["engine"] == "compiled"
    expected = datasets(done.path)
    original = Embedder.embed
    calls = []

    def stop(self, images):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(Embedder, "embed", stop)
    assert small("--engine", "auto", "--torchcompile", "--force").code == 130
    monkeypatch.setattr(Embedder, "embed", original)
    done = small("--engine", "auto", "--force")
    assert "going on" in done.err
    assert datasets(done.path) == expected


@pytest.mark.parametrize("engine", ["folded", pytest.param("openvino", marks=needs_openvino)])
def test_a_run_on_an_engine(small, engine):
    plain = small("--engine", "torch")
    done = small("--engine", engine, "--force")
    assert done.code == 0, done.err
    assert done.path == plain.path, "the engine is not in the key"
    provenance = read_header(done.path).provenance
    assert provenance["engine"] == engine
    assert ("openvino" in provenance) == (engine == "openvino")


@needs_openvino
def test_an_interrupted_run_goes_on_with_its_engine(small, features, monkeypatch):
    from extract.shards import plan as shards

    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    expected = datasets(small("--engine", "openvino").path)
    original = Embedder.embed
    calls = []

    def stop(self, images):
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(Embedder, "embed", stop)
    assert small("--engine", "openvino", "--force").code == 130
    monkeypatch.setattr(Embedder, "embed", original)
    plan = json.loads(next(features.glob(".work/*/plan.json")).read_text())
    assert plan["engine"] == "openvino"
    done = small(
        "--engine", "auto", "--force"
    )  # which is left to choose an engine, and goes on with that one
    assert "going on" in done.err
    assert read_header(done.path).provenance["engine"] == "openvino"
    assert datasets(done.path) == expected


def test_an_engine_that_ran_before_and_fails_now(small, monkeypatch, refused):
    from extract.engines import folding
    from extract.shards import plan as shards

    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    original, calls = Embedder.embed, []

    def stop(self, images):
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(Embedder, "embed", stop)
    assert small("--engine", "folded").code == 130
    monkeypatch.setattr(Embedder, "embed", original)
    whole = folding.fold_batch_norms

    def fail(*_):
        raise EngineError("odd")

    monkeypatch.setattr(folding, "fold_batch_norms", fail)
    refused(small("--engine", "auto"), "folded", "odd", "--engine torch")
    monkeypatch.setattr(folding, "fold_batch_norms", whole)
    done = small("--engine", "auto")
    assert done.code == 0
    assert "going on" in done.err, "what was finished is kept"


@needs_openvino
@pytest.mark.parametrize("how", ["cannot be converted", "differs from torch"])
def test_an_engine_that_fails_is_replaced_and_said_so(small, monkeypatch, how):
    original = openvino_engine.compile_network

    def fail(*_):
        raise EngineError("the network cannot be converted (aten::odd)")

    def differ(*arguments):
        network = original(*arguments)
        return lambda images: network(images) * 1.01

    broken = fail if how == "cannot be converted" else differ
    monkeypatch.setattr(openvino_engine, "compile_network", broken)
    done = small("--engine", "openvino")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "openvino" in line]
    assert how in line
    store = open_features(done.path)
    assert store.provenance["engine"] == "channels-last"


@needs_openvino
def test_what_the_tracer_cannot_follow_is_exported(monkeypatch):
    network, images = backbone(), pictures(4)
    traced = embedded(network, "openvino", images, 4)

    def trace_nothing(*_, **__):
        raise RuntimeError("torch.jit.trace is no more")

    monkeypatch.setattr(torch.jit, "trace", trace_nothing)
    network = backbone()
    assert relative(embedded(network, "openvino", images, 4), traced) < 1e-6


@needs_openvino
def test_an_operation_that_cannot_be_converted_is_named(monkeypatch):
    monkeypatch.setattr(torch.jit, "trace", None)  # the exporter names it
    network = load_backbone(BackboneRequest("test_vit", "random", image_size=32))
    with pytest.raises(EngineError, match=r"No conversion rule .*bicubic"):
        Embedder(network, CPU, "fp32", "openvino", 2)


def test_verify_reports_every_engine_and_precision(call, small):
    store = small("--precision", "bf16").path
    short = call("verify", store)
    assert "stored: channels-last, bf16, float32" in short.err
    assert "largest error" not in short.err
    done = call("verify", store, "--rows", "24")
    assert done.code == 0, done.err
    assert "24 rows embedded again" in done.err
    lines = done.err.splitlines()
    start = next(i for i, line in enumerate(lines) if "largest error" in line)
    found = {}
    for line in lines[start + 1 :]:
        words = line.replace("fp32, float16", "float16").split()
        if len(words) == 5 and words[1] in ("fp32", "bf16", "float16"):
            found[words[0], words[1]] = [float(word) for word in words[2:]]
    expected = {"channels-last", "folded", *(["openvino"] if OPENVINO else [])}
    assert {name for name, precision in found if precision == "fp32"} == expected
    header = read_header(store)
    kept = read_rechecked(store, header.key, header.n_features)
    assert len(kept.rows) == 12, "half of the rows are test rows"
    assert {"bf16, channels-last", "fp32, folded"} <= set(kept.others)
    features = open_features(store)
    # The store's own engine and precision, at another batch size.
    assert relative(kept.others["bf16, channels-last"], features.test.features[kept.rows]) < 1e-2
    for (_, precision), (error, lowest, mean) in found.items():
        low, high = {"fp32": (0, 1e-5), "float16": (1e-6, 1e-3), "bf16": (1e-4, 0.2)}[precision]
        assert low <= error <= high
        assert lowest <= mean <= 1.00001


def test_an_engine_that_is_not_installed(small, monkeypatch, refused):
    monkeypatch.setattr(engines, "openvino_version", lambda: None)
    refused(small("--engine", "openvino"), "--engine openvino", "[cpu]', or give --engine auto")
    done = small("--engine", "auto")
    assert done.code == 0, done.err


def test_a_precision_that_an_engine_has_not(small, refused):
    if OPENVINO:
        refused(small("--engine", "openvino", "--precision", "fp16"), "--engine openvino", "fp16")
    refused(small("--engine", "onnx"), "onnx", "openvino")
