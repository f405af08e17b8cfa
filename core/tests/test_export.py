"""What is exported gives what the ticket gives, and needs nothing of this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets import cli
from supertickets.config.sections import Config
from supertickets.deploy import export as module
from supertickets.deploy.engine import compiler
from supertickets.deploy.export import ENGINE_FORMATS, FORMATS, export, metadata, open_exported
from supertickets.deploy.plain import LAYOUTS, fold
from supertickets.errors import UserError
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.heads import ClassificationHead
from supertickets.networks.supernet import Supernet
from supertickets.search.shrink import shrink
from supertickets.testing import ToyTask, micro_arch, micro_net, randomise_norms
from supertickets.ticket.ticket import Ticket
from supertickets.units.groups import unit_groups

pytestmark = pytest.mark.usefixtures("toy_installed")
STAGES = [
    {"blocks": [0], "widths": [4]},
    {"blocks": [1, 0], "widths": [4, 6]},
    {"blocks": [0, 0], "widths": [4, 6]},
]
SMALL = {"stages": STAGES, "kernels": [3, 5]}  # edges of every kind and little else: exporters take their time
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "onnx_predict.py"


def shrunk_net(*, tokens: int = 0) -> Supernet:
    """A block without units, one without its 5x5 units, the rest full; with `tokens`, a transformer in the head."""
    without = {name: 0 for name in mixed_blocks(micro_net(**SMALL)) if name != "head.block"}
    net = micro_net(**SMALL, tokens=tokens, tokens_left=without if tokens else {}).eval()
    randomise_norms(net)
    emptied = [group for group in unit_groups(net) if group.name.startswith("stages.2.fusion.edges.1to0.")]
    dead = {group.name: torch.ones(group.count, dtype=torch.bool) for group in emptied}
    dead["stages.1.branches.0.0.depthwise.5"] = torch.ones(16, dtype=torch.bool)
    shrink(net, dead)
    return net


def toy_ticket(*, tokens: int = 0) -> Ticket:
    return Ticket.from_net(
        shrunk_net(tokens=tokens), ToyTask(Config()), metrics={"accuracy": 0.5, "protocol": "share of pixels"}
    )


def needs(format: str) -> None:
    if format in ENGINE_FORMATS and shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    for package in FORMATS[format].packages:
        pytest.importorskip(package, reason="needs the extra `export`")


@pytest.mark.parametrize(("layout", "multiple"), [("one-conv", 1), ("per-kernel", 1), ("per-kernel", 7)])
@pytest.mark.parametrize("tokens", [0, 4])
def test_folding_changes_nothing_and_leaves_no_norm(layout, multiple, tokens):
    net = shrunk_net(tokens=tokens).double()
    plain = fold(net, layout, multiple=multiple)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    for size in ((23, 31), (32, 16)):
        x = torch.randn(2, 3, *size).double()
        assert torch.allclose(plain(x), net(x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folding_the_classification_head(layout):
    arch = micro_arch()
    net = Supernet(arch, ClassificationHead(arch, classes=5, widths=(4, 6, 8), channels=12)).eval().double()
    randomise_norms(net)
    x = torch.randn(2, 3, 27, 18).double()
    plain = fold(net, layout)
    assert torch.allclose(plain(x), net(x), atol=1e-10, rtol=0)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_export_equals_eager_for_any_batch_at_odd_sizes(format, tmp_path, monkeypatch):
    needs(format)
    if format == "c":  # `native` compiles the same file as users do
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O0"))
    path = tmp_path / f"deep/net{FORMATS[format].suffix}"
    ticket = toy_ticket(tokens=0 if format in ENGINE_FORMATS else 3)
    facts = export(ticket, path, format=format, size=(23, 31), dynamic_batch=True)
    assert max(facts["difference"].values()) <= 1e-4 and facts["layout"] == FORMATS[format].layout
    x = torch.randn(3, 3, 23, 31)
    assert np.abs(open_exported(path)(x.numpy()) - ticket.build()(x).detach().numpy()).max() < 1e-4
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == sorted([path.name, *([f"net{FORMATS[format].beside}"] if FORMATS[format].beside else [])])
    assert facts["bytes"] == sum(file.stat().st_size for file in path.parent.iterdir())


@pytest.mark.slow
def test_the_onnx_file_says_what_it_is_and_nothing_of_this_machine(tmp_path, capsys):
    needs("onnx")
    import onnx

    folder, path = toy_ticket().save(tmp_path / "ticket"), tmp_path / "net.onnx"
    Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)).save(tmp_path / "real.png")
    check = ["--check", str(tmp_path / "real.png")]
    cli.main(["export", str(folder), "--format", "onnx", "--out", str(path), "--layout", "one-conv", *check])
    said = capsys.readouterr().out
    assert "outputs differ by" in said and "on noise" in said and "on pictures" in said
    model = onnx.load(path)
    facts = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert facts["labels"] == ["red", "green", "blue"] and facts["task"] == "toy"
    assert facts["preprocessing"]["size"] == [16, 16] and facts["metrics"]["protocol"] == "share of pixels"
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    data = path.read_bytes()
    assert b"site-packages" not in data and b".py" not in data and str(tmp_path).encode() not in data
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    guard = f"sys.path.insert(0, r'{EXAMPLE.parent}'); import runpy; runpy.run_path(r'{EXAMPLE}', run_name='__main__')"
    code = f"import sys; sys.modules['torch'] = sys.modules['supertickets'] = None; {guard}"
    arguments = [str(path), str(tmp_path / "picture.png"), "--out", str(tmp_path / "classes.png")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(label in done.stdout for label in facts["labels"]) and Image.open(tmp_path / "classes.png").size == (30, 20)


def test_the_torch_file_runs_without_this_package(tmp_path):
    path, ticket = tmp_path / "net.pt2", toy_ticket()
    export(ticket, path, format="torch")
    code = (
        "import sys; sys.modules['supertickets'] = None\n"
        "import torch; files = {'labels': ''}; net = torch.export.load(sys.argv[1], extra_files=files).module()\n"
        "print(files['labels'], net(torch.ones(1, 3, 16, 16)).double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels, total = done.stdout.rsplit(" ", 1)
    assert json.loads(labels) == ["red", "green", "blue"]
    assert float(total) == pytest.approx(float(ticket.build()(torch.ones(1, 3, 16, 16)).double().sum()), abs=1e-3)


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    wrong = fold(toy_ticket().build())
    wrong.head.classifier.bias.data += 1e-3
    monkeypatch.setattr(module, "fold", lambda *_, **__: wrong)
    with pytest.raises(UserError, match=r"net\.pt2: not written: its outputs differ .* by 1\.0e-03; at most 1e-04 is allowed"):
        export(toy_ticket(), tmp_path / "net.pt2", format="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_output_that_is_not_a_number_is_never_verified(bad, tmp_path, monkeypatch):
    runs = iter(range(4))  # two images of noise and two scenes

    def run(x: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(x)).numpy() * (np.nan if next(runs) == bad else 1)

    net, real = toy_ticket().build(), module._differences
    monkeypatch.setattr(module, "_differences", lambda _, __, *rest: real(net, run, *rest))
    with pytest.raises(UserError, match="differ from the ticket's by nan"):
        export(toy_ticket(), tmp_path / "net.pt2", format="torch")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "tflite"}, "choose one of onnx, openvino, torch, c, native"),
        ({"path": "net.onnx"}, r"net\.onnx should end in \.pt2 for torch"),
        ({"size": (0, 16)}, "two positive numbers"),
        ({"path": "folder.pt2"}, "is a folder"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, changes, words):
    (tmp_path / "folder.pt2").mkdir()
    given = {"path": "net.pt2", "format": "torch", "size": None} | changes
    with pytest.raises(UserError, match=words):
        export(toy_ticket(), tmp_path / given["path"], format=given["format"], size=given["size"])
    assert [file.name for file in tmp_path.iterdir()] == ["folder.pt2"]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs the package onnx: pip install 'supertickets\[export\]'"):
        export(toy_ticket(), tmp_path / "net.onnx", format="onnx")


def test_metadata_is_json_a_key():
    facts = {key: json.loads(value) for key, value in metadata(toy_ticket(), (16, 24)).items()}
    assert facts["preprocessing"] | {"mean": 0, "std": 0} == {
        "size": [16, 24],
        "axes": "NCHW",
        "colours": "RGB",
        "range": [0, 1],
        "mean": 0,
        "std": 0,
        "orientation": "EXIF",
        "resize": "stretch",
        "interpolation": "bilinear",
    }
