"""Wrong label maps stop a run by name; doubtful ones are told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets.errors import UserError
from supertickets_segmentation import SegmentationTask
from supertickets_segmentation.audit import audit, doubts
from supertickets_segmentation.classes import check_names, read_classes, with_classes
from supertickets_segmentation.config import SegmentationData
from supertickets_segmentation.data import FileSource, cached


def check(root: Path, **data) -> None:
    SegmentationTask({"data": {"name": "pairs", "root": root, **data}}).check_data()


def set_label(path: Path, value: int) -> None:
    labels = np.array(Image.open(path))
    labels[3, 3] = value
    Image.fromarray(labels).save(path)


def test_good_data_pass_and_are_shown(pairs_root: Path, capsys):
    check(pairs_root)
    shown = capsys.readouterr().out
    assert "3 of 3" in shown and "note" not in shown


def test_unset_ignore_index_is_hinted_at(pairs_root: Path):
    (pairs_root / "classes.json").write_text(json.dumps(["sky", "road", "tree"]))
    with pytest.raises(UserError, match=r"train0\.png: labels reach 255 but ignore_index is unset.*data\.ignore_index to 255"):
        check(pairs_root)


def test_value_outside_the_classes(pairs_root: Path):
    set_label(pairs_root / "labels/train/train2.png", 9)
    with pytest.raises(UserError, match=r"train2\.png: .*outside the 3 classes 0\.\.2: 9"):
        check(pairs_root)


def test_training_reads_find_what_a_sample_missed(pairs_root: Path):
    set_label(pairs_root / "labels/train/train2.png", 9)
    task = SegmentationTask({"data": {"name": "pairs", "root": pairs_root, "audit_files": 1}})
    with pytest.raises(UserError, match=r"train2\.png"):
        task.build_loaders(2)


@pytest.mark.parametrize(
    "lost, complaint",
    [
        ("labels/train/train1.png", r"train1\.jpg: has no label map \(.*train1\.png is missing"),
        ("labels/val", r"labels.val: no such folder"),
        ("images", r"images.train: no such folder"),
        ("", "no such folder"),
        ("classes.json", r"classes\.json: no such file"),
    ],
)
def test_something_missing(pairs_root: Path, lost: str, complaint: str):
    path = pairs_root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=complaint):
        check(pairs_root, **({"classes": ["a", "b", "c"], "ignore_index": 255} if lost == "" else {}))


def test_empty_folder(pairs_root: Path):
    for path in (pairs_root / "images/val").iterdir():
        path.unlink()
    (pairs_root / "images/val/notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"images.val: holds no images"):
        check(pairs_root)


def test_no_root():
    with pytest.raises(UserError, match=r"data\.root is unset"):
        SegmentationTask({"data": {"name": "pairs"}})


def test_sizes_differ(pairs_root: Path):
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(pairs_root / "labels/val/val1.png")
    with pytest.raises(UserError, match=r"val1\.png: 16x20 pixels, but its image val1\.jpg has 20x16; .*EXIF"):
        check(pairs_root)


def test_two_images_of_one_name(pairs_root: Path):
    shutil.copy(pairs_root / "images/val/val1.jpg", pairs_root / "images/val/val1.jpeg")
    with pytest.raises(UserError, match="another image named 'val1'"):
        check(pairs_root)


def test_broken_label_map(pairs_root: Path):
    (pairs_root / "labels/train/train3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"train3\.png: not a readable label map"):
        check(pairs_root)


@pytest.mark.parametrize("cache", [True, False])
def test_broken_image_is_found_before_training(pairs_root: Path, cache: bool):
    path = pairs_root / "images/train/train3.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"train3\.jpg: not a readable image"):
        check(pairs_root, cache=cache)


def test_all_void(pairs_root: Path):
    for path in (pairs_root / "labels/val").iterdir():
        Image.fromarray(np.full((16, 20), 255, np.uint8)).save(path)
    with pytest.raises(UserError, match="val: no pixel"):
        check(pairs_root)


def test_doubts_are_told(pairs_root: Path, capsys):
    for path in (pairs_root / "labels/train").iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)) == 1, 1, 255).astype(np.uint8)).save(path)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(pairs_root / "labels/val/stray.png")
    config = SegmentationTask({"data": {"name": "pairs", "root": pairs_root}}).config.data
    told = "\n".join(doubts(audit({s: FileSource(config, s) for s in ("train", "val")}, show=True), config))
    assert "train: classes never found: sky, tree" in told and "of the pixels are void" in told
    assert "val: 1 label maps belong to no image" in told and "val: has classes that were not found in train: " in told
    assert "never found" in capsys.readouterr().out


def test_other_names_in_the_data_are_refused(pairs_root: Path):
    """As a ticket's are when it is scored on other data: the numbers in label maps follow the data's own file."""
    path = pairs_root / "classes.json"
    names, given = read_classes(path)[0], {"ignore_index": 255}
    check(pairs_root, classes=names, **given)
    with pytest.raises(UserError, match=r"classes\.json: 255 stands for void, .*; set data\.ignore_index to 255"):
        check(pairs_root, classes=names)
    path.write_text(json.dumps(names[::-1]))
    with pytest.raises(UserError, match=rf"classes\.json: data\.classes .* knows other labels: '{names[0]}' where the data"):
        check(pairs_root, classes=names, **given)
    check(pairs_root, classes=[f"class_{i}" for i in range(3)], **given)  # of an original checkpoint: no names to compare


def test_one_class_is_refused(pairs_root: Path):
    with pytest.raises(UserError, match="only one class, so there is nothing to learn; add the background as a class"):
        (pairs_root / "classes.json").write_text('["all"]')
        check(pairs_root)


def test_what_is_passed_over_and_turned_is_told(pairs_root: Path, capsys):
    folder = pairs_root / "images/train"
    image = sorted(folder.glob("*.*"))[0]
    (folder / ".thumbs").mkdir()
    shutil.copy(image, folder / ".thumbs" / image.name)
    (folder / "film.mp4").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(image).copy().save(image, exif=exif)
    check(pairs_root)
    shown = " ".join(capsys.readouterr().out.split())
    assert "train: skipped: 1 hidden, 1 no pictures (*.mp4)" in shown
    assert "train: 1 images are rotated by their EXIF tag, but their label maps have none" in shown


def test_memory_is_reckoned_by_all_pictures(pairs_root: Path, monkeypatch):
    source = FileSource(with_classes(SegmentationData(name="pairs", root=pairs_root)), "train")
    total = sum(4 * h * w for h, w in map(source.size, range(len(source))))
    for limit, kept in ((total + 1, True), (total, False)):
        monkeypatch.setattr("supertickets_segmentation.data.CACHE_BYTES", limit)
        assert cached(source) == kept


def test_known_data_have_classes_of_their_own():
    with pytest.raises(UserError, match=r"data\.classes: the classes of the scenes are .*, in this order"):
        SegmentationTask({"data": {"classes": ["a", "b"]}}).check_data()
    foreign = SegmentationData(name="cityscapes", classes=[f"thing {i}" for i in range(19)])
    with pytest.raises(UserError, match=r"Cityscapes: data\.classes"):
        check_names(foreign)
    check_names(with_classes(SegmentationData(name="cityscapes")))
    check_names(SegmentationData(name="cityscapes", classes=[f"class_{i}" for i in range(19)]))


def test_scenes_with_a_void_value_beyond_a_byte():
    data = {"ignore_index": 300, "train_images": 2, "val_images": 1, "size_px": [32, 32], "scale": [0.5, 0.5]}
    train, _ = SegmentationTask({"data": data}).build_loaders(1)
    assert all(300 in labels for _, labels in train)
