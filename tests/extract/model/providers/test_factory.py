"""``--model package.module:factory``: from a user's own module to vectors, keys and messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import write_photographs
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from classify.__main__ import main as classify_main
from data import open_features
from data.common.cli import run
from data.common.errors import UserError
from data.reading import read_header
from extract import embed
from extract.cluster import worker
from extract.model.backbone import BackboneRequest, load_backbone, vector_function
from extract.model.from_spec import backbone_of_spec
from extract.model.providers.code_files import find_code
from extract.request import Request
from extract.shards import job

DIGITS = ("--dataset=digits", "--limit=40", "--batch-size=16", "--engine=torch", "--jobs=1")
MODULE = """
import torch
from torch import nn
from .layers import block

def make(width=6, mean=0.5):
    network = nn.Sequential(block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network, {"image_size": (24, 32), "mean": (mean, 0.4, 0.3), "std": [0.2, 0.3, 0.4],
                     "interpolation": "bilinear", "crop_pct": 0.8}
"""
LAYERS = """
from torch import nn

def block(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.GELU())
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's, on Python's path."""
    folder = tmp_path / "code" / "towers_pkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(MODULE)
    (folder / "layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in [name for name in sys.modules if name.startswith("towers_")]:
        del sys.modules[name]


@pytest.fixture
def made(call, tmp_path, package):
    """Embed the digits; the last of an option counts."""

    def run_job(*words, word=()):
        return call(
            *word,
            *DIGITS,
            "--model=towers_pkg.nets:make",
            f"--features-dir={tmp_path / 'f'}",
            *words,
        )

    return run_job


def write_module(folder, text):
    """A module of one file, beside the package."""
    path = folder.parent / "towers_one.py"
    path.write_text(text)
    return path


def by_hand(module, images):
    """What the documents promise: timm's transform with these settings, and a call."""
    transform = create_transform(
        (3, 24, 32), is_training=False, crop_pct=0.8, interpolation="bilinear",
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
    )  # fmt: skip
    with torch.inference_mode():
        return module(torch.stack([transform(image) for image in images])).numpy()


def test_from_files_to_vectors(call, tmp_path, package):
    files = write_photographs(tmp_path / "photos")
    words = ("--batch-size=4", "--jobs=1", f"--features-dir={tmp_path / 'f'}")
    words = (f"--dataset={tmp_path / 'photos'}", *words, "--model=towers_pkg.nets:make")
    done = call(*words, "--engine=channels-last")
    assert done.code == 0, done.err
    store = open_features(done.path)
    assert store.path.name == f"towers_pkg.nets-make-24x32px-{store.key[:8]}.h5"
    from towers_pkg import nets

    torch.manual_seed(0)
    module = nets.make()[0].eval()
    for split in store.splits.values():
        images = [Image.open(files[i]).convert("RGB") for i in split.ids]
        np.testing.assert_allclose(split.features[:], by_hand(module, images), atol=1e-6)
    kept = store.spec["model"]
    assert kept["config"]["provider"] == kept["weights"]["source"] == "factory"
    sources = ["__init__.py", "layers.py", "nets.py"]
    assert sorted(kept["config"]["source"]) == [f"towers_pkg/{name}" for name in sources]
    verified = call("verify", done.path, f"--data-dir={tmp_path / 'photos'}")
    assert "the factory's module" in verified.err and verified.code == 0
    # Rows of another network are noticed: the witness runs the module itself.
    folded = call(*words, "--engine=folded", "--force")
    assert folded.path == done.path
    np.testing.assert_allclose(
        open_features(folded.path).test.features[:], store.test.features[:], rtol=1e-4, atol=1e-5
    )


def test_a_finished_store_is_found_without_running_the_module(made, tmp_path, package):
    first = made()
    code = (
        "import sys; from data.common.cli import run; from extract.__main__ import main;"
        f"code = run(main, {[*DIGITS, '--model=towers_pkg.nets:make']!r}"
        f" + ['--features-dir={tmp_path / 'f'}']);"
        "print(sorted({'torch', 'timm', 'towers_pkg'} & set(sys.modules)), code)"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=package.parent,
        env={"PYTHONPATH": str(root), "PATH": ""}, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [first.path, "[] 0"]
    assert "found" in made(word=("why",)).err


@pytest.mark.parametrize("name", ["nets.py", "layers.py", "__init__.py"])
def test_another_source_is_another_store(made, package, name):
    first = made()
    path = package / name
    path.write_text(f"{path.read_text()}\n# another line of {name}\n")
    why = made(word=("why",))
    assert "no store was made" in why.err and "with other content" in why.err
    second = made()
    assert second.code == 0 and second.path != first.path
    # What is edited while a program runs is imported anew.
    if name == "layers.py":
        path.write_text(LAYERS.replace("nn.GELU()", "nn.Sigmoid()"))
        rows = open_features(made().path).train.features[:]
        assert rows.min() > 0
        assert (open_features(second.path).train.features[:] < 0).any()


def test_the_same_code_elsewhere_is_the_same_store(made, package, tmp_path, monkeypatch):
    first = made()
    moved = tmp_path / "elsewhere"
    package.parent.rename(moved)
    monkeypatch.syspath_prepend(str(moved))
    assert made().path == first.path
    assert made("--force").path == first.path


@pytest.mark.parametrize("how", ["opened", "named"])
def test_files_that_the_factory_reads_are_compared(made, package, tmp_path, how):
    file = tmp_path / "w.bin"
    text = MODULE.replace("from .layers", "from towers_pkg.layers").replace(
        "    return",
        "    torch.manual_seed(read())\n    network[0][0].reset_parameters()\n    return",
    )
    if how == "opened":
        text += f"\ndef read():\n    return int(open({str(file)!r}).read())\n"
    else:  # as safetensors does: Python is not told
        text = text.replace('"crop_pct"', f'"files": [{str(file)!r}], "crop_pct"')
        text += (
            "\ndef read():\n    import ctypes\n    libc = ctypes.CDLL(None)\n"
            f"    fd = libc.open({str(file)!r}.encode(), 0)\n"
            "    buffer = ctypes.create_string_buffer(9)\n    libc.read(fd, buffer, 9)\n"
            "    libc.close(fd)\n    return int(buffer.value)\n"
        )
    write_module(package, text)
    file.write_text("1")
    first = made("--model=towers_one:make")
    assert first.code == 0, first.err
    assert read_header(first.path).request["read"].keys() == {str(file)}
    assert "found" in made("--model=towers_one:make").err
    file.write_text("2")
    assert str(file) in made("--model=towers_one:make", word=("why",)).err
    second = made("--model=towers_one:make")
    assert "found" not in second.err and second.path != first.path
    file.write_text("1")
    assert made("--model=towers_one:make").path == first.path


def test_weights_of_a_file_and_random_ones(made, package, tmp_path, refused):
    plain, again = made(), made("--force")
    assert plain.path == again.path, "torch's generator starts at the same seed"
    drawn = [made("--weights=random", f"--seed={seed}").path for seed in (0, 1)]
    assert len({plain.path, *drawn}) == 3
    seeds = [read_header(path).spec["seed"] for path in (plain.path, *drawn)]
    assert seeds == [None, 0, 1]

    from towers_pkg.nets import make

    module = make()[0]
    wrapped = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": wrapped}, "w.pt")
    save_file(module.state_dict(), "w.safetensors")
    stores = [read_header(made(f"--weights={name}").path) for name in ("w.pt", "w.safetensors")]
    assert stores[0].key == stores[1].key
    assert stores[0].provenance["weights_file"].endswith("w.pt")
    state = {k: v for k, v in module.state_dict().items() if "num_batches" not in k}
    save_file(
        {**state, "0.0.weight": torch.zeros(6, 3, 5, 5), "more": torch.zeros(1)}, "bad.safetensors"
    )
    refused(
        made("--weights=bad.safetensors"), "bad.safetensors does not fit",
        "1 missing from the file: 0.1.num_batches_tracked",
        "1 not in the network: more", "(6, 3, 5, 5) instead of (6, 3, 3, 3)",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_settings_of_the_user_go_before_the_factorys(made, package):
    done = made(
        "--image-size=20", "--std=0.5", "--interpolation=bicubic", "--model-arg", "mean=0.25"
    )
    spec = read_header(done.path).spec
    assert spec["model"]["args"] == {"mean": 0.25}
    assert spec["preprocessing"]["image_size"] == 20
    assert spec["preprocessing"]["interpolation"] == "bicubic"
    assert spec["preprocessing"]["mean"] == [0.25, 0.4, 0.3]
    assert spec["preprocessing"]["std"] == [0.5] * 3


def test_a_network_of_timms_is_only_called(package):
    write_module(
        package,
        "import timm\ndef make():\n    net = timm.create_model('test_vit', num_classes=5)\n"
        "    return net, {'image_size': 160, 'mean': (0,) * 3, 'std': (1,) * 3}\n",
    )
    backbone = load_backbone(BackboneRequest("towers_one:make", trusted=True))
    assert backbone.width == 5, "its own output, and not what is before the classifier"
    assert vector_function(backbone.module)(torch.zeros(1, 3, 160, 160)).shape == (1, 5)


def test_list_and_python(call, package, tmp_path):
    listed = call("list", "towers_pkg.nets:make")
    assert listed.code == 0
    assert listed.out.splitlines()[1].split()[:3] == ["towers_pkg.nets:make", "6", "24x32"]
    images = [(np.full((9, 9, 3), 20 * i, np.uint8), i % 2) for i in range(8)]
    store = embed(
        images[:4], test=images[4:], name="mine", model="towers_pkg.nets:make", jobs=1,
        features_dir=tmp_path / "f", engine="torch", batch_size=4,
    )  # fmt: skip
    assert store.train.features.shape == (4, 6)


def test_images_are_embedded_by_a_spec(call, made, package, tmp_path):
    """What ``classify predict`` starts, with what a head carries."""
    header = read_header(made().path)
    Image.fromarray(np.full((70, 90, 3), 99, np.uint8)).save("1.png")
    Path("spec.json").write_text(json.dumps({"spec": header.spec, "weights_file": None}))
    done = call("images", "--spec=spec.json", "--out=rows.npy", "--device=cpu", "1.png")
    assert done.code == 0, done.err
    from towers_pkg import nets

    torch.manual_seed(0)
    expected = by_hand(nets.make()[0].eval(), [Image.open("1.png")])
    np.testing.assert_allclose(np.load("rows.npy"), expected, atol=1e-6)


@pytest.mark.skipif(not os.environ.get("ICEBOX_FAULTS"), reason="at length in make faults")
def test_heads_of_a_factory_predict(
    made, package, tmp_path, capsys, monkeypatch, warm_stage_one, unwritten_figures
):
    path = made().path
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save("1.png")
    fit = ("fit", path, "--strategy=ovr", "--c=1", "--jobs=1", "--no-few-shot", "--reports-dir=r")
    assert run(classify_main, fit) == 0, capsys.readouterr().err
    (head,) = Path("r").rglob("ovr.safetensors")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    predict = ("predict", str(head), "1.png", "--csv", "--device=cpu")
    assert run(classify_main, predict) == 0, capsys.readouterr().err
    assert "1.png" in capsys.readouterr().out.strip().splitlines()[-1]


def test_workers_import_the_module(made, package, monkeypatch):
    spec = read_header(made().path).spec
    folder = str(package.parent)
    for name in [name for name in sys.modules if name.startswith("towers_")]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != folder])
    settings = worker.RunSettings("f", "k", json.dumps(spec), None, "cpu", False, None, folder)
    assert worker._backbone(settings).width == 6
    worker._backbone.cache_clear()
    (package / "layers.py").write_text(LAYERS + "\n# of another version\n")
    with pytest.raises(UserError, match=r"not that with which .* made \(towers_pkg/layers.py\)"):
        worker._backbone(settings)


def test_the_coordinator_tells_workers_where_the_code_is(package, tmp_path):
    from extract.model.providers.registry import code_folder

    assert code_folder("towers_pkg.nets:make") == str(package.parent)
    assert code_folder("test_vit") is None


# -- what a file may have run ------------------------------------------------------------------


def test_a_file_runs_no_code_but_what_made_it(made, package, monkeypatch):
    spec = read_header(made().path).spec
    assert backbone_of_spec(spec, None).width == 6
    changed = MODULE + "\nraise SystemExit('it ran')\n"
    (package / "nets.py").write_text(changed)
    with pytest.raises(UserError, match=r"the code in .* is not that with which"):
        backbone_of_spec(spec, None)


@pytest.mark.parametrize("where", ["site-packages", "a folder of packages"])
def test_installed_packages_are_not_run_for_a_file(tmp_path, monkeypatch, package, where):
    site = tmp_path / where
    (site / "thing-1.0.dist-info").mkdir(parents=True)
    if where == "site-packages":
        (site / "thing-1.0.dist-info").rmdir()
    (site / "towers_site.py").write_text(
        MODULE.replace("from .layers", "from towers_pkg.layers").replace(
            "def make(", "open('ran', 'w').close()\ndef make("
        )
    )
    monkeypatch.syspath_prepend(str(site))
    name = "towers_site:make"
    code = find_code("towers_site", name)
    assert [path.name for path in code.files] == ["towers_site.py"], "not what lies beside it"
    typed = load_backbone(BackboneRequest(name, trusted=True))
    Path("ran").unlink()
    del sys.modules["towers_site"]
    request = BackboneRequest(name, config=typed.config)
    with pytest.raises(UserError, match=rf"(?s)installed package.*ICEBOX_FACTORY={name}"):
        load_backbone(request)
    assert not Path("ran").exists()
    monkeypatch.setenv("ICEBOX_FACTORY", name)
    assert load_backbone(request).digest == typed.digest


def test_pythons_own_library_is_not_run_for_a_file():
    code = find_code("http.server", "http.server:test")
    assert code.is_installed
    assert {path.parent.name for path in code.files} == {"http"}


# -- bad input ---------------------------------------------------------------------------------

RESULT = "nn.Flatten(), {'image_size': 8, 'mean': (0,) * 3, 'std': (1,) * 3}"


def returning(result):
    return f"import torch\nfrom torch import nn\ndef make():\n    return {result}\n"


BAD = {
    "no module": ("towers_none:make", None, ["no module towers_none", "PYTHONPATH"]),
    "no submodule": ("towers_pkg.none:make", None, ["no module towers_pkg.none", "PYTHONPATH"]),
    "a folder": ("towers_pkg.more:make", None, ["no file of Python's", "the module that defines"]),
    "no function": ("towers_one:mkae", returning(RESULT), ["no function mkae", "mean make"]),
    "no callable": ("towers_one:make", "make = 3\n", ["make is no function", "the name of the"]),
    "made by code": (
        "towers_one:make", "globals()['m'] = 1\ndef __getattr__(n): raise AttributeError(n)\n",
        ["make is not there", "towers_one.py"],
    ),
    "a syntax error": ("towers_one:make", "def make(:\n", ["cannot be imported", "SyntaxError"]),
    "an import error": (
        "towers_one:make", "import towers_absent\ndef make(): ...\n",
        ["cannot be imported", "No module named 'towers_absent'", "line 1 of"],
    ),
    "an exit": (
        "towers_one:make", "import sys\nsys.exit('enough')\ndef make(): ...\n",
        ["cannot be imported", "SystemExit: enough"],
    ),
    "it raises": (
        "towers_one:make", "def make():\n    raise ValueError('no such file\\nmore')\n",
        ["ValueError: no such file", "line 2 of", "without arguments"],
    ),
    "arguments": ("towers_one:make", "def make(width): ...\n", ["TypeError", "'width'"]),
    "a module alone": (
        "towers_one:make", returning("nn.Flatten()"), ["returns Flatten, expected (module, {"],
    ),
    "no module in it": (
        "towers_one:make", returning("3, {}"), ["returns (int, dict), expected (module, {"],
    ),
    "a class": (
        "towers_one:Net", "from torch import nn\nclass Net(nn.Flatten): ...\n",
        ["returns Net, expected (module, {"],
    ),
    "an entry": (
        "towers_one:make", returning(RESULT.replace("'mean'", "'means'")),
        ["an entry 'means'", "did you mean mean"],
    ),
    "no size": (
        "towers_one:make", returning("nn.Flatten(), {'mean': (0,) * 3, 'std': (1,) * 3}"),
        ["has no image_size", "expected (module, {"],
    ),
    "a size": (
        "towers_one:make", returning(RESULT.replace("8", "8.5")), ["the image_size", "is 8.5"],
    ),
    "a mean": (
        "towers_one:make", returning(RESULT.replace("(0,) * 3", "0.5")), ["the mean", "is 0.5"],
    ),
    "a std": (
        "towers_one:make", returning(RESULT.replace("(1,) * 3", "(1, 1, 0)")),
        ["--std", "must be positive"],
    ),
    "a crop mode": (
        "towers_one:make", returning(RESULT.replace("}", ", 'crop_mode': 'pad'}")),
        ["crop_mode 'pad'", "center, squash, border"],
    ),
    "files": (
        "towers_one:make", returning(RESULT.replace("}", ", 'files': ['nowhere.pt']}")),
        ["nowhere.pt, which is not there"],
    ),
    "a map": (
        "towers_one:make", returning(RESULT.replace("nn.Flatten()", "nn.Conv2d(3, 4, 3)")),
        ["a tensor of shape (2, 4, 6, 6) for 2 images", "expected one vector for each"],
    ),
    "one vector for all": (
        "towers_one:make", returning(RESULT.replace("nn.Flatten()", "nn.Flatten(0, 2)")),
        ["a tensor of shape (48, 8)", "expected one vector for each"],
    ),
    "no tensor": (
        "towers_one:make",
        returning(RESULT.replace("nn.Flatten()", "nn.LSTM(8, 4)")), ["cannot embed images", "8"],
    ),
    "pooled": ("towers_pkg.nets:make --pool=avg", None, ["--pool avg", "Leave --pool out"]),
    "the hub": ("towers_pkg:nets:make", None, ["timm's names", "package.module:factory"]),
    "bundled": ("towers_pkg.nets:make --weights=bundled", None, ["of tf_efficientnet_lite0"]),
    "no weights": ("towers_pkg.nets:make --weights=no.pt", None, ["no.pt", "no such file"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(made, package, refused, name):
    model, text, named = BAD[name]
    (package / "more").mkdir()
    if text is not None:
        write_module(package, text)
    done = made(*f"--model={model}".split())
    refused(done, *named)


def test_a_large_package_is_no_factory(made, package, refused, monkeypatch):
    monkeypatch.setattr("extract.model.providers.code_files.MOST_FILES", 3)
    refused(made("--model=timm.layers:Mlp"), "more than 3 files", "a module of your own")


def test_a_module_of_another_name_in_the_way(made, package, refused, monkeypatch):
    """Found by its source, and shadowed by what a finder of the user's gives."""
    path = write_module(package, returning(RESULT))
    other = package / "other.py"
    other.write_text(path.read_text())
    real = __import__("importlib").import_module

    def shadowed(name):
        found = real(name)
        monkeypatch.setattr(found, "__file__", str(other))
        return found

    monkeypatch.setattr("importlib.import_module", shadowed)
    refused(made("--model=towers_one:make"), "Python has imported towers_one from", "other.py")


def test_code_that_changes_while_it_is_read(made, package, refused):
    write_module(
        package,
        f"import torch\nfrom torch import nn\ndef make():\n    open(__file__, 'a').write('#')\n"
        f"    return {RESULT}\n",
    )
    refused(made("--model=towers_one:make"), "towers_one.py has changed while it was being read")


def test_which_files_are_the_users(package, tmp_path):
    (package.parent / "towers_more.py").write_text("from towers_pkg import nets\nimport json\n")
    (package.parent / "towers_deep").mkdir()  # a package without an __init__
    (package.parent / "towers_deep" / "inner.py").write_text("def f(): import towers_more\n")
    found = find_code("towers_deep.inner", "towers_deep.inner:f").digests()
    assert list(found) == [
        "towers_deep/inner.py", "towers_more.py", "towers_pkg/__init__.py",
        "towers_pkg/layers.py", "towers_pkg/nets.py",
    ]  # fmt: skip


def test_the_request_is_the_plain_name(package, tmp_path):
    """What is asked for holds no folder, so that a store is found wherever the code lies."""
    from dataclasses import replace

    from extract.options import Options

    options = replace(Options(), dataset="digits", model="towers_pkg.nets:make")
    request = Request(options)
    assert request.options["model"] == "towers_pkg.nets:make"
    assert str(tmp_path) not in json.dumps(request.options)
    assert job.backbone_request(options).trusted
