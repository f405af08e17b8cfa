"""Change files at random, one place at a time, and read each as a user's command would.

    python benchmarks/hostile_files.py --count 300 [--kinds ticket checkpoint config annotation image lmdb] [--seed 0]

After a change, a file must either be read (for tickets and checkpoints, a network must also be built) or be refused with a
one-line `UserError`. Anything else is printed with its number, which `--only` repeats. Checksums are corrected for the changed
files. At the end, the script prints for each kind how many changes had which result, the slowest one and the peak memory of the
process. For LMDBs, only values are changed, because the pages belong to the library.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import supertickets.task
from supertickets.config.reader import config_to_yaml, load_config
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.images import read_image
from supertickets.networks.arch import resolve_arch
from supertickets.report.tables import info_tables
from supertickets.testing import ToyTask, toy_config
from supertickets.testing.hostile import mutated
from supertickets.ticket.facts import describe
from supertickets.ticket.limits import check_arch
from supertickets.ticket.ticket import Ticket, _digest
from supertickets.training.state_file import digest_of, load_state
from supertickets_classification.lmdb import pack
from supertickets_classification.lmdb_source import ABOUT, LABELS, LmdbSource, close, key_of
from supertickets_classification.sources import open_files
from supertickets_keypoint.annotations import read_truth
from supertickets_segmentation.config import SegmentationConfig

Random = random.Random


class Tickets:
    """A toy ticket, read as by `supertickets info`."""

    def __init__(self, folder: Path) -> None:
        self.folder = drawn(folder) / "ticket"
        self.about = json.loads((self.folder / "ticket.json").read_text())
        self.blob = (self.folder / "ticket.safetensors").read_bytes()

    def change(self, rng: Random) -> None:
        """Changes its JSON nine times out of ten, otherwise bytes of the file of tensors."""
        data, content = self.blob, self.about
        if rng.random() < 0.9:
            content = mutated(self.about, rng)
        else:
            data = with_other_bytes(self.blob, rng)
            content = self.about | {"tensors_sha256": hashlib.sha256(data).hexdigest()}
        if isinstance(content, dict) and rng.random() < 0.95:
            content = {key: value for key, value in content.items() if key != "sha256"}
            content["sha256"] = _digest(content)
        (self.folder / "ticket.json").write_text(json.dumps(content))
        (self.folder / "ticket.safetensors").write_bytes(data)

    def read(self) -> None:
        ticket = Ticket.load(self.folder)
        ticket.build()
        info_tables(describe(ticket), str(self.folder), layers=True)


class Checkpoints:
    """A checkpoint that a toy run saved within an epoch."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "epoch_0001.safetensors"
        source = sorted((drawn(folder) / "checkpoints").iterdir())[0]
        with safe_open(source, framework="pt") as file:
            self.about = json.loads(file.metadata()["state"])
            self.tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        self.config = toy_config(folder)

    def change(self, rng: Random) -> None:
        """Changes its JSON half of the time, otherwise its tensors, and occasionally bytes of the file."""
        about, tensors = self.about, dict(self.tensors)
        if rng.random() < 0.5:
            about = mutated(self.about, rng)
        else:
            name = rng.choice(sorted(tensors))
            other = rng.choice(sorted(tensors))
            changed = [tensors[name][None], tensors[name].double(), torch.zeros(0), tensors[other], tensors[name].flatten()[:1]]
            tensors[rng.choice((name, f"{name}x"))] = rng.choice(changed).clone()
            if rng.random() < 0.3:
                del tensors[name]
        text = json.dumps(about)
        metadata = {"state": text, "sha256": digest_of(text, tensors)}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.path, metadata=metadata)
        if rng.random() < 0.1:
            self.path.write_bytes(with_other_bytes(self.path.read_bytes(), rng))

    def read(self) -> None:
        load_state(self.path, ToyTask(self.config), self.config, torch.device("cpu"))


class Configs:
    """A config with all keys of segmentation, and the arch that it describes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.yaml"
        self.text = config_to_yaml(SegmentationConfig())
        self.content = SegmentationConfig().model_dump(mode="json")

    def change(self, rng: Random) -> None:
        if rng.random() < 0.7:
            self.path.write_text(json.dumps(mutated(self.content, rng)))
        else:
            self.path.write_bytes(with_other_bytes(self.text.encode(), rng))

    def read(self) -> None:
        check_arch(resolve_arch(load_config(SegmentationConfig, self.path).arch), self.path)


class Annotations:
    """COCO's person_keypoints JSON."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "person_keypoints_val.json"
        person = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 900.0, "iscrowd": 0}
        person |= {"keypoints": [3, 4, 2, 0, 0, 0, 9, 9, 1], "num_keypoints": 2}
        self.content = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}, {"id": 2, "file_name": "b.jpg"}],
            "annotations": [person, copy.deepcopy(person) | {"id": 8}],
            "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2]]}],
        }
        self.content["images"][1] |= {"width": 10, "height": 10}

    def change(self, rng: Random) -> None:
        if rng.random() < 0.9:
            self.path.write_text(json.dumps(mutated(self.content, rng)))
        else:
            self.path.write_bytes(with_other_bytes(json.dumps(self.content).encode(), rng))

    def read(self) -> None:
        read_truth(self.path)


class Images:
    """PNG, JPEG, GIF, TIFF and BMP files."""

    def __init__(self, folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
        self.files = []
        for kind in ("png", "jpg", "gif", "tiff", "bmp"):
            Image.fromarray(pixels).save(path := folder / f"image.{kind}")
            self.files.append((path, path.read_bytes()))
        self.path = self.files[0][0]

    def change(self, rng: Random) -> None:
        self.path, whole = rng.choice(self.files)
        self.path.write_bytes(with_other_bytes(whole, rng))

    def read(self) -> None:
        read_image(self.path)


class Lmdbs:
    """A packed split of four images."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for name in ("a", "b"):
            (folder / "images" / "train" / name).mkdir(parents=True)
            for i in range(2):
                picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
                picture.save(folder / "images" / "train" / name / f"{i}.png")
        self.folder = folder / "packed"
        pack(open_files(folder / "images", "train"), self.folder)
        self.values = {key: self.stored(key) for key in (ABOUT, LABELS, *(key_of(i) for i in range(4)))}

    def stored(self, key: bytes) -> bytes:
        import lmdb

        with lmdb.open(str(self.folder)) as env, env.begin() as txn:
            return bytes(txn.get(key))

    def change(self, rng: Random) -> None:
        import lmdb

        close(self.folder.resolve())
        values = dict(self.values)
        if rng.random() < 0.6:
            values[ABOUT] = json.dumps(mutated(json.loads(values[ABOUT]), rng)).encode()
        else:
            key = rng.choice(sorted(values))
            values[key] = with_other_bytes(values[key], rng)
        with lmdb.open(str(self.folder)) as env, env.begin(write=True) as txn:
            for key, value in values.items():
                txn.put(key, value)

    def read(self) -> None:
        source = LmdbSource(self.folder)
        for index in range(len(source.labels)):
            source.shape(index)
            source.image(index)


KINDS = {
    "ticket": Tickets,
    "checkpoint": Checkpoints,
    "config": Configs,
    "annotation": Annotations,
    "image": Images,
    "lmdb": Lmdbs,
}


def main() -> None:
    """Change files of each kind many times, read each of them, and count the results that are not a clear one-line error."""
    parser = argparse.ArgumentParser(description="Read changed files.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one change")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = supertickets.task.task_class
    supertickets.task.task_class = lambda name: ToyTask if name == "toy" else found(name)
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            numbers = range(options.count) if options.only is None else [options.only]
            print(f"{kind}: {looked_at(kind, Path(folder), numbers, options.seed)}", flush=True)


def looked_at(kind: str, folder: Path, numbers: range | list[int], seed: int) -> str:
    """A summary of the results of these changes."""
    subject = KINDS[kind](folder)
    ends: Counter[str] = Counter()
    slowest, slowest_number = 0.0, 0
    for number in numbers:
        subject.change(random.Random(f"{seed} {number}"))
        began = time.monotonic()
        ends[look(subject, f"{kind} {number}")] += 1
        if (took := time.monotonic() - began) > slowest:
            slowest, slowest_number = took, number
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{dict(ends)}; slowest {slowest:.2f} s (number {slowest_number}); peak {peak_mb:.0f} MB"


def look(subject: Tickets | Checkpoints | Configs | Annotations | Images | Lmdbs, name: str) -> str:
    """The result: read, refused, or the name of another exception."""
    try:
        subject.read()
    except UserError as error:
        if "\n" in str(error):
            print(f"{name}: more than one line: {error}")
        return "refused"
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return type(error).__name__
    return "read"


def with_other_bytes(whole: bytes, rng: Random) -> bytes:
    """The data with up to eight bytes changed, half of the time near the start, or truncated."""
    if rng.random() < 0.1:
        return whole[: rng.randrange(len(whole))]
    data = bytearray(whole)
    start = 0 if rng.random() < 0.5 else rng.randrange(len(data))
    for _ in range(rng.randint(1, 8)):
        data[min(len(data) - 1, start + rng.randrange(400))] = rng.randrange(256)
    return bytes(data)


def drawn(folder: Path) -> Path:
    """The folder of a toy run of one epoch that saved every two steps; it is drawn only once."""
    run = folder / "run"
    if not run.exists():
        off = {"enabled": False}
        config = toy_config(run, train={"epochs": 1}, search=off, prune=off, run={"save_every": "2 steps"})
        draw_ticket(ToyTask(config), config)
    return run


if __name__ == "__main__":
    main()
