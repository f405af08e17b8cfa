"""Files of every kind are read, or refused by name."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import read_image
from supertickets_segmentation.reading import read_label_map

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "1"])
def test_label_values_are_kept(tmp_path: Path, kind: str):
    values = PIXELS[..., 0] // 100
    stored = {
        "L": lambda: Image.fromarray(values),
        "P": lambda: Image.fromarray(values).convert("P"),
        "I;16": lambda: Image.fromarray(values.astype(np.uint16) * 300),
        "1": lambda: Image.fromarray(values > 0),
    }[kind]()
    stored.save(tmp_path / "a.png")
    expected = {"I;16": values.astype(int) * 300, "1": values > 0}.get(kind, values)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), expected)


def test_colour_label_map_is_refused_with_a_hint(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*one number per pixel.*single-channel PNG"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_broken_file_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not a picture", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match=r"broken\.png"):
        read_label_map(path)


def save_gray_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A gray PNG of 1, 2, 4, 8 or 16 bits a pixel, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (int("".join(f"{v:0{bits}b}" for v in row), 2).to_bytes(len(row) * bits // 8, "big") for row in values.tolist())
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_stored_values_of_any_depth(tmp_path: Path, bits: int):
    stored = np.arange(64).reshape(4, 16) * (2**bits // 64 or 1) % 2**bits
    save_gray_png(tmp_path / "m.png", stored, bits)
    assert np.array_equal(read_label_map(tmp_path / "m.png"), stored)
    if bits <= 8:
        palette = Image.fromarray(stored.astype(np.uint8))
        palette.putpalette([255 - i // 3 for i in range(768)])  # shown as other colours: the numbers stay
        palette.save(tmp_path / "p.png", bits=bits)
        assert np.array_equal(read_label_map(tmp_path / "p.png"), stored)


@pytest.mark.parametrize(("form", "options"), [("JPEG", {}), ("WEBP", {"quality": 50}), ("TIFF", {"compression": "jpeg"})])
def test_lossy_label_maps_are_refused(tmp_path: Path, form: str, options):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "m.png", format=form, **options)
    with pytest.raises(UserError, match=rf"m\.png: a label map needs lossless compression, but this file is a {form}"):
        read_label_map(tmp_path / "m.png")


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_label_map_is_turned_as_its_image_is(tmp_path: Path, tag: int):
    exif, labels = Image.Exif(), np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif[0x0112] = tag
    Image.fromarray(labels).save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(read_label_map(tmp_path / "m.png"), read_image(tmp_path / "m.png")[..., 0])


def test_a_pipe_is_no_label_map(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: not a readable label map .*not a regular file"):
        read_label_map(tmp_path / "a.png")
