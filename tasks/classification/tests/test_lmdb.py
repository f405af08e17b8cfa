"""What was packed is what the folder holds, also after a kill; reading is safe in many workers."""

from __future__ import annotations

import os
import pickle
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.errors import UserError
from supertickets_classification import ClassificationTask
from supertickets_classification.sources import open_files

pytest.importorskip("lmdb", reason="the extra lmdb is not installed")
from supertickets_classification import lmdb as packing  # noqa: E402
from supertickets_classification.lmdb_source import LmdbSource  # noqa: E402


def pack_both(root: Path, out: Path, *more: str) -> Path:
    packing.main([str(root), str(out), "--workers", "2", *more])
    return out


def task_on(name: str, root: Path, **data) -> ClassificationTask:
    return ClassificationTask({"data": {"name": name, "root": root, "size_px": (16, 16), **data}})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_lmdb_and_folder_give_identical_tensors(folder_root: Path, tmp_path: Path, workers: int, cache: bool):
    out = pack_both(folder_root, tmp_path / "out")
    batches = []
    for name, root in (("folder", folder_root), ("lmdb", out)):
        task = task_on(name, root, workers=workers, cache=cache)
        task.check_data()  # the main process has it open when the workers start
        train, val = task.build_loaders(5)
        torch.manual_seed(0)
        batches.append([*train, *val])
    assert len(batches[0]) == 4 and all(
        torch.equal(a, b) for x, y in zip(*batches, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_names_and_classes_are_kept(folder_root: Path, tmp_path: Path):
    source = pickle.loads(pickle.dumps(LmdbSource(pack_both(folder_root, tmp_path / "out") / "train")))
    folder = open_files(folder_root, "train")
    assert source.folders == folder.folders and np.array_equal(source.labels, folder.labels)
    assert [source.name(i) for i in range(12)] == [folder.name(i) for i in range(12)]


def killed_in_the_third_transaction(folder_root: Path, out: Path) -> None:
    packing.TOGETHER, read, seen = 4, packing._record, []

    def dies(source, index, **more):
        seen.append(index)
        return read(source, index, **more) if len(seen) < 10 else os._exit(9)  # without a word to LMDB

    packing._record = dies
    pack_both(folder_root, out)


def test_a_killed_packing_says_so_and_goes_on(folder_root: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    process = get_context("fork").Process(target=killed_in_the_third_transaction, args=(folder_root, out))
    process.start()
    process.join()
    assert process.exitcode == 9
    with pytest.raises(
        UserError, match=r"out.train: its packing was stopped after 8 of 12 images; continue it with the same command"
    ):
        task_on("lmdb", out)
    read, was_read = packing._record, []
    monkeypatch.setattr(packing, "_record", lambda source, i, **more: was_read.append(i) or read(source, i, **more))
    pack_both(folder_root, out)
    assert sorted(was_read) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11] and len(task_on("lmdb", out).build_loaders(1)[0]) == 12
    pack_both(folder_root, out)  # nothing is left to do
    assert len(was_read) == 10


def test_other_files_are_not_mixed_in(folder_root: Path, tmp_path: Path):
    out = pack_both(folder_root, tmp_path / "out")
    (folder_root / "train/ant/ant_0.png").rename(folder_root / "train/ant/other.png")
    with pytest.raises(UserError, match=r"out.train: was packed from other files"):
        packing.pack(open_files(folder_root, "train"), out / "train")


def test_changed_files_are_packed_anew_and_touched_ones_are_not(folder_root: Path, tmp_path: Path, capsys):
    out = pack_both(folder_root, tmp_path / "out")
    changed, touched = folder_root / "train/ant/ant_1.png", folder_root / "val/bee/bee_0.png"
    Image.new("RGB", (7, 5), (200, 0, 0)).save(changed)
    os.utime(touched, ns=(1, 1))
    pack_both(folder_root, out)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "ant/ant_1.png has changed since it was packed: everything is packed again" in said
        and "bee_0.png has changed" not in said
    )
    for split in ("train", "val"):
        source, packed = open_files(folder_root, split), LmdbSource(out / split)
        for i in range(len(source.labels)):
            assert np.array_equal(packed.image(i), source.image(i)) and packed.shape(i) == source.shape(i)


def test_unreadable_images_stop_or_are_left_out(folder_root: Path, tmp_path: Path, capsys):
    broken = folder_root / "train/bee/bee_2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(SystemExit) as stopped:
        pack_both(folder_root, tmp_path / "out")
    assert stopped.value.code == 2 and "bee_2.png: not a readable image" in capsys.readouterr().err
    pack_both(folder_root, tmp_path / "out", "--on-error", "skip")
    assert "11 of 12 images" in (told := capsys.readouterr().out) and "bee/bee_2.png" in told
    assert LmdbSource(tmp_path / "out/train").labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4


def test_dangling_links_stop_or_are_left_out(folder_root: Path, tmp_path: Path, capsys):
    (folder_root / "train/bee/link.png").symlink_to("nowhere.png")
    with pytest.raises(SystemExit):
        pack_both(folder_root, tmp_path / "out")
    assert capsys.readouterr().err.strip().endswith("link.png: cannot be read (No such file or directory)")
    pack_both(folder_root, tmp_path / "out", "--on-error", "skip")
    assert "12 of 13 images" in (told := capsys.readouterr().out) and "bee/link.png" in told


@pytest.mark.parametrize("content", [b"", b"junk" * 4000])
def test_what_is_no_lmdb_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"train: no LMDB.*python -m supertickets_classification\.lmdb"):
        task_on("lmdb", tmp_path)
    (tmp_path / "train/data.mdb").write_bytes(content)
    with pytest.raises(UserError, match="train: "):
        task_on("lmdb", tmp_path)


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_an_incomplete_lmdb_is_named(folder_root: Path, tmp_path: Path, share: float):
    pack_both(folder_root, tmp_path / "out")
    file = tmp_path / "out" / "train" / "data.mdb"
    os.truncate(file, int(share * file.stat().st_size) // 4096 * 4096)
    with pytest.raises(UserError, match=r"out.train: data\.mdb is incomplete; delete the folder and pack the images again"):
        _ = LmdbSource(tmp_path / "out" / "train").labels


def test_packing_over_a_damaged_file_says_what_to_do(folder_root: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data.mdb").write_bytes(b"junk" * 4000)
    with pytest.raises(UserError, match=r"out/data\.mdb: not usable as an LMDB \(.*\); delete it and pack again"):
        packing.pack(open_files(folder_root, "val"), tmp_path / "out")
    (tmp_path / "out/data.mdb").unlink()
    assert packing.pack(open_files(folder_root, "val"), tmp_path / "out")["images"] == 6


def test_damage_is_found_when_all_is_read_back(folder_root: Path, tmp_path: Path, monkeypatch):
    damaged = packing._record
    monkeypatch.setattr(packing, "_record", lambda *args, **more: damaged(*args, **more)[:-1] + b"?")
    with pytest.raises(UserError, match="is damaged; delete the folder"):
        packing.pack(open_files(folder_root, "val"), tmp_path / "out")
    with pytest.raises(UserError, match="stopped after 6 of 6"):
        LmdbSource(tmp_path / "out")


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").touch()
    with pytest.raises(UserError, match=r"supertickets-classification\[lmdb\]"):
        LmdbSource(tmp_path)


def test_a_real_split_is_packed_whole(pack, tmp_path: Path):
    folder = open_files(pack("cls_tinyimagenet10_64"), "val")
    packing.pack(folder, tmp_path / "val", workers=2)
    packed = LmdbSource(tmp_path / "val")
    assert np.array_equal(packed.labels, folder.labels) and len(packed.labels) == 1000
    assert all(np.array_equal(packed.image(i), folder.image(i)) for i in range(1000))
