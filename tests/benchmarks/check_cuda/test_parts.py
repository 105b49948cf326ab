"""Every part of check-cuda with small inputs on the CPU: what a device runs, but for the device."""

import contextlib
import dataclasses
import os

import numpy as np
import pytest
import torch

from benchmarks.check_cuda import faults, gpu_tests, inputs, stage_one, stage_two
from benchmarks.check_cuda.parts import WHOLE, all_parts, planned
from benchmarks.check_cuda.rows import Context, Row
from benchmarks.check_cuda.sizes import FULL, TINY
from extract.engines.device import EngineError

SMALL = TINY.networks[0]


@pytest.fixture
def context(tmp_path):
    # One thread: tests side by side share the processors.
    return Context(torch.device("cpu"), TINY, tmp_path, 1)


@pytest.fixture(autouse=True)
def threads(monkeypatch, tmp_path_factory):
    before = torch.get_num_threads()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    torch.set_num_threads(before)


def with_sizes(context, **more):
    return dataclasses.replace(context, sizes=dataclasses.replace(TINY, **more))


def verdicts(rows):
    return [row.verdict for row in rows]


def test_the_plans_fit_into_eight_minutes():
    parts = all_parts(FULL)
    assert planned(parts) < WHOLE < 480
    assert all(part.planned <= part.limit for part in parts)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert callable(part.load())


def test_inputs_are_the_same_each_time_and_classes_overlap(context):
    (X, y), (again, labels) = (inputs.features((600, 12, 4), context.device) for _ in range(2))
    assert X.dtype == torch.float32 and torch.equal(X, again) and np.array_equal(y, labels)
    assert np.array_equal(np.bincount(y), [150] * 4)
    scale = X.std(dim=0)
    assert scale[0] > 5 * scale[-1]
    fitted = stage_two.estimator("multinomial", context).fit(X, y)
    assert 0.4 < np.mean(fitted.predict(X) == y) < 0.995
    assert inputs.photographs(2) == inputs.photographs(2)


def test_rows_agree_with_the_cpus(context):
    found = list(stage_one.rows(context, SMALL.name))
    assert verdicts(found) == ["ok", "ok", "ok"]
    facts = found[0].facts
    assert facts["flips"] == 0 and facts["answers"] == TINY.rows // 2
    assert facts["lowest_cosine"] > 0.99999


def test_rows_that_differ_fail(context, monkeypatch):
    embedded = stage_one.embedded
    calls = []

    def spoilt(embedder, images):
        calls.append(embedder)
        rows = embedded(embedder, images)
        return rows if len(calls) == 1 else rows + np.abs(rows).max() * 1e-2 * len(calls)

    monkeypatch.setattr(stage_one, "embedded", spoilt)
    assert verdicts(stage_one.rows(context, SMALL.name)) == ["FAILED", "FAILED", "FAILED"]


def test_what_is_not_finite_fails():
    rows = np.ones((3, 4), np.float32)
    spoilt = rows.copy()
    spoilt[1, 2] = np.nan
    assert not stage_one.compared("", spoilt, rows, "bf16", {}).ok
    assert stage_one.compared("", rows, rows, "fp32", {}).ok


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(stage_one._NotHereError("not here: no compiler"), ""), (EngineError("broken"), "FAILED")],
)
def test_a_network_that_cannot_be_compiled(context, monkeypatch, error, verdict):
    original = stage_one._embedder

    def embedder(backbone, device, precision, engine, batch):
        if engine == "compiled":
            raise error
        return original(backbone, device, precision, engine, batch)

    monkeypatch.setattr(stage_one, "_embedder", embedder)
    found = list(stage_one.rows(with_sizes(context, engine="compiled"), SMALL.name))
    assert verdicts(found) == ["ok", "ok", verdict, "ok"]
    assert found[2].found == str(error)


def test_rates_are_of_the_network_that_ran(context):
    alone, shards, store = stage_one.rates(context, SMALL.name)
    facts = alone.facts
    assert facts["engine"] == "channels-last" and facts["batch"] == TINY.rate_batch
    assert facts["images"] >= SMALL.images
    assert shards.goal == "90%" and not shards.must
    assert shards.ok == (facts["embedding"] >= 0.9 * facts["network"])
    assert 0 < facts["to_the_store"] <= 1.1 * facts["embedding"]
    assert store.found.startswith(f"{facts['to_the_store']:,.0f} images/s")


def test_made_images_of_cifars_size(tmp_path):
    from data.dataset import load_dataset

    words = inputs.dataset_words("made", 600, tmp_path)
    assert words[0] == "--dataset=cifar10"
    folder = words[1].partition("=")[2]
    found = load_dataset("cifar10", data_dir=tmp_path / folder, limit=500)
    assert len(found.train.ids) == 500 and len(found.train.ids) + len(found.test.ids) == 600


def test_jpegs(context):
    pytest.importorskip("torchvision")
    pillow, device, apart = stage_one.jpegs(context, "")
    assert pillow.facts["images_per_second"] > 0 and device.facts["largest_difference"] <= 2
    assert apart.verdict == "ok"


def test_jpegs_that_torchvision_cannot_decode_there(context, monkeypatch):
    torchvision = pytest.importorskip("torchvision.io")

    def without(*_, **__):
        raise RuntimeError(
            "decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nand so"
        )

    monkeypatch.setattr(torchvision, "decode_jpeg", without)
    found = list(stage_one.jpegs(context, ""))
    assert verdicts(found) == ["", ""]
    assert "not compiled with nvJPEG support" in found[1].found and "and so" not in found[1].found


def test_heads_and_the_path_of_c(context):
    found = list(stage_two.heads(context, ""))
    assert verdicts(found[1:6:2]) == ["ok", "ok", "ok"], "certified"
    assert found[-1].what == "the three strategies from the host" and not found[-1].must
    found = list(stage_two.path(context, ""))
    assert verdicts(found[:3]) == ["ok", "ok", "ok"], "on the device"
    assert found[-1].goal == "10 s"


def test_a_certificate_that_is_wrong_fails(context, monkeypatch):
    value = stage_two.Problem.value

    def higher(self, strategy, fitted, C=stage_two.C):
        return value(self, strategy, fitted, C) * (1 + 1e-3 * (fitted.tol > 1e-8))

    monkeypatch.setattr(stage_two.Problem, "value", higher)
    found = list(stage_two.heads(context, ""))
    assert verdicts(found[1:6:2]) == ["FAILED", "FAILED", "FAILED"]


def test_many_classes(context, monkeypatch):
    fitted, where, stated = stage_two.many(context, "")
    assert fitted.facts["shape"] == TINY.many
    assert where.verdict == stated.verdict == "ok"
    monkeypatch.setattr(stage_two, "_free", lambda _: stage_two._needed(500, *TINY.many[1:]) / 0.8)
    fitted, *_ = stage_two.many(context, "")
    assert fitted.facts["shape"] == (450, *TINY.many[1:]), "half of the rows"
    assert fitted.verdict == "missed"


def test_peers(context):
    found = list(stage_two.peers(context, ""))
    assert len(found) == 3
    for row in found:
        assert row.facts["excess"] <= 1e-5 and row.facts["where"] == "on the same tensors"


def test_a_peer_that_takes_no_tensors(context, monkeypatch):
    fit = stage_two.Peer.fit

    def refuse(self, X, y):
        if isinstance(X, torch.Tensor):
            raise TypeError("Expected a numpy array\nbut got a tensor")
        return fit(self, X, y)

    monkeypatch.setattr(stage_two.Peer, "fit", refuse)
    refused, on_cpu = stage_two.peers(context, "")
    assert refused.found == "cannot: TypeError: Expected a numpy array"
    assert on_cpu.facts["where"] == "on this CPU"


def test_too_large_a_batch(context, monkeypatch):
    """A CPU has no limit of its own: the embedder is told to have one."""
    from extract.engines import embed

    limited, original = [], embed.Embedder.embed

    @contextlib.contextmanager
    def at_most(_, size):
        limited.append(size)
        yield
        limited.pop()

    def tight(self, images):
        if limited and self.batch_size > 4:
            raise embed.OutOfMemoryError
        return original(self, images)

    monkeypatch.setattr(embed.Embedder, "embed", tight)
    network = dataclasses.replace(SMALL, images=0)
    small = with_sizes(context, fault_network=network)
    monkeypatch.setattr(faults, "words_for", few(faults.words_for))
    assert verdicts(faults.batch(small)) == ["FAILED", "ok"], "nothing was limited"
    monkeypatch.setattr(faults, "at_most", at_most)
    again = dataclasses.replace(small, folder=context.folder / "again")
    assert verdicts(faults.batch(again)) == ["ok", "ok"]


def few(words_for):
    """Leave most of the digits out."""
    return lambda *words: [*words_for(*words), "--limit=60"]


def test_features_and_a_network_that_do_not_fit(context, monkeypatch):
    from classify.solver.torch_backend import fit

    @contextlib.contextmanager
    def at_most(_, size):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(fit.TorchFitter, "_open", full)
            patched.setattr("extract.engines.build.build", full)
            patched.setattr("extract.engines.embed.build", full)
            yield

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(faults, "at_most", at_most)
    monkeypatch.setattr(faults, "words_for", few(faults.words_for))
    found = list(faults.memory(context))
    assert verdicts(found) == ["ok", "ok", "ok"], [row.found for row in found]
    assert "does not fit into the memory" in found[2].found


@pytest.mark.skipif(not os.environ.get("ICEBOX_FAULTS"), reason="half a minute: make faults")
def test_a_run_that_is_killed(context):
    goes_on, same = faults.killed(context)
    assert (goes_on.verdict, same.verdict) == ("ok", "ok"), goes_on.found


def test_a_run_that_always_ends_first(context, monkeypatch):
    monkeypatch.setattr(faults, "_kill_after_a_shard", lambda *_: False)
    (row,) = faults.killed(context)
    assert row.verdict == "FAILED"


TESTS = """
import pytest

@pytest.mark.gpu
def test_good(): pass

@pytest.mark.gpu
def test_bad(): assert 1 == 2, "no such device"

def test_other(): raise SystemError
"""


def test_marked_tests_are_run_and_failures_named(context, tmp_path, monkeypatch):
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    some = with_sizes(context, tests=(str(file),), marker="gpu")
    counted, bad = gpu_tests.tests(some, "")
    assert counted.found == "1 passed, 1 failed, 0 skipped" and counted.verdict == "FAILED"
    assert (bad.what, bad.verdict) == ("test_bad", "FAILED") and "no such device" in bad.found
    file.write_text(TESTS.replace("1 == 2", "1 == 1"))
    (counted,) = gpu_tests.tests(some, "")
    assert counted.found == "2 passed, 0 failed, 0 skipped" and counted.verdict == "ok"
    file.write_text("def broken(:\n")
    counted, _ = gpu_tests.tests(some, "")
    assert counted.verdict == "FAILED"


def test_only_files_with_marked_tests_are_collected():
    names = {path.name for path in gpu_tests.marked_files("gpu")}
    assert {"test_cuda.py", "test_stream.py", "test_devices.py"} <= names
    assert "test_cli.py" not in names


def test_without_pytest(context, monkeypatch):
    monkeypatch.setattr(gpu_tests, "find_spec", lambda _: None)
    (row,) = gpu_tests.tests(context, "")
    assert row.found == "pytest is not installed" and row.verdict == "FAILED"


def test_verdicts():
    assert Row("", "").verdict == ""
    assert Row("", "", "", True, False).verdict == Row("", "", "", True).verdict == "ok"
    assert Row("", "", "", False, False).verdict == "missed"
    assert Row("", "", "", False).verdict == "FAILED"
