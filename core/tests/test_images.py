"""Image files of every kind are read, found or refused by name; pictures are written whole."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.errors import UserError
from supertickets.files import check_outputs, write_text
from supertickets.images import (
    expand_images,
    find_images,
    image_size,
    match_names,
    names_below,
    packed,
    read_image,
    save_whole,
    unused_name,
    walk_images,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_tiff_that_exif_turns_by_a_quarter_is_refused(tmp_path, read):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(UserError, match=r"a\.tif: not a readable image \(a TIFF file that its EXIF tag turns by a quarter"):
        read(tmp_path / "a.tif")
    exif[0x0112] = 3
    Image.new("RGB", (6, 4)).save(tmp_path / "a.tif", exif=exif)
    assert read_image(tmp_path / "a.tif").shape[:2] == image_size(tmp_path / "a.tif") == (4, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA", "I;16"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    gray = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    (gray if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)).save(path)
    image = read_image(path)
    assert image.shape == (6, 9, 3) and image.dtype == np.uint8
    if mode in {"RGB", "RGBA", "I;16"}:
        assert np.array_equal(image, PIXELS if mode != "I;16" else PIXELS[..., :1].repeat(3, 2))


def test_exif_turns_the_image(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(PIXELS, -1))
    assert image_size(tmp_path / "a.png") == (9, 6)


RAMP = np.tile(np.arange(16), (4, 1))


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ((RAMP * 17).astype(np.int32), "a.tif", RAMP * 17),  # 8 bits
        ((RAMP * 273).astype(np.uint16), "a.png", RAMP * 17),  # 12 bits
        ((RAMP * 4369).astype(np.uint16), "a.png", RAMP * 17),  # 16 bits
        ((RAMP * 4369).astype(np.int32), "a.tif", RAMP * 17),
        ((RAMP / 15).astype(np.float32), "a.tif", RAMP * 17),
        ((RAMP * 17).astype(np.float32), "a.tif", RAMP * 17),
        (np.zeros((4, 16), np.uint16), "a.png", RAMP * 0),
    ],
)
def test_gray_of_any_range_fills_0_to_255(tmp_path: Path, values, name: str, expected):
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("values", [[-1, 3], [0, 70000], [0.0, 300.0], [-0.5, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_gray_beyond_any_range_is_refused(tmp_path: Path, values):
    kind = np.float32 if isinstance(values[0], float) else np.int32
    Image.fromarray(np.array([values], kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: holds values from"):
        read_image(tmp_path / "a.tif")


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path: Path):
    names = ["a.png", "deep/b.JPG", ".hidden.png", ".git/c.png", "__MACOSX/d.png", "e.mp4", "f.mpg", "g.pdf", "h", "i.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.symlink(tmp_path / "deep", tmp_path / "also")
    os.symlink(tmp_path, tmp_path / "deep" / "round")  # leads back to where it lies
    found, passed = walk_images(tmp_path)
    assert sorted(found) == ["a.png", "also/b.JPG", "deep/b.JPG"]
    assert (
        sum(passed.values()) == 8
        and passed["hidden"] == 2
        and passed["system files"] == 1
        and passed["no pictures (*.mp4)"] == 1
    )
    assert find_images(tmp_path) == sorted(tmp_path / name for name in found)
    (tmp_path / "deep" / "round").unlink()
    assert expand_images([tmp_path / "*"]) == [tmp_path / "a.png", tmp_path / "also/b.JPG", tmp_path / "deep/b.JPG"]


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_broken_file_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not a picture", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match=r"broken\.png"):
        read_image(path)


def test_images_are_named_by_file_folder_or_pattern_in_the_order_given(tmp_path: Path):
    paths = [save_whole(Image.fromarray(PIXELS), tmp_path / "a" / f"{n}.png") for n in "xy"]
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    assert expand_images([paths[1], tmp_path / "a", str(tmp_path / "*" / "x.png")]) == [paths[1], *paths, paths[0]]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", str(tmp_path / "*.bmp")):
        with pytest.raises(UserError, match="no image found"):
            expand_images([nothing])


def test_a_picture_is_whole_or_absent(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda self, path, **_: Path(path).write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_whole(Image.fromarray(PIXELS), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_names_are_used_once():
    used: set[str] = set()
    assert [unused_name("a", used) for _ in range(3)] == ["a", "a_2", "a_3"]


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (["1.jpg"], ["/a/1.jpg", "/a/11.jpg"], {"1.jpg": "/a/1.jpg"}),
        (["cam2/1.jpg"], ["/cam1/1.jpg", "/cam2/1.jpg"], {"cam2/1.jpg": "/cam2/1.jpg"}),
        (["cam1/1.jpg", "cam2/1.jpg", "2.jpg"], ["/cam1/1.jpg"], {"cam1/1.jpg": "/cam1/1.jpg"}),
        (["x/cam1/1.jpg", "1.jpg"], ["/cam1/1.jpg"], {"x/cam1/1.jpg": "/cam1/1.jpg", "1.jpg": "/cam1/1.jpg"}),
        (["1.jpg"], ["/cam1/1.jpg", "/cam2/1.jpg"], "'1.jpg' may be /cam1/1.jpg or /cam2/1.jpg"),
        (["cam1/1.jpg", "cam2/1.jpg"], ["/x/1.jpg"], "/x/1.jpg may be 'cam1/1.jpg' or 'cam2/1.jpg'"),
    ],
)
def test_a_name_means_the_file_with_the_longest_common_end(names, files, expected):
    if isinstance(expected, dict):
        assert match_names(names, map(Path, files), where="w") == {name: Path(file) for name, file in expected.items()}
    else:
        with pytest.raises(UserError, match=f"w: {expected}"):
            match_names(names, map(Path, files), where="w")


def test_names_below_their_common_folder_differ():
    assert names_below([Path("/a/b/1.jpg"), Path("/a/c/1.jpg")]) == ["b/1.jpg", "c/1.jpg"]
    assert names_below([Path("/a/b/1.jpg")]) == ["1.jpg"]


def test_packed_tensors_are_the_same_and_share_memory():
    images = [torch.full((3, 2, 2), i) for i in range(3)]
    together = packed(images)
    assert all(map(torch.equal, together, images)) and len({t.untyped_storage().data_ptr() for t in together}) == 1
    mixed = [*images, torch.zeros(3, 1, 1)]
    assert packed(mixed) is mixed


def test_a_pipe_is_neither_read_nor_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="pipe.png: not a readable image .*not a regular file"):
            read(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_text(pipe, "text")
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe.png"]


def test_outputs_must_not_be_inputs(tmp_path: Path):
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    check_outputs([tmp_path / "b.png"], [tmp_path / "a.png"])
    for inputs in ([tmp_path / "a.png"], [tmp_path / "link.png"], [tmp_path / "sub" / ".." / "a.png"]):
        with pytest.raises(UserError, match="a.png would be overwritten, but it is one of the inputs"):
            check_outputs([tmp_path / "a.png"], inputs)
