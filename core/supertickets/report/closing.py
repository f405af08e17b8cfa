"""The output of a run: one line per epoch, and at the end the closing table and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from supertickets.deploy.engine.timing import native_ms
from supertickets.networks.macs import paper_macs
from supertickets.task import Task
from supertickets.terminal import beside_supernet, console, headline, human, note, score_text, summary_table
from supertickets.ticket.hub import file_bytes
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import Run, by_main
from supertickets.training.start import REWIND

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def epoch_line(record: Mapping[str, Any], metric: str, epochs: int) -> str:
    """One line with the epoch, loss, metric, MACs, sparsity, seconds, and what was pruned and removed."""
    score = headline(record, metric) if metric in record else "not evaluated"
    texts = [f"epoch {record['epoch']:>3}/{epochs}", f"loss {record['loss']:.4f}", score, f"{record['seconds']:.0f} s"]
    if "teacher_seconds" in record:
        texts[-1] += f" ({record['teacher_seconds']:.1f} s of it for the teacher)"
    if emptied := record.get("emptied"):
        texts.append(f"(layers emptied: {', '.join(emptied)}; prune.min_layer_density prevents it)")
    if "target_sparsity" in record:
        back = f", {record['revived']} back" if record["revived"] else ""
        macs = f", {record['target_sparse_macs']:.3f} of the MACs" if "target_sparse_macs" in record else ""
        texts.append(f"(pruned to {record['target_sparsity']:.3f}{macs}{back})")
    if record.get("units_removed"):
        texts.append(f"({record['units_removed']} units removed)")
    return "  ".join(texts)


def save_ticket(run: Run, ticket: Ticket, *, early_tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write the ticket, and first, inside its folder, another one of `early_tensors`, to which later runs can rewind.

    A drawing counts as finished as soon as its ticket exists, so the ticket is written last.
    """
    folder = run.folder / "ticket"

    def write() -> None:
        if early_tensors:
            ticket.with_tensors(early_tensors).save(folder / REWIND)
        ticket.save(folder)

    by_main(write)


def finish(run: Run, task: Task, ticket: Ticket, net: nn.Module) -> None:
    """Write the curves, the example pictures and the report of a run whose ticket is saved; print the closing table."""
    if run.main:
        pictures = run.folder / "pictures"
        pictures.mkdir(exist_ok=True)
        draw_curves(run.records(), task.metric).savefig(pictures / "curves.png", dpi=120)
        examples = task.draw_examples(net, pictures, run.config.run.examples) if run.config.run.examples else []
        in_engine = native_ms(ticket) if run.config.run.native_ms else None
        rows = summary(ticket, task.metric, run.folder / "ticket", native_ms=in_engine)
        console.print(summary_table(f"{task.name} ticket", rows))
        if run.config.run.report:
            write_run_report(run.folder, native_ms=in_engine)
        console.print(
            f"pictures: {pictures} (curves.png and {len(examples)} examples); log: {run.metrics_file}", highlight=False
        )
    run.accelerator.wait_for_everyone()
    for tracker in run.accelerator.trackers:  # not `end_training`: another drawing may follow and need the process group
        tracker.finish()


def write_run_report(folder: Path, *, native_ms: float | None = None) -> None:
    """Write the run's report.html, or say why it was not written; the run itself is already complete.

    `native_ms` are the sparse engine's milliseconds for one image, if they were measured.
    """
    from supertickets.report.page import write_report
    from supertickets.report.runs import read_run

    try:
        run = read_run(folder)
        run.native_ms = native_ms
        console.print(f"report: {write_report([run], folder / 'report.html')}", highlight=False)
    except (OSError, ValueError) as error:  # a `UserError` is a `ValueError`, and so is what Vega-Lite raises
        note(f"no report was written: {error}")


def summary(ticket: Ticket, metric: str, folder: Path, *, native_ms: float | None = None) -> dict[str, str]:
    """The rows of the closing table, with each figure next to that of the full supernet if it is known.

    `native_ms` are the sparse engine's milliseconds for one image, if they were measured.
    """
    figures, supernet = ticket.metrics, ticket.provenance.get("supernet", {})

    macs_paper = paper_macs(figures["macs"], figures["params"], sum(int((~kept).sum()) for kept in ticket.mask.values()))
    in_engine = {}
    if native_ms is not None:
        size = "x".join(map(str, ticket.load_task().input_shape[1:]))
        in_engine = {"sparse engine": f"{native_ms:.2f} ms for one image of {size} on one thread"}
    return {
        metric: score_text(figures[metric]),
        "protocol": figures.get("protocol", ""),
        "sparsity": f"{ticket.sparsity:.4f} of the prunable weights",
        "MACs, dense": beside_supernet(figures["macs"], supernet.get("macs")),
        "MACs, sparse": f"{human(figures['sparse_macs'])}  (layer by layer; macs_paper {human(macs_paper)})",
        **in_engine,
        "parameters": beside_supernet(figures["params"], supernet.get("params")),
        "units": str(figures["units"]),
        "ticket": f"{folder}  ({file_bytes(folder) / 1024:.0f} KiB)",
    }


def draw_curves(records: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """A figure with the metric, dense and sparse MACs, and sparsity over the epochs, one above the other."""
    # Imported here, because it takes a while and only one of many processes draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [record for record in records if metric in record]
    epochs = [record["epoch"] for record in scored]
    figure = Figure(figsize=(7, 8))
    figure.subplots_adjust(left=0.13, right=0.98, bottom=0.06, top=0.99, hspace=0.07)
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(epochs, [record[metric] for record in scored], marker=".")
    top.set_ylabel(metric)
    for key, label in (("macs", "dense"), ("sparse_macs", "sparse")):
        middle.plot(epochs, [record[key] / 1e6 for record in scored], marker=".", label=label)
    middle.set_ylabel("MACs (M)")
    middle.set_ylim(bottom=0)
    middle.legend()
    bottom.plot(epochs, [record["sparsity"] for record in scored], marker=".", label="zero weights")
    asked = [(record["epoch"], record["target_sparsity"]) for record in records if "target_sparsity" in record]
    if asked:
        bottom.plot(*zip(*asked, strict=True), "v", label="prunes")
    bottom.set_ylim(0, 1)
    bottom.set_ylabel("sparsity")
    bottom.set_xlabel("epoch")
    bottom.legend()
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
    return figure
