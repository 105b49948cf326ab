"""What belongs to the process, torch's switches and loggers' levels, is as it was afterwards."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from data.common.memory import peak_memory_mb
from data.reading import read_header
from extract.engines.embed import Embedder
from extract.engines.torch_settings import full_precision, using_threads
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.silence import silenced


def switches():
    """Every form of torch's switches for TF32; None for those that it refuses to read now."""
    backends = torch.backends
    readers = {
        "matmul": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
        "general": torch.get_float32_matmul_precision,
        "matmul, new": lambda: backends.cuda.matmul.fp32_precision,
        "convolutions, new": lambda: backends.cudnn.conv.fp32_precision,
        "rnn, new": lambda: backends.cudnn.rnn.fp32_precision,
    }
    found = {}
    for name, read in readers.items():
        with suppress(RuntimeError, AttributeError):
            found[name] = read()
    return found


def is_exact(found):
    new = [found[name] for name in found if name.endswith("new")]
    return not found.get("matmul") and not found.get("cudnn") and "tf32" not in new


def old(value):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = value


def new(value):
    torch.backends.cuda.matmul.fp32_precision = value
    torch.backends.cudnn.conv.fp32_precision = value


SETTINGS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old, on": lambda: old(True),
    "old, off": lambda: old(False),
    "new, on": lambda: new("tf32"),
    "new, off": lambda: new("ieee"),
}


@pytest.fixture
def torchs_own():
    """Put torch's switches back to what they are when it is imported."""

    def reset():
        torch.set_float32_matmul_precision("highest")
        old(False)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        if hasattr(torch.backends.cudnn, "conv"):
            torch.backends.cuda.matmul.fp32_precision = "none"

    reset()
    yield
    reset()


@pytest.mark.parametrize("setting", SETTINGS)
def test_tf32_is_off_in_the_block_and_as_it_was_after_it(torchs_own, setting):
    if setting.startswith("new") and not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has only the old switches")
    SETTINGS[setting]()
    before = switches()
    with pytest.raises(ZeroDivisionError), full_precision:
        with full_precision:
            assert is_exact(switches()), switches()
        assert is_exact(switches()), "the inner block has not put it back"
        raise ZeroDivisionError
    assert switches() == before


def test_an_embedder_on_a_gpu_turns_it_off_only_while_it_computes(torchs_own, monkeypatch):
    """The device is told to be one; what computes is this processor."""
    torch.set_float32_matmul_precision("high")
    before = switches()
    backbone = load_backbone(BackboneRequest("test_efficientnet", "random", image_size=32))
    seen = []

    def build(*_):
        seen.append(switches())

        def network(images):
            seen.append(switches())
            return torch.zeros(len(images), backbone.width)

        return network

    monkeypatch.setattr("extract.engines.embed.build", build)
    embedder = Embedder(backbone, torch.device("cpu"), "fp32", "torch", 2)
    assert not is_exact(seen.pop()), "a processor has no TF32, and is left alone"
    monkeypatch.setattr(embedder, "device", SimpleNamespace(type="cuda"))
    with embedder.translated_errors():
        embedder.network(torch.zeros(2, 3, 32, 32))
    assert is_exact(seen.pop())
    with suppress(ZeroDivisionError), embedder.translated_errors():
        raise ZeroDivisionError
    assert switches() == before


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with suppress(ZeroDivisionError), using_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_loggers_are_put_back_by_the_last_of_several_threads():
    logger = logging.getLogger("timm")
    before = logger.level, warnings.filters[:]
    inside, leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def work(event):
        with silenced("timm", warnings=False):
            inside.wait()
            event.wait()

    threads = [threading.Thread(target=work, args=(event,)) for event in leave]
    for thread in threads:
        thread.start()
    inside.wait()
    for event, thread in zip(leave, threads, strict=True):
        assert logger.level == logging.ERROR
        event.set()
        thread.join()
    assert (logger.level, warnings.filters[:]) == before


def test_a_whole_run_leaves_the_process_as_it_was(small):
    small()  # imports what is needed, and with it other libraries' filters
    logging.getLogger("timm").setLevel(logging.INFO)
    before = (
        logging.getLogger("timm").level, torch.get_num_threads(), switches(),
        torch.nn.Module.load_state_dict, warnings.filters[:], torch.get_rng_state().tolist(),
    )  # fmt: skip
    done = small("--force")
    refused = small("--model-arg", "no_such=1", "--force")
    after = (
        logging.getLogger("timm").level, torch.get_num_threads(), switches(),
        torch.nn.Module.load_state_dict, warnings.filters[:], torch.get_rng_state().tolist(),
    )  # fmt: skip
    logging.getLogger("timm").setLevel(logging.NOTSET)
    assert (done.code, refused.code) == (0, 2)
    assert after == before


def test_both_stages_count_memory_in_the_same_unit(small, monkeypatch):
    """In 10^6 bytes, from one function."""
    import resource

    import classify.fit.fit_store
    import classify.fit.output
    import extract.computing

    assert extract.computing.peak_memory_mb is peak_memory_mb
    assert (
        classify.fit.fit_store.peak_memory_mb
        is classify.fit.output.peak_memory_mb
        is peak_memory_mb
    )
    usage = SimpleNamespace(ru_maxrss=3_000_000)
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    monkeypatch.setattr("sys.platform", "linux")
    assert peak_memory_mb() == 3072.0, "KiB"
    monkeypatch.setattr("sys.platform", "darwin")
    assert peak_memory_mb() == 3.0, "bytes"
    monkeypatch.setattr("sys.platform", "linux")
    done = small()
    assert read_header(done.path).provenance["peak_memory_mb"] == 3072.0
    assert "peak memory 3,072 MB" in done.err


def test_a_library_that_speaks_through_the_root_logger_leaves_no_handler(monkeypatch):
    """open_clip calls `logging.info`, which makes every library heard from then on."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    with silenced("root"):
        logging.info("resizing")
        assert root.handlers, "or there is nothing to take away"
    assert root.handlers == [] and root.level == before
