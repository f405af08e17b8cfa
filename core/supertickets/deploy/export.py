"""Export: a ticket as one file that runs without this package, checked against the network that it comes from.

The graph is simple: BN is folded, and blocks have the layout that is fastest in the runtime. Labels, preprocessing and metrics
are in the file's own metadata, with one JSON string per key. The formats `c` and `native` belong to the sparse engine
(`deploy.engine`).
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from supertickets.deploy.engine.compiler import find_compiler, native_suffix, target_suffix
from supertickets.deploy.engine.files import open_c, open_native, write_c, write_native
from supertickets.deploy.engine.planner import assert_supported
from supertickets.deploy.plain import Layout, fold
from supertickets.deploy.samples import picture_inputs, sample_inputs
from supertickets.errors import UserError
from supertickets.files import check_output_file, put_in_place
from supertickets.terminal import summary_table
from supertickets.ticket.facts import preprocessing
from supertickets.ticket.ticket import Ticket

TOLERANCE = 1e-4  # largest absolute difference from eager PyTorch that is accepted
OPSET = 18  # ONNX opset that PyTorch's exporter writes without conversion
INPUT, OUTPUT = "image", "output"
if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]
Runner = Callable[[Array], Array]


class ExportFacts(TypedDict):
    """A description of the file that `export` has written, JSON-serialisable."""

    path: str
    format: str
    layout: str
    size: list[int]  # (H, W) in pixels
    batch: int | str  # 1 or "any"
    difference: dict[str, float]  # largest absolute difference from eager PyTorch for each kind of input
    bytes: int


def export(
    ticket: Ticket,
    path: str | Path,
    *,
    format: str,
    size: tuple[int, int] | None = None,
    dynamic_batch: bool = False,
    layout: Layout | None = None,
    pictures: Sequence[Path] = (),
    target: str | None = None,
) -> ExportFacts:
    """Write `ticket` to `path` for images (B, 3, *size) float32, with B = 1 unless `dynamic_batch`; returns a description.

    `format` is a key of `FORMATS`; `size` (H, W) in pixels defaults to the task's size, and `layout` to the fastest one for the
    format. The file gets its name only after it has been run and compared with eager PyTorch, on noise, on drawn scenes and on
    `pictures`, your own image files. `target` (native only) is the machine to compile for, one of `TARGET_NAMES`; code that
    this machine cannot run is compiled for this machine, too, and compared in that form. Raises `UserError` for a wrong format,
    name, target or size, for a missing package or compiler, for a network that the engine cannot run, for a picture that cannot
    be read, and if the difference is above 1e-4.
    """
    chosen, path = _checked(format, Path(path), size, target)
    task = ticket.load_task()
    size = size or (task.input_shape[1], task.input_shape[2])
    if layout not in (None, chosen.layout) and format in ENGINE_FORMATS:
        raise UserError(f"--layout: {format} supports only {chosen.layout}")
    layout = layout or chosen.layout
    net = ticket.build()
    if format in ENGINE_FORMATS:
        assert_supported(net)
    plain = fold(net, layout, multiple=chosen.multiple)
    plain = plain.to(memory_format=torch.channels_last if chosen.channels_last else torch.contiguous_format)
    inputs = dict(zip(("noise", "scenes"), sample_inputs(ticket, size), strict=True))  # two images each
    if pictures:
        inputs["pictures"] = picture_inputs(ticket, size, pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        chosen.write(plain, inputs["noise"][: 2 if dynamic_batch else 1], part, metadata(ticket, size), dynamic_batch)
        difference = _differences(net, chosen.open(part, None), inputs, dynamic_batch)
        worst = float(np.max(list(difference.values())))  # unlike `max`, nan if one of them is nan
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path}: not written: its outputs differ from the ticket's by {worst:.1e}; at most {TOLERANCE:.0e} is allowed"
            )
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # `path` itself last
            put_in_place(file, path.parent / file.name)
    written = [path, *([path.with_suffix(chosen.beside)] if chosen.beside else [])]
    return {
        "path": str(path),
        "format": format,
        "layout": layout,
        "size": list(size),
        "batch": "any" if dynamic_batch else 1,
        "difference": difference,
        "bytes": sum(file.stat().st_size for file in written),
    }


def export_table(facts: ExportFacts) -> Table:
    """A readable table of the result of `export`."""
    differences = ", ".join(f"{value:.1e} on {kind}" for kind, value in facts["difference"].items())
    height, width = facts["size"]
    return summary_table(
        facts["path"],
        {
            "format": f"{facts['format']}, blocks {facts['layout']}",
            "input": f"{INPUT}: ({'B' if facts['batch'] == 'any' else 1}, 3, {height}, {width}) float32",
            "outputs differ by": f"{differences} (largest, absolute; allowed: {TOLERANCE:.0e})",
            "size": f"{facts['bytes'] / 1024:.0f} KiB",
        },
    )


def metadata(ticket: Ticket, size: tuple[int, int]) -> dict[str, str]:
    """The information that users of the file need, with one JSON string per key."""
    facts = {
        "task": ticket.task,
        "labels": ticket.load_task().labels,
        "preprocessing": preprocessing(ticket, size),
        "metrics": ticket.metrics,
        "sparsity": ticket.sparsity,
        "supertickets": version("supertickets"),
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def open_exported(path: str | Path, *, threads: int | None = None) -> Runner:
    """Open a file that `export` wrote as a function of (B, 3, H, W) float32 arrays, in the runtime for its suffix.

    With `threads` = None, the runtime chooses the number of threads (PyTorch always uses that of `torch.set_num_threads`).
    """
    path = Path(path)
    found = [format for format in FORMATS.values() if format.suffix == path.suffix]
    if not found:
        raise UserError(f"{path}: does not end in one of {', '.join(format.suffix for format in FORMATS.values())}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return found[0].open(path, threads)


def _checked(format: str, path: Path, size: tuple[int, int] | None, target: str | None) -> tuple[Format, Path]:
    if format not in FORMATS:
        raise UserError(f"--format: '{format}' is unknown; choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    if format == "native":
        chosen = _native_for(target or "native")
    elif target is not None:
        raise UserError(f"--target: {target} is for --format native; {format} is the same for every machine")
    if path.suffix != chosen.suffix:
        raise UserError(f"--out: {path} should end in {chosen.suffix} for {format}{f', target {target}' if target else ''}")
    for file in (path, path.with_suffix(chosen.beside or path.suffix)):
        check_output_file(file, named="--out", kind="a file", inputs=[])
    if size is not None and min(size) < 1:
        raise UserError(f"--size: {list(size)} must be two positive numbers, height and width in pixels")
    for package in chosen.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(f"--format {format} needs the package {package}: pip install 'supertickets[export]'") from error
    if format in ENGINE_FORMATS:
        find_compiler(target or "native")
    return chosen, path


@torch.no_grad()
def _differences(net: nn.Module, run: Runner, inputs: dict[str, Tensor], dynamic_batch: bool) -> dict[str, float]:
    """Largest absolute difference from eager for each kind of input: images one by one, or together if the batch is dynamic."""
    found = {}
    for kind, x in inputs.items():
        batches = [x, x[:1]] if dynamic_batch else x.split(1)
        found[kind] = float(np.max([np.abs(run(b.numpy()) - net(b).numpy()).max() for b in batches]))
    return found


# The formats: how to write, and how to open what was written -----------------------------------------------------------


def _program(plain: nn.Module, x: Tensor, dynamic_batch: bool) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    return torch.export.export(plain, (x,), dynamic_shapes=shapes)


def _onnx_model(plain: nn.Module, x: Tensor, dynamic_batch: bool) -> onnx.ModelProto:
    """The ONNX graph, without the exporter's notes (paths and stack traces of this machine)."""
    program = torch.onnx.export(
        _program(plain, x, dynamic_batch),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph, model):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _write_onnx(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
    import onnx

    model = _onnx_model(plain, x, dynamic_batch)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _open_onnx(path: Path, threads: int | None) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run([OUTPUT], {INPUT: x})[0]


def _write_openvino(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        file.write_bytes(_onnx_model(plain, x, dynamic_batch).SerializeToString())
        model = openvino.convert_model(file)
    for key, value in facts.items():
        model.set_rt_info(value, ["supertickets", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path, threads: int | None) -> Runner:
    import openvino

    # Some CPUs would otherwise compute in bfloat16, with errors in the third digit.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda x: model(x)[0]


def _write_torch(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
    # The archive's writer warns because it takes weights in channels_last for parts of larger tensors; they are written whole.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(_program(plain, x, dynamic_batch), path, extra_files=dict(facts))


def _open_torch(path: Path, threads: int | None) -> Runner:
    net = torch.export.load(path).module()
    return lambda x: net(torch.from_numpy(x)).detach().numpy()


def _write_c(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
    write_c(plain, (x.shape[2], x.shape[3]), path, facts)


def _write_native(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
    write_native(plain, (x.shape[2], x.shape[3]), path, facts, target="native")


def _native_for(target: str) -> Format:
    """The format native for `target`; it opens the file that `write_native` returns for the comparison on this machine."""
    opened: list[Runner] = []

    def write(plain: nn.Module, x: Tensor, path: Path, facts: dict[str, str], dynamic_batch: bool) -> None:
        opened.append(write_native(plain, (x.shape[2], x.shape[3]), path, facts, target=target))

    return replace(FORMATS["native"], suffix=target_suffix(target), write=write, open=lambda path, threads: opened[-1])


@dataclass(frozen=True)
class Format:
    """One kind of file: how to write and open it, the packages that this needs, and the fastest form of the network for it."""

    suffix: str
    write: Callable[[nn.Module, Tensor, Path, dict[str, str], bool], None]
    open: Callable[[Path, int | None], Runner]
    packages: Sequence[str]
    layout: Layout = "per-kernel"
    multiple: int = 1  # units per kernel are padded to a multiple of this, see `fold`
    channels_last: bool = False
    beside: str = ""  # suffix of the second file


# The layouts were chosen by measurement (docs/deploy.md). ONNX Runtime's fast convs need multiples of four channels: with the
# arbitrary numbers that search and compaction leave, a network can take three times as long as a slightly larger one.
FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime"), multiple=4),
    "openvino": Format(".xml", _write_openvino, _open_openvino, ("openvino", "onnx", "onnxscript"), beside=".bin"),
    "torch": Format(".pt2", _write_torch, _open_torch, (), channels_last=True),
    "c": Format(".c", _write_c, open_c, (), layout="one-conv", beside=".h"),
    "native": Format(native_suffix(), _write_native, open_native, (), layout="one-conv"),
}
ENGINE_FORMATS = ("c", "native")
