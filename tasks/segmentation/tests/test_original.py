"""Checkpoints of the original project: the golden networks, and what a wrong file says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from supertickets.errors import UserError
from supertickets.ticket.facts import describe
from supertickets.ticket.original import import_original
from supertickets.ticket.ticket import Ticket


def golden(name: str) -> tuple[Path, Path]:
    folder = os.environ.get("SUPERTICKETS_GOLDENS")
    if not folder:
        pytest.skip("SUPERTICKETS_GOLDENS is not set: no reference networks to compare with")
    return Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.json"


@pytest.mark.parametrize("name", ["tiny_segmentation", "tiny_segmentation_shrunk"])
@pytest.mark.parametrize("layout", ["as given", "bare list", "state_dict"])
def test_golden_networks_are_reproduced(tmp_path, name, layout):
    weights, network = golden(name)
    tensors = load_file(weights)
    if layout == "bare list":
        bare = tmp_path / "net.json"
        bare.write_text(json.dumps(json.loads(network.read_text())["searched"]))
        network = bare
    if layout == "state_dict":
        weights = tmp_path / "net.state_dict"
        state = {f"module.{key}": value for key, value in tensors.items()}
        torch.save(state | {"module.features.0.bns.0.weight": torch.ones(2)}, weights)
    ticket = Ticket.load(import_original(weights, network, task="segmentation").save(tmp_path / "ticket"))
    with torch.no_grad():
        out = ticket.build()(tensors["__input__"])
    torch.testing.assert_close(out, tensors["__output__"], atol=1e-5, rtol=0)
    masks = [t for key, t in tensors.items() if key.endswith("weight_mask") and t.ndim == 4]
    zeros = sum(int((mask == 0).sum()) for mask in masks)
    assert describe(ticket)["sparsity"] == pytest.approx(zeros / sum(mask.numel() for mask in masks))


def test_wrong_files_are_named(tmp_path):
    weights, network = golden("tiny_segmentation_shrunk")
    data, tensors = json.loads(network.read_text()), load_file(weights)

    def attempt(match: str, new_weights: Path = weights, new_network: Path = network, task: str = "segmentation") -> None:
        with pytest.raises(UserError, match=match):
            import_original(new_weights, new_network, task=task)

    def write(name: str, content: object) -> Path:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / name

    attempt("nothing.safetensors: no such file", tmp_path / "nothing.safetensors")
    attempt("no task named 'segmentatoin'.*segmentation", task="segmentatoin")
    attempt("empty.json: no 'searched' list", new_network=write("empty.json", {}))
    attempt("bad.json: not valid JSON", new_network=write("bad.json", "{"))
    attempt("lists 26 blocks.*holds 27", new_network=write("short.json", data["searched"][:-1]))
    other = [list(entry) for entry in data["searched"]]
    other[4][4] = [1, 2, 3]
    attempt(r"searched\[4\].*features\.3\.branches\.0\.0", new_network=write("other.json", other))
    save_file({k: v for k, v in tensors.items() if "transform.ops.0.2." not in k}, tmp_path / "part.safetensors")
    attempt(r"part\.safetensors: no tensor transform\.ops\.0\.2\.weight", tmp_path / "part.safetensors")
    (tmp_path / "junk.state_dict").write_bytes(b"junk")
    attempt("junk.state_dict: not a file of tensors", tmp_path / "junk.state_dict")


class Trap:
    def __reduce__(self) -> tuple:
        return os.system, ("touch sprung",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, tmp_path / "trap.state_dict")
    (tmp_path / "net.json").write_text("[]")
    with pytest.raises(UserError, match="not a file of tensors"):
        import_original(tmp_path / "trap.state_dict", tmp_path / "net.json", task="segmentation")
    assert not (tmp_path / "sprung").exists()
