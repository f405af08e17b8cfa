"""Laws of what a run shows at its end and after each epoch: the figures are those of the log."""

from __future__ import annotations

import pytest

from supertickets.report.closing import draw_curves, epoch_line


def record_of(epoch: int, **more: object) -> dict[str, object]:
    return {"epoch": epoch, "loss": 2.0 / epoch, "seconds": 1.2, **more}


def scores(accuracy: float, macs: float, sparse_macs: float, sparsity: float) -> dict[str, object]:
    return {"accuracy": accuracy, "macs": macs, "sparse_macs": sparse_macs, "sparsity": sparsity}


RECORDS = [
    record_of(1, **scores(0.25, 9e6, 9e6, 0.0)),
    record_of(2, target_sparsity=0.5, revived=0),  # pruned, but not evaluated
    record_of(3, **scores(0.5, 7e6, 3e6, 0.5), units_removed=4),
    record_of(4, **scores(0.75, 7e6, 1e6, 0.8), target_sparsity=0.8, revived=3, emptied=["stem.0.weight"]),
]


@pytest.mark.parametrize("pruned", [True, False])
def test_the_curves_are_the_logs_figures(tmp_path, pruned):
    records = RECORDS if pruned else [{k: v for k, v in record.items() if k != "target_sparsity"} for record in RECORDS]
    figure = draw_curves(records, "accuracy")
    top, middle, bottom = figure.axes
    lines = [[(list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()] for axis in (top, middle, bottom)]
    assert lines[0] == [([1, 3, 4], [0.25, 0.5, 0.75])]
    assert lines[1] == [([1, 3, 4], [9, 7, 7]), ([1, 3, 4], [9, 3, 1])]
    assert lines[2] == [([1, 3, 4], [0, 0.5, 0.8])] + [([2, 4], [0.5, 0.8])] * pruned
    assert [axis.get_ylabel() for axis in (top, middle, bottom)] == ["accuracy", "MACs (M)", "sparsity"]
    assert [text.get_text() for text in middle.get_legend().get_texts()] == ["dense", "sparse"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_epochs_line_names_what_happened():
    lines = [epoch_line(record, "accuracy", 4) for record in RECORDS]
    assert lines[0] == "epoch   1/4  loss 2.0000  accuracy 0.2500  MACs 9.000 M  sparsity 0.000  1 s"
    assert "not evaluated" in lines[1] and lines[1].endswith("(pruned to 0.500)")
    assert lines[2].endswith("1 s  (4 units removed)")
    assert "layers emptied: stem.0.weight" in lines[3] and lines[3].endswith("(pruned to 0.800, 3 back)")
