"""What the engine computes is what the ticket computes, for every network of the project, and it refuses in one line."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from supertickets import cli
from supertickets.config.sections import Config
from supertickets.deploy.compact import compact_net
from supertickets.deploy.deployed import network_for
from supertickets.deploy.engine import blocks, compiler, load, planner, runner, timing
from supertickets.deploy.engine.cache import cache_folder, compile_ticket
from supertickets.deploy.engine.compiler import compile_c, find_compiler, native_suffix
from supertickets.deploy.engine.files import write_c
from supertickets.deploy.engine.scheduling import keep_off_this_processor
from supertickets.deploy.engine.team import Team
from supertickets.deploy.export import export
from supertickets.deploy.plain import fold
from supertickets.errors import UserError
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.heads import ClassificationHead, DenseHead
from supertickets.networks.supernet import Supernet, prunable
from supertickets.search.shrink import shrink
from supertickets.testing import STAGES, ToyTask, micro_arch, micro_net, randomise_norms
from supertickets.testing.programs import run_as_program
from supertickets.ticket.ticket import Ticket

CASES = int(os.environ.get("SUPERTICKETS_ENGINE_CASES", 12))  # random networks; 200 before a release
SANITIZED = int(os.environ.get("SUPERTICKETS_ENGINE_SANITIZED", 2))  # of them under the sanitizers; 50 before a release
QUICK = ("-O0",)  # the time of these tests is that of the compiler
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
pytestmark = [
    pytest.mark.usefixtures("toy_installed"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


def random_net(seed: int) -> tuple[Supernet, tuple[int, int]]:
    """A network with anything that search, pruning and compaction may leave, and a size for its images."""
    dice = random.Random(seed)
    torch.manual_seed(seed)
    stages, widths = [], [dice.randint(1, 9) for _ in range(4)]
    branches = 1
    for _ in range(dice.randint(1, 5)):
        stages.append({"blocks": [dice.randint(0, 2) for _ in range(branches)], "widths": widths[:branches]})
        branches = min(4, branches + dice.randint(0, 1))
    kernels = sorted(dice.sample([1, 3, 5, 7, 9], dice.randint(1, 3)))
    stem = [dice.randint(1, 8), dice.randint(1, 8)]
    arch = micro_arch(
        stages=stages, stem=stem, kernels=kernels, stem_stride=dice.choice([1, 2, 4]), expand=dice.randint(1, 4), init="reduced"
    )
    outputs = dice.randint(1, 20)
    head: nn.Module = DenseHead(arch, channels=dice.randint(1, 12), outputs=outputs)
    if dice.random() < 0.4:
        head = ClassificationHead(arch, classes=outputs, widths=[dice.randint(1, 12) for _ in range(4)], channels=20)
    net = Supernet(arch, head).eval()
    randomise_norms(net, seed)
    dead = {}
    for name, block in mixed_blocks(net).items():
        share = dice.choice([0.0, 0.3, 1.0]) if dice.random() < 0.5 else 0.0
        gone = torch.rand(sum(block.units.values())) < share
        if dice.random() < 0.3:  # all units of one kernel
            gone[: next(iter(block.units.values()))] = True
        dead[f"{name}.depthwise_bn.weight"] = gone
    shrink(net, dead)
    sparsity = dice.choice([0.0, 0.5, 0.8, 0.9, 0.95, 0.99])
    with torch.no_grad():
        for weight in prunable(net).values():
            weight.mul_(torch.rand(weight.shape) >= sparsity)
    if dice.random() < 0.5:
        compact_net(net)
    largest = dice.choice([4, 24, 97])
    return net, (dice.randint(1, largest), dice.randint(1, largest))


def eager(net: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(images)).numpy()


def images_of(size: tuple[int, int], count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, *size), dtype=np.float32)


def toy_ticket(**changes: object) -> Ticket:
    """A ticket of two branches."""
    net = micro_net(stages=STAGES[:2], **changes).eval()
    randomise_norms(net)
    return Ticket.from_net(net, ToyTask(Config()), metrics={"accuracy": 0.5, "note": 'what??/ "quoted" \\ é'})


@pytest.fixture(autouse=True)
def quick_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_export.py compiles a network as users do; -O0 takes a fifth of that time."""
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, *QUICK))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro network for images of (23, 30), compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    net = micro_net().eval()
    randomise_norms(net)
    write_c(fold(net), (23, 30), folder / "ticket.c", {"task": '"toy"'})
    compile_c(folder / "ticket.c", folder / "ticket.so", flags=QUICK)
    return folder / "ticket.so"


def divide(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let random networks run as networks for large images do: two of three in several strips and groups of units, and half of
    them with separate memory for each layout."""
    monkeypatch.setattr(planner, "SHARE", (0, 10**9)[case // 3 % 2])
    if case % 3:
        monkeypatch.setattr(blocks, "STRIP_BYTES", (256, 4096)[case % 2])
        monkeypatch.setattr(blocks, "GROUP_BYTES", 2048)


@pytest.mark.parametrize("case", range(CASES))
def test_any_network_gives_what_eager_gives(case, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SHARE", 1)
    divide(case, monkeypatch)
    net, size = random_net(case)
    write_c(fold(net), size, tmp_path / "ticket.c", {})
    flags = ("-O1" if case % 5 == 1 else "-O0", "-DTICKET_X86=3" if case % 2 else "-DTICKET_X86=34")
    compile_c(tmp_path / "ticket.c", tmp_path / "ticket.so", flags=flags)
    x = images_of(size)
    out, want = load(tmp_path / "ticket.so")(x), eager(net, x)
    assert out.shape == want.shape
    assert np.abs(out - want).max() <= 1e-4
    assert np.array_equal(load(tmp_path / "ticket.so", threads=2 + case % 2)(x), out)  # one image by several threads


@pytest.mark.slow
@pytest.mark.parametrize("case", range(SANITIZED))
def test_nothing_is_read_or_written_outside(case, tmp_path, monkeypatch):
    divide(case + 1, monkeypatch)
    level = "-DTICKET_X86=3" if case % 2 else "-DTICKET_X86=34"
    command = ["cc", "-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", level]
    assert run_as_program(*random_net(case), tmp_path, command, threads=1 + case % 3) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("case", range(SANITIZED))
def test_no_thread_reads_or_writes_where_another_one_writes(case, tmp_path, monkeypatch):
    divide(case + 1, monkeypatch)
    command = ["cc", "-O0", "-g", "-fsanitize=thread", "-DTICKET_X86=3" if case % 2 else "-DTICKET_X86=34"]
    assert run_as_program(*random_net(case), tmp_path, command, threads=2 + case % 3) <= 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("qemu-aarch64") and find_spec("ziglang")), reason="needs qemu-user and ziglang")
@pytest.mark.parametrize("case", range(2))
def test_the_arm64_code_agrees(case, tmp_path, monkeypatch):
    divide(case + 1, monkeypatch)
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O2"]
    assert run_as_program(*random_net(case), tmp_path, zig, ("qemu-aarch64",)) <= 1e-4


def test_the_c_file_is_clean(tmp_path):
    write_c(fold(random_net(3)[0]), (9, 9), tmp_path / "ticket.c", {"note": json.dumps("??/")})
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-c", "-o", str(tmp_path / "ticket.o")]
    done = subprocess.run(["cc", *strict, str(tmp_path / "ticket.c")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("share", [1, 10**9])
def test_batches_and_threads_give_what_single_images_give(compiled, share, monkeypatch):
    monkeypatch.setattr(runner, "SHARE", share)  # with 1, a single image is split
    x = images_of((23, 30), 5)
    one, three = load(compiled), load(compiled, threads=3)
    single = np.concatenate([one(image[None]) for image in x])
    assert np.array_equal(one(x), single) and np.array_equal(three(x), single)
    with ThreadPoolExecutor(4) as pool:  # one engine, many callers
        for count in (1, 5):
            assert all(np.array_equal(found, single[:count]) for found in pool.map(three, [x[:count]] * 8))
    as_torch = three(torch.from_numpy(x))
    assert isinstance(as_torch, torch.Tensor) and np.array_equal(as_torch.numpy(), single)
    assert all(np.array_equal(three(x[:1]), single[:1]) for _ in range(4))  # split and whole
    assert one(x[:0]).shape == (0, *single.shape[1:])


def both_fall_asleep(team: Team) -> bool:
    """Whether both threads of the team go to sleep within a few seconds."""
    give_up = time.monotonic() + 20
    while len(team._asleep) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    return len(team._asleep) == 2


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_threads_that_split_an_image_sleep_after_it_and_end_with_their_engine(compiled, monkeypatch):
    monkeypatch.setattr(runner, "SHARE", 1)
    monkeypatch.setattr(runner.Faster, "choose", lambda self: True)
    x, engine = images_of((23, 30)), load(compiled, threads=3)
    want = load(compiled)(x)
    assert np.array_equal(engine(x), want) and np.array_equal(engine(x), want)
    team = engine._team
    assert team is not None
    assert both_fall_asleep(team)
    assert np.array_equal(engine(x), want)  # woken
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(team, "_lead", interrupted)  # after the threads were woken
        engine(x)
    assert both_fall_asleep(team)
    assert np.array_equal(engine(x), want) and both_fall_asleep(team)
    del engine
    gc.collect()
    for thread in team._threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in team._threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_engine_that_has_run_a_batch_is_freed_and_runs_batches_after_a_fork(compiled):
    x, engine = images_of((23, 30), 4), load(compiled, threads=3)
    want, alive = engine(x), weakref.ref(engine)
    if (child := os.fork()) == 0:
        signal.alarm(60)  # ends it if it waits for threads that are not there
        os._exit(0 if np.array_equal(engine(x), want) else 1)
    assert os.waitpid(child, 0)[1] == 0
    del engine
    gc.collect()
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose")
def test_helpers_are_kept_off_the_callers_processor():
    mine = os.sched_getaffinity(0)
    with ThreadPoolExecutor(1) as pool:
        number = pool.submit(threading.get_native_id).result()
        keep_off_this_processor([number])
        allowed = os.sched_getaffinity(number)
    assert allowed <= mine and len(allowed) == max(1, len(mine) - 1) and os.sched_getaffinity(0) == mine


def test_one_slow_call_does_not_change_the_way_and_a_busy_machine_does():
    faster = runner.Faster()

    def ways(calls: int, whole: float, split: float) -> list[bool]:
        taken = []
        for _ in range(calls):
            taken.append(faster.choose())
            faster.record(taken[-1], split if taken[-1] else whole)
        return taken

    assert sum(ways(31, whole=2, split=1)) >= 26  # all but a few trials
    faster.record(True, 5)
    assert all(ways(20, whole=2, split=1))
    assert not any(ways(40, whole=2, split=9)[20:]) and sum(ways(300, whole=2, split=1)) >= 200


def test_threads_that_have_to_be_woken_are_tried_twice_in_a_row():
    faster, taken = runner.Faster(), [False]
    for _ in range(60):
        taken.append(faster.choose())
        faster.record(taken[-1], 2 if not taken[-1] else 1 if taken[-2] else 4)
    assert sum(taken[1:]) >= 50


def test_images_of_another_size_are_refused(compiled):
    with pytest.raises(UserError, match=r"images of shape \(1, 3, 8, 8\) given; it expects \(B, 3, 23, 30\)"):
        load(compiled)(images_of((8, 8)))


def test_export_writes_c_and_native_with_metadata(tmp_path, capsys):
    folder = toy_ticket().save(tmp_path / "ticket")
    for format, name in (("c", "net.c"), ("native", f"net{native_suffix()}")):
        arguments = ["export", str(folder), "--format", format, "--out", str(tmp_path / name), "--size", "17", "23"]
        cli.main(arguments)
        assert "outputs differ by" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["net.c", "net.h", f"net{native_suffix()}", "ticket"])
    engine = load(tmp_path / f"net{native_suffix()}")
    assert engine.metadata["labels"] == ["red", "green", "blue"] and engine.metadata["output"] == [3, 9, 12]
    assert engine.metadata["metrics"]["note"] == 'what??/ "quoted" \\ é'
    assert str(tmp_path).encode() not in (tmp_path / "net.c").read_bytes()


def test_a_ticket_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERTICKETS_CACHE", str(tmp_path))
    ticket, x = toy_ticket(), images_of((16, 16), 2)
    engine = ticket.compile()
    assert np.abs(engine(x) - eager(ticket.build(), x)).max() <= 1e-4
    (made,) = (tmp_path / "engine").iterdir()
    stamp = made.stat().st_mtime_ns
    compile_ticket(ticket, threads=2)
    assert made.stat().st_mtime_ns == stamp
    made.unlink()  # not overwritten, because it is loaded
    made.write_bytes(b"")  # damaged, so the ticket is compiled again
    compile_ticket(ticket)
    assert made.stat().st_size > 0
    other = ticket.with_tensors({name: tensor * 1.01 for name, tensor in ticket.tensors.items()})
    compile_ticket(other)
    assert len(list((tmp_path / "engine").iterdir())) == 2


def test_a_file_that_has_been_replaced_is_opened_again(compiled, tmp_path):
    path, x = tmp_path / f"net{native_suffix()}", images_of((23, 30))
    shutil.copyfile(compiled, path)
    first = load(path)(x)
    other = micro_net(seed=1).eval()
    randomise_norms(other)
    write_c(fold(other), (23, 30), tmp_path / "other.c", {})
    compile_c(tmp_path / "other.c", tmp_path / "other.so", flags=QUICK)
    os.replace(tmp_path / "other.so", path)
    for _ in range(2):
        assert np.abs(load(path)(x) - eager(other, x)).max() <= 1e-4 < np.abs(first - eager(other, x)).max()


def test_a_wrong_number_of_threads_does_not_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERTICKETS_CACHE", str(tmp_path))
    for threads in (0, 1.5):
        with pytest.raises(UserError, match="threads: .* must be a whole number of 1 or more"):
            compile_ticket(toy_ticket(), threads=threads)
    assert not list(tmp_path.iterdir())


def test_a_file_with_renamed_functions_is_refused(tmp_path):
    write_c(fold(micro_net().eval()), (9, 9), tmp_path / "net.c", {})
    compile_c(tmp_path / "net.c", tmp_path / "net.so", flags=(*QUICK, "-DTICKET_PREFIX=other"))
    with pytest.raises(UserError, match="TICKET_PREFIX"):
        load(tmp_path / "net.so")


def test_the_cache_needs_a_home_or_the_variable(tmp_path, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("SUPERTICKETS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "engine"
    monkeypatch.delenv("SUPERTICKETS_CACHE")
    with pytest.raises(UserError, match="SUPERTICKETS_CACHE: set it to a folder"):
        cache_folder()


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files")
def test_an_incomplete_file_is_never_opened(compiled, tmp_path, monkeypatch):
    data = compiled.read_bytes()
    assert runner.check_file(compiled)
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("the file was opened"))
    for share in (0.3, 0.7, 0.95, 0.999):
        (tmp_path / "part.so").write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError, match="incomplete; export the ticket again|not a compiled ticket"):
            load(tmp_path / "part.so")
    (tmp_path / "part.so").write_bytes(data[:32] + b"\xff" * 16 + data[48:])  # its tables begin beyond any file
    with pytest.raises(UserError, match="incomplete; export the ticket again"):
        load(tmp_path / "part.so")


def test_its_milliseconds_are_those_of_what_export_writes(compiled, monkeypatch):
    monkeypatch.setattr(timing, "export", lambda ticket, path, format: shutil.copyfile(compiled, path))
    assert 0 < timing.native_ms(toy_ticket()) < 100
    monkeypatch.setattr(timing, "LARGEST", 100)
    assert timing.native_ms(toy_ticket()) is None


def test_a_deployed_network_takes_images_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERTICKETS_CACHE", str(tmp_path))
    ticket = toy_ticket()
    net = network_for(ticket, "native")
    for size in ((16, 16), (9, 14)):
        x = torch.from_numpy(images_of(size, 3))
        assert (net(x) - ticket.build()(x)).abs().max() <= 1e-4
    with pytest.raises(UserError, match="'tpu' is unknown; choose one of eager, native, onnx"):
        network_for(ticket, "tpu")


# Refusals --------------------------------------------------------------------------------------------------------------


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with, and exit code 2."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    said = capsys.readouterr().err.strip()
    assert left.value.code == 2 and said.startswith("error: ") and "\n" not in said
    return said


@pytest.mark.parametrize(("format", "name"), [("c", "deep/net.c"), ("native", f"deep/net{native_suffix()}")])
def test_token_mixers_are_refused_before_anything_is_written(format, name, tmp_path, capsys):
    folder = toy_ticket(tokens=2).save(tmp_path / "ticket")
    said = refused(["export", str(folder), "--format", format, "--out", str(tmp_path / name)], capsys)
    assert "token mixers" in said and "onnx" in said and not (tmp_path / "deep").exists()
    with pytest.raises(UserError, match="token mixers"):
        network_for(toy_ticket(tokens=2), "native")


def test_networks_with_too_many_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "LARGEST", 100)
    with pytest.raises(UserError, match="nonzero weights, but the engine takes at most 100; export it as onnx"):
        export(toy_ticket(), tmp_path / "ticket.c", format="c")
    assert not any(tmp_path.iterdir())


def test_a_missing_compiler_is_one_line(tmp_path, monkeypatch, capsys):
    folder = toy_ticket().save(tmp_path / "ticket")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "nowhere-cc -m64")
    monkeypatch.setattr(compiler, "find_spec", lambda _: None)
    said = refused(["export", str(folder), "--format", "native", "--out", str(tmp_path / f"a{native_suffix()}")], capsys)
    assert "nowhere-cc" in said and "pip install 'supertickets[native]'" in said
    assert timing.native_ms(toy_ticket()) is None


def test_a_compiler_for_another_machine_is_named(monkeypatch):
    monkeypatch.setattr(compiler, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"no C compiler for wasm .*cc, which compiles for"):
        find_compiler("wasm")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "sparc"}, "'sparc' is unknown; choose one of native, x86-64-v3"),
        ({"path": "net.wasm"}, "should end in"),
        ({"path": "net.dll", "target": "arm64"}, r"should end in \.so for native, target arm64"),
        ({"path": "net.onnx", "format": "onnx", "target": "arm64"}, "is for --format native"),
        ({"layout": "per-kernel"}, "supports only one-conv"),
    ],
)
def test_wrong_arguments_are_named(changes, words, tmp_path):
    given = {"path": f"net{native_suffix()}", "format": "native", "target": None, "layout": None} | changes
    with pytest.raises(UserError, match=words):
        export(toy_ticket(), tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7fELF" + bytes(100), "not a compiled ticket"),
        (b"hello", "not a compiled ticket"),
        (b"\x7fELF supertickets-engine 99; arm64\0", "another version"),
        (b"\x7fELF supertickets-engine " + b"9" * 5000 + b"; arm64\0", "not a compiled ticket"),
        (b"\0asm supertickets-engine 3; wasm\0", "compiled for WebAssembly"),
        (b"\x7fELF supertickets-engine 3; MACHINE\0", "this machine is"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="ELF files")
def test_files_that_cannot_run_here_are_never_opened(data, words, tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("the file was opened"))
    here = os.uname().machine
    path = tmp_path / "net.so"
    path.write_bytes(data.replace(b"MACHINE", b"x86-64-v3" if here != "x86_64" else b"arm64"))
    with pytest.raises(UserError, match=words):
        load(path)


def test_files_that_are_missing_or_not_compiled_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "net.so")
    (tmp_path / "net.c").write_text("int x;")
    with pytest.raises(UserError, match="compile it first"):
        load(tmp_path / "net.c")


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86-64's kinds of processor")
@pytest.mark.parametrize(("code", "found", "runs"), [(4, 3, False), (3, 0, False), (34, 0, False), (34, 3, True), (3, 4, True)])
def test_a_processor_without_the_instructions_is_told(code, found, runs, tmp_path):
    net, size = micro_net(stages=STAGES[:1], kernels=[3]), (8, 8)
    write_c(fold(net), size, tmp_path / "ticket.c", {})
    compile_c(tmp_path / "ticket.c", tmp_path / "a.so", flags=(*QUICK, f"-DTICKET_X86={code}", f"-DTICKET_X86_FOUND={found}"))
    if runs:
        x = images_of(size)
        assert np.abs(load(tmp_path / "a.so")(x) - eager(net.eval(), x)).max() <= 1e-4
    else:
        with pytest.raises(UserError, match="instructions this processor lacks"):
            load(tmp_path / "a.so")


# Examples --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_run_without_this_package(tmp_path):
    ticket, library = toy_ticket(), tmp_path / f"ticket{native_suffix()}"
    export(ticket, library, format="native")
    export(ticket, tmp_path / "ticket.c", format="c")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    example = EXAMPLES / "native_predict.py"
    guard = f"sys.path.insert(0, r'{EXAMPLES}'); import runpy; runpy.run_path(r'{example}', run_name='__main__')"
    code = f"import sys; sys.modules['torch'] = sys.modules['supertickets'] = None; {guard}"
    command = [sys.executable, "-c", code, str(library), str(tmp_path / "picture.png"), "--out", str(tmp_path / "classes.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and any(label in done.stdout for label in ("red", "green", "blue")), done.stderr
    assert Image.open(tmp_path / "classes.png").size == (30, 20)
    program, files = tmp_path / "predict", [str(EXAMPLES / "native_predict.c"), str(tmp_path / "ticket.c")]
    strict = ["-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run(["cc", *strict, *files, "-o", str(program)], check=True)
    x = images_of((16, 16))
    x.tofile(tmp_path / "image.f32")
    done = subprocess.run([str(program), str(tmp_path / "image.f32")], capture_output=True, text=True)
    assert f"number {eager(ticket.build(), x).argmax()} of" in done.stdout
