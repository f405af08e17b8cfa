"""Polygon files become label maps; what is wrong with them is said."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets_segmentation.cityscapes import convert, main, polygon_problems

SQUARE = [[2, 3], [9, 3], [9, 8], [2, 8]]


def write(root: Path, objects: list, name: str = "ulm_000000_000019", **changes) -> Path:
    path = root / "gtFine" / "train" / "ulm" / f"{name}_gtFine_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgWidth": 20, "imgHeight": 12, "objects": objects} | changes))
    return path


def thing(label: str, polygon: list = SQUARE) -> dict:
    return {"label": label, "polygon": polygon}


def labels_of(root: Path, name: str = "ulm_000000_000019") -> np.ndarray:
    return np.array(Image.open(root / f"gtFine/train/ulm/{name}_gtFine_labelTrainIds.png"))


def test_polygons_are_drawn_in_order_with_train_ids(tmp_path: Path):
    whole = [[0, 0], [19, 0], [19, 11], [0, 11]]
    write(
        tmp_path,
        [thing("sky", whole), thing("cargroup"), thing("license plate"), thing("static", [[15, 5], [19, 5], [19, 9]])],
    )
    main([str(tmp_path)])
    labels = labels_of(tmp_path)
    assert labels.shape == (12, 20) and labels.dtype == np.uint8
    assert (labels[3:9, 2:10] == 13).all() and labels[0, 0] == 10 and labels[6, 18] == 255
    assert (labels == 13).sum() == 6 * 8


def test_unlabelled_is_void_and_existing_maps_stay_and_old_ones_are_told(tmp_path: Path, capsys):
    write(tmp_path, [])
    main([str(tmp_path)])
    assert (labels_of(tmp_path) == 255).all() and "older" not in capsys.readouterr().out
    for path in tmp_path.rglob("*_labelTrainIds.png"):
        os.utime(path, ns=(1, 1))
    write(tmp_path, [thing("road")])
    main([str(tmp_path)])
    assert (labels_of(tmp_path) == 255).all()
    assert "older than its polygons; --overwrite writes it again" in " ".join(capsys.readouterr().out.split())
    main([str(tmp_path), "--overwrite"])
    assert (labels_of(tmp_path) == 0).any()


def test_workers_make_the_same(tmp_path: Path):
    for i in range(3):
        write(tmp_path, [thing("person")], name=f"ulm_{i:06d}_000019")
    main([str(tmp_path), "--workers", "2"])
    assert all((labels_of(tmp_path, f"ulm_{i:06d}_000019") == 11).sum() == 48 for i in range(3))


def test_undrawable_polygons_are_left_out_and_counted(tmp_path: Path, capsys):
    path = write(tmp_path, [thing("road"), thing("car", [[1, 1], [2, 2]]), thing("car", [[1, 1], [float("nan"), 2], [5, 5]])])
    assert convert(path).problems == {"fewer than 3 points": 1, "a point that is not a number": 1}
    main([str(tmp_path), "--overwrite"])
    assert "fewer than 3 points: 1 in 1 files, left out (ulm_" in capsys.readouterr().out
    assert set(np.unique(labels_of(tmp_path))) == {0, 255}


@pytest.mark.parametrize(
    "polygon, problems",
    [
        (SQUARE, []),
        ([[0, 0], [20, 0], [20, 12], [0, 12]], []),  # the border itself is in
        ([[0, 0], [5, 5], [5, 0], [0, 5]], ["crosses itself"]),
        ([[30, 30], [40, 30], [40, 40]], ["completely outside the image"]),
        ([[-5, 3], [9, 3], [9, 8]], ["partly outside the image"]),
    ],
)
def test_polygons_are_looked_at(polygon, problems):
    assert polygon_problems(polygon, (20, 12)) == problems


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("{", "not valid JSON"),
        ("[]", "no list 'objects'"),
        (json.dumps({"imgWidth": 0, "imgHeight": 4, "objects": []}), "imgWidth must be"),
        (json.dumps({"imgWidth": 4, "imgHeight": 4, "objects": [thing("unicorn")]}), "unknown label 'unicorn'"),
        (json.dumps({"imgWidth": 4, "imgHeight": 4, "objects": [{"label": "car"}]}), "object 0 needs"),
    ],
)
def test_bad_files_end_with_one_line_and_exit_2(tmp_path: Path, capfd, content: str, complaint: str):
    write(tmp_path, []).write_text(content)
    write(tmp_path, [thing("road")], name="ulm_000001_000019")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error and "ulm_000000_000019" in error
    written = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".json"]
    assert written == ["ulm_000001_000019_gtFine_labelTrainIds.png"]  # the good one, and no rest of the bad one


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["nowhere", "--workers", "0"], ["nowhere", "--workers", "x"]])
def test_wrong_arguments(tmp_path: Path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.startswith("error: ")
