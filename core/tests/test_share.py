"""Tickets on a hub: what is pushed comes back the same; the hub here is a small server that speaks the few calls needed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from supertickets import cli
from supertickets.config.sections import Config, RunConfig
from supertickets.errors import UserError
from supertickets.pruning.prune import hold, prune
from supertickets.testing import ToyTask, micro_net
from supertickets.ticket.card import model_card
from supertickets.ticket.hub import ticket_folder
from supertickets.ticket.ticket import Ticket

hub = pytest.importorskip("huggingface_hub", reason="needs the extra `hub`")
pytestmark = pytest.mark.usefixtures("toy_installed")
SHA = "a" * 40


class FakeHub(BaseHTTPRequestHandler):
    """Repositories in memory: create, validate, preupload, commit, info, tree, resolve."""

    repos: dict[str, dict[str, bytes]]
    tokens: list[str | None]
    paths: list[str]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, data: object) -> None:
        self.answer(200, json.dumps(data).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.strip("/").split("/")  # api/models/owner/name/commit/main
        if self.path == "/api/validate-yaml":  # the card's header
            return self.json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            self.repos.setdefault(name, {})
            return self.json({"url": f"http://{self.headers['Host']}/{name}"})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.json({"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        new = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        self.repos[name].update(new)
        self.json({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{SHA}", "commitOid": SHA, "success": True})

    def do_GET(self) -> None:
        self.paths.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[:2])
        if name not in self.repos:
            return self.answer(404, X_Error_Code="RepoNotFound")
        files = self.repos[name]
        if api and "tree" in parts:
            return self.json([{"type": "file", "path": p, "size": len(d), "oid": blob_id(d)} for p, d in files.items()])
        if api:
            return self.json({"id": name, "sha": SHA, "siblings": [{"rfilename": path} for path in files]})
        data = files[parts[-1]]  # owner/name/resolve/SHA/file
        self.answer(200, data, ETag=f'"{blob_id(data)}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """The server's handler class, with what was pushed in `repos`; the client looks nowhere else."""
    handler = type("Handler", (FakeHub,), {"repos": {}, "tokens": [], "paths": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = partial(hub.HfApi, endpoint=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.HfApi", client)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield handler
    server.shutdown()
    server.server_close()


def sparse_ticket() -> Ticket:
    net = micro_net().eval()
    mask = prune(net, 0.9)
    hold(mask, net)
    config = Config(run=RunConfig(dir=Path("someone/secret project/run").absolute()))
    metrics = {"accuracy": 0.75, "protocol": "share of pixels", "macs": 1}
    return Ticket.from_net(net, ToyTask(config), metrics=metrics, mask=mask, config=config, supernet_costs={"params": 10**5})


def test_what_is_pushed_comes_back(fake_hub, capsys):
    ticket = sparse_ticket()
    url = ticket.push_to_hub("lab/toy", token="hf_xyz")
    assert SHA in url and set(fake_hub.tokens) == {"Bearer hf_xyz"}
    assert sorted(fake_hub.repos["lab/toy"]) == ["README.md", "ticket.json", "ticket.safetensors"]
    again = Ticket.load("lab/toy")
    assert again.arch == ticket.arch and again.metrics == ticket.metrics
    assert all(torch.equal(again.tensors[name], ticket.tensors[name]) for name in ticket.tensors)
    assert all(torch.equal(again.mask[name], ticket.mask[name]) for name in ticket.mask)
    cli.main(["compact", "lab/toy", "--out", "small", "--json"])
    assert json.loads(capsys.readouterr().out)["before"]["file_bytes"] > 0


def test_a_picture_on_the_card_and_a_revision(fake_hub, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    sparse_ticket().push_to_hub("lab/toy", picture=tmp_path / "secret.jpg")
    files = fake_hub.repos["lab/toy"]
    assert b"](picture.png)" in files["README.md"] and files["picture.png"].startswith(b"\x89PNG")
    assert Ticket.load("lab/toy", revision="main").metrics["accuracy"] == 0.75
    assert any("/revision/main" in path for path in fake_hub.paths)
    with pytest.raises(UserError, match="only tickets on the hub have revisions"):
        Ticket.load(sparse_ticket().save(tmp_path / "here"), revision="main")


def test_nothing_says_where_it_was_drawn(fake_hub):
    sparse_ticket().push_to_hub("lab/toy")
    assert not any(b"someone" in data or b"secret" in data.split(b"project")[0] for data in fake_hub.repos["lab/toy"].values())


def test_a_damaged_file_is_refused_as_from_a_folder(fake_hub):
    sparse_ticket().push_to_hub("lab/toy")
    files = fake_hub.repos["lab/toy"]
    files["ticket.safetensors"] = files["ticket.safetensors"][:-1] + b"x"
    with pytest.raises(UserError, match=r"ticket\.safetensors: damaged"):
        Ticket.load("lab/toy")


def test_the_cache_serves_without_a_network(fake_hub, monkeypatch):
    sparse_ticket().push_to_hub("lab/toy")
    folder = ticket_folder("lab/toy")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert ticket_folder("lab/toy") == folder


def test_what_is_no_ticket_is_named(fake_hub):
    with pytest.raises(UserError, match="lab/none: no such folder, and no such ticket on the hub"):
        Ticket.load("lab/none")
    fake_hub.repos["lab/other"] = {"ticket.json": b"{}"}
    with pytest.raises(UserError, match=r"lab/other: .*no ticket\.safetensors"):
        Ticket.load("lab/other")
    with pytest.raises(UserError, match="owner/name"):
        sparse_ticket().push_to_hub("just-a-name")
    assert list(fake_hub.repos) == ["lab/other"]


def test_a_folder_comes_first_and_a_mistyped_one_asks_no_hub(fake_hub, tmp_path):
    ticket = sparse_ticket()
    fake_hub.repos["runs/ticket"] = fake_hub.repos["runs/tickte"] = {}
    ticket.save(tmp_path / "runs" / "ticket")
    assert Ticket.load("runs/ticket").arch == ticket.arch
    with pytest.raises(UserError, match=r"runs/tickte/ticket\.json: no such file"):
        Ticket.load("runs/tickte")


def test_the_card_tells_scores_protocol_costs_and_use():
    card = model_card(sparse_ticket(), "lab/toy")
    for words in (
        "accuracy | 0.7500",
        "share of pixels",
        "0.9000",
        "of the supernet's 100.000 k",
        'Ticket.load("lab/toy")',
        "red",
    ):
        assert words in card
    header = card.split("---")[1]
    assert "- toy" in header and "library_name: supertickets" in header and "| macs |" not in card
