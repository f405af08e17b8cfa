"""The report and the comparison: their figures are those of the tickets and logs, and the page works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from supertickets import cli
from supertickets.config.sections import Config, SearchConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.networks.supernet import prunable
from supertickets.pruning.mask import apply_mask
from supertickets.report import closing
from supertickets.report.comparison import compare
from supertickets.report.page import report_page
from supertickets.report.runs import measure_latencies, read_run, read_runs, unused_tails
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.units.groups import unit_groups

pytestmark = pytest.mark.usefixtures("toy_installed")
COLOURS = """[getComputedStyle(document.querySelector('figure svg text')).fill,
getComputedStyle(document.documentElement).backgroundColor]"""
SMALLEST = """Math.min(...[...document.querySelectorAll('figure svg')].filter(svg => svg.checkVisibility()).map(
svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""
HOSTILE = "<script>alert('&')</script>" + "x" * 150


@pytest.fixture(autouse=True)
def _measure_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supertickets.report.runs.MEASURING_S", 0.05)


def write_run(folder: Path, seed: int = 0, *, epochs: int = 4, **search: object) -> Path:
    """A run's folder with a small pruned network, a log and pictures, without a training."""
    config = toy_config(folder, search=search)
    torch.manual_seed(seed)
    net = build_net(resolve_arch(config.arch.model_copy(update={"expand": 1})), ToyTask(config))
    mask = {name: torch.rand(weight.shape) > 0.5 for name, weight in prunable(net).items()}
    apply_mask(mask, dict(net.named_parameters()))
    scores = {"accuracy": 0.5 + 0.05 * seed, "protocol": HOSTILE, "per_class": {"red": 0.9, "green": 0.1 * seed, "blue": None}}
    costs = {"macs": 9e6, "params": 9e4}
    Ticket.from_net(net, ToyTask(config), metrics=scores, mask=mask, config=config, supernet_costs=costs).save(
        folder / "ticket"
    )
    records = [
        {"epoch": e, "loss": 1 / e, "accuracy": 0.1 * e, "macs": 1e6 / e, "sparse_macs": 5e5 / e, "sparsity": 0.1, "seconds": 2}
        for e in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "pictures").mkdir()
    for name in ("curves", "scene_1"):
        Image.new("RGB", (1600, 400), "teal").save(folder / "pictures" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supertickets.task.task_class", lambda name: ToyTask)
        root = tmp_path_factory.mktemp("runs")
        names = ["first", "second", "a_very_long_name_of_a_run_" * 6]
        return [write_run(root / name, seed, rho=1e-3 * (1 + seed)) for seed, name in enumerate(names)]


@pytest.fixture(scope="module")
def pages(folders) -> dict[int, str]:
    """The report of one run and that of all three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supertickets.task.task_class", lambda name: ToyTask)
        runs = read_runs(folders)
        return {1: report_page(runs[:1]), 3: report_page(runs)}


def test_the_figures_are_the_tickets_and_the_logs(folders, capsys):
    cli.main(["compare", *map(str, folders[:2]), "--json"])
    found = json.loads(capsys.readouterr().out)
    first, second = found["runs"]
    ticket = Ticket.load(folders[1] / "ticket")
    assert (first["name"], second["score"], second["metric"]) == ("first", pytest.approx(0.55), "accuracy")
    assert second["params"] == sum(p.numel() for p in ticket.build().parameters()) and second["sparsity"] == ticket.sparsity
    assert second["file_bytes"] == sum(path.stat().st_size for path in (folders[1] / "ticket").iterdir())
    assert second["scores_by_label"] == {"per_class": {"red": 0.9, "green": 0.1, "blue": None}}
    assert second["supernet"]["macs"] == 9e6 and second["latency_ms"] > 0 and second["epochs"] == 4 and second["seconds"] == 8
    assert found["settings"] == {"search.rho": ["0.001", "0.002"]}
    cli.main(["compare", *map(str, folders[:2])])
    shown = capsys.readouterr().out
    assert "0.5500" in shown and "search.rho" in shown and f"{second['file_bytes'] / 1024:.0f} KiB" in shown


def test_units_are_those_of_the_ticket_beside_the_full_networks(folders):
    run = read_run(folders[0])
    assert run.supernet is not None
    groups = run.units()
    assert sum(group.kept for group in groups) == run.facts["units"]
    of_body = [group for group in groups if not group.block.startswith("head")]
    assert of_body and all(group.full is not None and group.full > group.kept > 0 for group in of_body)
    full = sum(group.count for group in unit_groups(run.supernet))
    assert sum(group.full or 0 for group in groups) == full > run.facts["units"]
    assert ("0.branches.0.0", "3") in {(group.block, group.kind) for group in groups}


def test_the_page_is_whole_and_safe(pages):
    page, alone = pages[3], pages[1]
    assert "<script" not in page and HOSTILE not in page and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert page.count("<svg") == 5 + 2 + 1 + 2 * 3 and page.count("data:image/webp") == 3
    assert "search.rho" in page and "0.5500" in page
    assert "var(--series-0)" in alone and "#0a0b" not in alone and "Settings that differ" not in alone


def test_a_run_writes_its_report_and_goes_on_without_it(tmp_path, monkeypatch, capsys):
    config = toy_config(tmp_path / "run", train={"epochs": 2}, run={"report": True, "native_ms": True})
    monkeypatch.setattr(closing, "native_ms", lambda ticket: ticket.sparsity * 10)
    draw_ticket(ToyTask(config), config)
    assert "8.00 ms for one image of 16x16 on one thread" in capsys.readouterr().out
    path = tmp_path / "run" / "report.html"
    page = path.read_text()
    assert "A toy ticket with 3 labels, 2 epochs" in page and "the supernet: " in page and "8.00 ms" in page
    path.unlink()
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # not installed
    closing.write_run_report(tmp_path / "run")
    assert not path.exists() and "note no report was written: a report needs the package vl-conv" in capsys.readouterr().out


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds neither a run's ticket nor a ticket .is the run finished"):
        read_runs([tmp_path])
    write_run(tmp_path / "imp" / "round_0")
    with pytest.raises(UserError, match="give its drawings: round_0"):
        read_runs([tmp_path / "imp"])
    (tmp_path / "imp" / "round_0" / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not the record of an epoch"):
        read_run(tmp_path / "imp" / "round_0")
    alone = read_run(tmp_path / "imp" / "round_0" / "ticket", name="alone")
    assert not alone.records and not alone.pictures and alone.score == 0.5
    dense = Ticket.from_net(micro_net(), ToyTask(Config(search=SearchConfig())), metrics={}).save(tmp_path / "dense")
    bare = read_run(dense)
    assert bare.score is None and bare.supernet is None and bare.settings == {} and compare([bare])["settings"] == {}
    assert "not recorded" in report_page([bare])
    measure_latencies([bare])
    assert bare.latency_ms is not None and bare.supernet_latency_ms is None


def test_names_tell_runs_apart():
    assert unused_tails([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert unused_tails([Path("a/x/ticket"), Path("b/x/ticket")]) == ["a/x/ticket", "b/x/ticket"]
    assert unused_tails([Path("a"), Path("a")]) == ["a (1)", "a (2)"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed to look at the page with")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("count", [1, 3])
def test_the_page_in_a_browser(pages, browser, tmp_path, count):
    file = tmp_path / "report.html"
    file.write_text(pages[count])
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    colours = set()
    for width, scheme, media in ((390, "light", "screen"), (390, "dark", "screen"), (1440, "dark", "print")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme, media=media)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide at {width} px, {media}"
        colours.add((scheme, media, *page.evaluate(COLOURS)))
        assert page.evaluate(SMALLEST) > 0.8  # text of 12 px is not drawn smaller than 10
    assert len({colour[2:] for colour in colours}) == 2  # light and dark; paper is light
    page.emulate_media(media="screen")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    unnamed = (
        "[...document.querySelectorAll('figure, img, .scroll')].filter(e => !(e.getAttribute('aria-label') || e.alt)).length"
    )
    assert page.evaluate(unnamed) == 0
    if count > 1:
        assert page.get_by_role("rowheader", name="first").count() and page.get_by_role("region", name="Small figures").count()
    assert page.get_by_role("graphics-symbol").count() or page.locator("[role=graphics-symbol]").count()
    assert not said and asked == [file.as_uri()]
    page.close()
