"""Several features from one reading of the images: the stores of a run that are siblings."""

from __future__ import annotations

import json
import os
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data import open_features
from data.common.errors import UserError
from data.format.spec import spec_key
from data.reading import read_header, verify_store
from extract import computing
from extract.cluster import coordinator
from extract.cluster.crew import Crew
from extract.engines.embed import Embedder
from extract.shards import fill, loading, plan

DIGITS = (
    "--dataset", "digits", "--limit", "60", "--model", "test_vit", "--weights", "random",
    "--batch-size", "16", "--engine", "torch", "--jobs", "1",
)  # fmt: skip
POOLS = ("--pool", "default", "--pool", "token+avg", "--pool", "max")
SIZE = ("--image-size", "32")


def content(path):
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


@pytest.fixture
def run(call, tmp_path):
    def extract(*more, into="features", code=0, word=()):
        size = () if "--image-size" in more else SIZE
        done = call(*word, *DIGITS, *size, "--features-dir", tmp_path / into, *more)
        assert done.code == code, done.err
        done.paths = done.out.split()
        return done

    return extract


@pytest.fixture
def batches(monkeypatch):
    """Count batches by the features that the network gives."""
    seen = Counter()
    real = Embedder.embed

    def counted(self, images):
        seen[self.backbone.features] += 1
        return real(self, images)

    monkeypatch.setattr(Embedder, "embed", counted)
    return seen


@pytest.fixture
def photos(tmp_path):
    """Twelve photographs, which are files."""
    generator = np.random.default_rng(0)
    for split, label, count in (("train", "a", 5), ("train", "b", 5), ("test", "a", 1)):
        folder = tmp_path / "photos" / split / label
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (90, 120 + number, 3), np.uint8)
            Image.fromarray(pixels).resize((500, 380)).save(folder / f"{number}.jpg")
    test = tmp_path / "photos/test/b"
    test.mkdir()
    Image.fromarray(pixels).save(test / "x.png")
    return "--dataset", tmp_path / "photos"


def test_one_pass_writes_what_runs_of_their_own_write(run, batches):
    done = run(*POOLS, "--layer", "last2")
    assert list(batches) == ["default@last2 token+avg@last2 max@last2"]
    assert len(done.paths) == 3
    pools = [read_header(path).spec["pool"] for path in done.paths]
    assert pools == ["default", "token+avg", "max"], "in the order asked for"
    for path, pool in zip(done.paths, pools, strict=True):
        alone = run("--pool", pool, "--layer", "last2", into="alone").path
        assert alone.rpartition("/")[2] == path.rpartition("/")[2], "the same key"
        assert content(alone) == content(path), "the same bits"
        header = read_header(path)
        assert header.key == spec_key(header.spec)
        assert header.request["options"]["pool"] == pool
        assert header.provenance["features"] == "default@last2 token+avg@last2 max@last2"
        assert "features" not in read_header(alone).provenance


def test_each_is_found_alone_and_only_what_is_missing_is_computed(run, batches, tmp_path):
    first = run("--pool", "avg").path
    batches.clear()
    done = run("--pool", "avg", *POOLS)
    assert done.paths[0] == first and f"found {first}" in done.err
    assert list(batches) == ["default token+avg max"]
    batches.clear()
    for pool, path in zip(("default", "token+avg", "max"), done.paths[1:], strict=True):
        start = time.perf_counter()
        again = run("--pool", pool)
        assert again.paths == [path] and "loading" not in again.err
        assert time.perf_counter() - start < 1.0
    assert run(*POOLS).paths == done.paths[1:]
    assert run(word=["why"]).paths == [done.paths[1]]
    why = run("--pool", "max", "--layer", "-2", "--layer", "-1", word=["why"])
    rows = [line.split() for line in why.err.splitlines()]
    assert ["--layer", "-2", "the", "default"] in rows and [
        "--layer",
        "-1",
        "the",
        "default",
    ] in rows
    assert not batches
    assert not list((tmp_path / "features/.work").iterdir()), "nothing is left"


def test_a_store_without_a_layer_is_as_it_was_before_there_were_any(run):
    header = read_header(run().path)
    assert "layer" not in header.spec and "layer" not in header.request["options"]
    assert "features" not in header.provenance


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"pool": "default"}, "vit 32 px"),
        ({"pool": "max"}, "vit 32 px, max"),
        ({"pool": "default", "layer": "-2"}, "vit 32 px, layer -2"),
        ({"pool": "token+avg", "layer": "last4"}, "vit 32 px, token+avg of last 4 layers"),
    ],
)
def test_reports_tell_siblings_apart(choice, words):
    from classify.results.names import backbone_name

    spec = {"model": {"name": "vit"}, "preprocessing": {"image_size": 32}, **choice}
    assert backbone_name(spec) == words


def test_the_same_twice_is_written_once_and_said(run, batches):
    done = run("--pool", "max", "--pool", "max", "--image-size", "32", "--image-size", "32x32")
    assert len(done.paths) == 1 and "the same twice" in done.err
    distilled = ("--model", "deit_tiny_distilled_patch16_224", "--limit", "20")
    done = run(*distilled, "--pool", "token", "--layer", "-1")
    both = run(*distilled, "--pool", "token", into="other")
    assert read_header(done.path).spec == read_header(both.path).spec, "in other words the same"


def interrupted_after(monkeypatch, shards):
    real, written = fill.write_shard, []

    def write(path, *rest, **more):
        if len(written) == shards:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, *rest, **more)

    monkeypatch.setattr(fill, "write_shard", write)
    return real


@pytest.mark.parametrize("shards", [1, 4])
def test_an_interrupted_run_goes_on_together(run, monkeypatch, batches, shards, tmp_path):
    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    real = interrupted_after(monkeypatch, shards)
    stopped = run(*POOLS, code=130)
    kept = {1: 0, 4: 16}[shards]
    assert f"{kept} of 75 images are kept in {tmp_path / 'features/.work'}" in stopped.err
    monkeypatch.setattr(fill, "write_shard", real)
    batches.clear()
    done = run(*POOLS)
    assert ("going on" in done.err) == bool(kept)
    assert list(batches) == ["default token+avg max"]
    whole = run(*POOLS, into="whole")
    assert [content(p) for p in done.paths] == [content(p) for p in whole.paths]
    assert not list((tmp_path / "features/.work").iterdir())


def test_a_store_begun_with_others_goes_on_with_the_same_network(run, monkeypatch, batches):
    """Asked for alone, too: of fused products the last bits might be others."""
    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    real = interrupted_after(monkeypatch, 3)
    run(*POOLS, code=130)
    monkeypatch.setattr(fill, "write_shard", real)
    batches.clear()
    done = run("--pool", "max", "--pool", "avg")
    assert sorted(batches) == ["avg", "default token+avg max"], "what is new has its own pass"
    assert len(done.paths) == 2 and "going on: 16 of 75" in done.err
    alone = run("--pool", "max", "--pool", "avg", into="whole")
    assert [content(p) for p in done.paths] == [content(p) for p in alone.paths]


def test_stores_of_which_one_is_further_lose_nothing(run, monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    real = interrupted_after(monkeypatch, 4)  # the second shard of one store alone
    run(*POOLS, code=130)
    written = []

    def write(path, *rest, **more):
        written.append(path)
        return real(path, *rest, **more)

    monkeypatch.setattr(fill, "write_shard", write)
    run(*POOLS)
    assert len(written) == 3 * 5 - 4


def test_force_computes_all_again_and_a_dry_run_says_all(run, batches):
    dry = run(*POOLS, "--dry-run")
    assert dry.out == "" and dry.err.count("\nkey ") == 3
    assert "128 wide" in dry.err and dry.err.count("64 wide") == 2
    first = run(*POOLS)
    batches.clear()
    again = run(*POOLS, "--force")
    assert again.paths == first.paths and batches["default token+avg max"]
    assert run(*POOLS, "--dry-run").paths == first.paths


def test_short_memory_halves_the_batches_of_all(run, monkeypatch):
    from extract.engines.device import OutOfMemoryError

    monkeypatch.setattr("extract.engines.device.CPU_BATCH", 16)
    real = Embedder.embed

    def short(self, images):
        if self.batch_size > 8 and self.backbone.preprocessing.image_size == 48:
            raise OutOfMemoryError("too large")
        return real(self, images)

    sizes = ("--image-size", "32", "--image-size", "48", "--batch-size", "auto")
    monkeypatch.setattr(Embedder, "embed", short)
    # The engine is not measured with batches, which would find out as well.
    monkeypatch.setattr("extract.engines.tuning.choose", lambda s, n: s.plan("torch", 16))
    done = run("--pool", "default", "--pool", "avg", *sizes)
    assert "starting over with batches of 8" in done.err
    made = [read_header(path).provenance["batch_size"] for path in done.paths]
    assert made == [16, 16, 8, 8]


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_sizes_share_the_decoding_and_nothing_else(run, photos, decode, tmp_path):
    more = (*photos, "--pool", "default", "--pool", "avg", "--decode", decode, "--batch-size", "4")
    done = run(*more, "--image-size", "48x32", "--image-size", "96")
    assert len(done.paths) == 4
    for size, paths in zip(("48x32", "96"), np.reshape(done.paths, (2, 2)), strict=True):
        alone = run(*more, "--image-size", size, into=f"alone-{size}")
        assert [content(p) for p in paths] == [content(p) for p in alone.paths], size


def test_an_image_is_decoded_once_for_all_sizes(run, photos, monkeypatch, tmp_path):
    from data.dataset import load_dataset

    images = load_dataset(str(photos[1]), data_dir=tmp_path).train.images
    seen = []
    real = type(images).decode_file
    monkeypatch.setattr(
        type(images), "decode_file", lambda self, i, w=None: seen.append(i) or real(self, i, w)
    )
    from extract.model.preprocessing import Preprocessing

    half = ((0.5,) * 3, (0.5,) * 3)
    sizes = [Preprocessing(n, 0.9, "center", "bicubic", True, *half) for n in (32, 48, 96)]
    decoder = loading.Decoder(images, sizes[0], sizes[1:])
    assert [one.shape[0] for one in decoder.sizes(0)] == [32, 48, 96]
    assert seen == [0]
    fast = [Preprocessing(n, 0.9, "center", "bicubic", True, *half, "fast") for n in (32, 40, 200)]
    seen.clear()
    loading.Decoder(images, fast[0], fast[1:]).sizes(1)
    assert seen == [1, 1], "once for each scale"


def test_readers_of_shared_rows_each_get_their_own(monkeypatch):
    class Source:
        def __init__(self):
            self.given = iter(range(1000))

        def take(self, count):
            return [rows[next(self.given)] for _ in range(count)]

    first, second = [range(0, 4), range(4, 6), range(9, 12)], [range(2, 8), range(10, 11)]
    together = loading.wanted_together([first, second])
    assert together == [range(0, 8), range(9, 12)]
    rows = [row for span in together for row in span]
    shared = loading.SharedRows(Source(), [first, second])
    assert shared.take(first[0]) == [0, 1, 2, 3]
    assert sorted(shared._kept) == [2, 3], "what the other still wants"
    assert shared.take(second[0]) == [2, 3, 4, 5, 6, 7]
    assert shared.take(first[1]) == [4, 5]
    assert shared.take(first[2]) == [9, 10, 11]
    assert shared.take(second[1]) == [10]
    assert not shared._kept


def test_rows_are_taken_over_for_all(run, photos, batches, tmp_path):
    more = (*photos, "--pool", "default", "--pool", "avg", "--batch-size", "4")
    run(*more)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "photos/train/a/new.png")
    batches.clear()
    grown = run(*more)
    assert grown.err.count("were taken over from") == 2
    assert dict(batches) == {"default avg": 1}, "one batch, one pass"
    whole = run(*more, into="whole")
    assert [content(p) for p in grown.paths] == [content(p) for p in whole.paths]


class Inline(Crew):
    """A cluster in this process."""

    kind = "inline"

    def start(self, workers, devices):
        pass

    def connect(self):
        pass

    def width(self):
        return 1

    def submit(self, function, *args, on_gpu=False):
        return lambda: function(*args)

    def wait(self, handles):
        return list(handles)[:1]

    def result(self, handle):
        return handle()

    def close(self, handles=()):
        pass


@pytest.mark.parametrize("source", ["digits", "photos"])
def test_workers_write_all_stores_of_a_pass(run, photos, monkeypatch, source):
    from contextlib import nullcontext

    more = photos if source == "photos" else ()
    words = (*more, *POOLS, "--image-size", "32", "--image-size", "48")
    whole = run(*words, into="whole")
    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    monkeypatch.setattr("extract.run.open_crew", lambda options: nullcontext(Inline(None)))
    tasks = []
    real = coordinator.embed_shard

    def noted(task):
        tasks.append(task)
        return real(task)

    monkeypatch.setattr(coordinator, "embed_shard", noted)
    done = run(*words)
    assert {task.stores for task in tasks} == {(0, 1, 2)}
    assert [content(p) for p in done.paths] == [content(p) for p in whole.paths]


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("test_vit", ("--pool", "token+avg", "--pool", "max", "--layer", "last2", "--layer", "-3")),
        ("test_resnet", ("--pool", "max", "--pool", "avg", "--layer", "last2")),
        ("deit_tiny_distilled_patch16_224", ("--pool", "token", "--pool", "default")),
    ],
)
def test_verify_and_new_images(run, call, photos, tmp_path, model, asked, monkeypatch):
    monkeypatch.setattr("extract.commands.verify._compare_engines", lambda *_: {})
    done = run(*photos, "--model", model, *asked)
    for path in done.paths:
        checked = call("verify", path)
        assert checked.code == 0 and "12 rows embedded again" in checked.err, checked.err
        header = read_header(path)
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps({"spec": header.spec, "weights_file": None}))
        image = tmp_path / "photos/test/a/0.jpg"
        made = call("images", "--spec", spec, "--out", tmp_path / "rows.npy", image)
        assert made.code == 0, made.err
        stored = open_features(path).test
        row = stored.features[list(stored.ids).index("a/0.jpg")]
        np.testing.assert_allclose(np.load(tmp_path / "rows.npy")[0], row, rtol=1e-4, atol=1e-5)


def test_verify_finds_rows_of_another_feature(run, call, tmp_path, monkeypatch):
    """The witness does not believe the store."""
    real = computing.join

    def wrong(path, *, spec, **more):
        return real(path, spec=spec | {"pool": "avg"}, **more)

    monkeypatch.setattr(computing, "join", wrong)
    path = run("--pool", "max").path
    done = call("verify", path)
    assert done.code == 2 and "are not what this backbone gives" in done.err


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("test_vit", "openvino"),
        *(("mobilenetv3_small_050", name) for name in ("channels-last", "folded", "openvino")),
    ],
)
def test_every_engine_gives_all_features(model, engine):
    """Heads that have a convolution after the pooling among them."""
    import torch

    from extract.engines.build import build, check_rows
    from extract.model.backbone import BackboneRequest, load_backbone
    from extract.model.features.choice import choices_of

    if engine == "openvino":
        pytest.importorskip("openvino")
    token = " token token+avg@last2" if model == "test_vit" else ""
    made = load_backbone(BackboneRequest(model, "random", image_size=64))
    made = made.giving(choices_of(f"default avg max avg@-2 max@last2{token}"))
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    with torch.inference_mode():
        plain = build("torch", made, device, "fp32", 4)(images).numpy()
        rows = build(engine, made, device, "fp32", 4)(images).numpy()
    for choice in made.choices:
        check_rows(rows[:, made.columns(choice)], plain[:, made.columns(choice)], "fp32")


@pytest.mark.slow
def test_a_compiled_network_gives_all_features():
    import torch

    from extract.engines.build import build, check_rows, why_not
    from extract.model.backbone import BackboneRequest, load_backbone
    from extract.model.features.choice import choices_of

    device = torch.device("cpu")
    if not os.environ.get("ICEBOX_FAULTS") or why_not("compiled", device, "fp32"):
        pytest.skip("make faults, with a compiler")
    made = load_backbone(BackboneRequest("test_vit", "random", image_size=64))
    made = made.giving(choices_of("default avg token+avg@last4 max@-2"))
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = build("torch", made, device, "fp32", 4)(images).numpy()
        check_rows(build("compiled", made, device, "fp32", 4)(images).numpy(), plain, "fp32")


def test_embed_takes_one(tmp_path):
    from extract import embed

    images = [(np.full((40, 40, 3), 10 * n, np.uint8), "ab"[n % 2]) for n in range(8)]
    options = {"model": "test_vit", "weights": "random", "image_size": 32, "jobs": 1}
    made = embed(
        images, name="mine", test=images[:2], features_dir=tmp_path, pool="token+avg", layer=-2,
        engine="torch", **options,
    )  # fmt: skip
    assert (made.spec["pool"], made.spec["layer"], made.n_features) == ("token+avg", "-2", 128)
    with pytest.raises(UserError, match="--layer first"):
        embed(images, name="mine", test=images[:2], features_dir=tmp_path, layer="first", **options)
    with pytest.raises(UserError, match="did you mean token"):
        embed(images, name="mine", test=images[:2], features_dir=tmp_path, pool="toke", **options)
