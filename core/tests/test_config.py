"""Laws of configs: what wins, what is read as what, what a mistake is told, and the help for every key."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from supertickets import cli
from supertickets.config.architecture import StageArch
from supertickets.config.help import section_help
from supertickets.config.reader import config_to_yaml, load_config
from supertickets.config.section import Section, expand_path
from supertickets.config.sections import Config, PruneConfig, SearchConfig, TrainConfig
from supertickets.errors import UserError
from supertickets.task import task_class


class Data(Section):
    """A task's data, with a key of each kind that the tasks have."""

    name: str = "x"
    root: Path | None = None
    crop: Literal["padded", "none"] = "padded"
    boxes: Literal["gt"] | Path = "gt"
    category_id: int | str | None = None
    cache: bool | None = None
    size_px: tuple[PositiveInt, PositiveInt] = (64, 64)
    resize: tuple[PositiveInt, PositiveInt] | None = None
    classes: list[str] | None = None
    pairs: list[tuple[str, str]] = []
    scales: list[PositiveFloat] = Field([1.0], min_length=1)
    sigmas: dict[str, PositiveFloat] = {}
    low: float = 0
    high: float = 1

    @model_validator(mode="after")
    def _ordered(self) -> Data:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Settings(Config):
    train: TrainConfig = TrainConfig(epochs=7, lr=0.1)
    prune: PruneConfig = PruneConfig(target=0.5)
    search: SearchConfig = Field(default_factory=lambda: SearchConfig(rho=0.5))
    data: Data = Data(low=-1)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "a.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def load(path: Path | None = None, arguments: str = "", base: dict[str, object] | None = None) -> Settings:
    return load_config(Settings, path, shlex.split(arguments), base=base)


def complaint(path: Path | None = None, arguments: str = "", base: dict[str, object] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(path, arguments, base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_command_line_beats_file_beats_base_beats_defaults(write) -> None:
    path = write("train: {epochs: 3}\ndata.name: file")
    config = load(path, "--data.name line", {"data": {"name": "base"}, "train": {"epochs": 2, "lr": 0.5}})
    assert (config.data.name, config.train.epochs, config.train.lr, config.train.batch_size) == ("line", 3, 0.5, 32)


def test_a_partial_section_keeps_the_defaults_its_schema_gave_it(write) -> None:
    config = load(write("train: {decay: 0.5}"), "--data.high 5 --search.every 2", {"prune": {"step": 0.2}})
    assert config.search.rho == 0.5
    assert (config.train.epochs, config.data.low, config.prune.target, config.prune.step) == (7, -1, 0.5, 0.2)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--data.name 123", "123"),
        ("--data.name=no", "no"),
        ("--data.name -x", "-x"),
        ("--data.name [a", "[a"),
        ("--train.lr 1e-3", 0.001),
        ("--train.lr=.5", 0.5),
        ("--train.clip_grad .inf", float("inf")),
        ("--train.epochs 010", 10),
        ("--train.epochs 1e3", 1000),
        ("--train.precision no", "no"),
        ("--data.crop none", "none"),
        ("--arch.stem_stride 2", 2),
        ("--run.tensorboard", True),
        ("--run.tensorboard no", False),
        ("--run.tensorboard=Off", False),
        ("--run.tensorboard --run.tensorboard=False", False),
        ("--data.cache null", None),
        ("--data.cache yes", True),
        ("--search.target_macs None", None),
        ("--data.root 123", Path("123")),
        ("--data.root None", None),
        ("--data.boxes gt", "gt"),
        ("--data.boxes null", Path("null")),
        ("--data.category_id 3", 3),
        ("--data.category_id cat", "cat"),
        ("--data.size_px [96,128]", (96, 128)),
        ("--data.size_px 96,128", (96, 128)),
        ("--data.resize null", None),
        ("--data.scales 2", [2.0]),
        ("--data.classes no,1,b", ["no", "1", "b"]),
        ("--data.sigmas.left.ear 0.1", {"left.ear": 0.1}),
        ("--arch.stages '[{blocks: [1], widths: [8]}]'", [StageArch(blocks=[1], widths=[8])]),
        ("--data.low -1e-3", -0.001),
    ],
)
def test_arguments_are_typed_by_the_schema(argument: str, expected: object) -> None:
    section, key = argument.removeprefix("--").replace("=", ".").replace(" ", ".").split(".")[:2]
    config = load(None, argument)
    found = getattr(getattr(config, section), key)
    assert found == expected and type(found) is type(expected)


def test_file_scalars_are_typed_by_the_schema(write) -> None:
    text = "data: {name: 010, cache: off, classes: [on, 2020-01-01, ~], root: null}\ntrain: {precision: no, lr: 1e-3}"
    config = load(write(text))
    assert (config.data.name, config.data.cache, config.data.root) == ("010", False, None)
    assert (config.data.classes, config.train.precision, config.train.lr) == (["on", "2020-01-01", "~"], "no", 0.001)


def test_quoted_text_is_never_null_or_a_number(write) -> None:
    data = load(write("data: {root: 'null', category_id: '3', classes: [\"no\"], name: ''}")).data
    assert (data.root, data.category_id, data.classes, data.name) == (Path("null"), "3", ["no"], "")


def test_variables(write, monkeypatch) -> None:
    monkeypatch.setenv("PLACE", "/here")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = write('data: {name: "$${PLACE}", root: "${PLACE}/x", classes: ["${PLACE}"]}\ntrain.epochs: ${NOWHERE:-4}')
    config = load(path)
    assert (config.data.name, config.train.epochs, config.data.root) == ("${PLACE}", 4, Path("/here/x"))
    assert config.data.classes == ["/here"] and load(None, "--data.root ${PLACE}").data.root == Path("/here")
    path = write("train.lr: 1\ndata:\n  root: ${NOWHERE}/b")
    said = complaint(path)
    assert "a.yaml:3" in said and "data.root" in said and "NOWHERE" in said
    assert load(path, "--data.root there").data.root == Path("there")  # what is overridden needs no variable


def test_include_default_own_keys(write) -> None:
    write("data.name: inner\ntrain: {lr: 1, epochs: 1, decay: 1}", "inner.yaml")
    write("_include: inner.yaml\ntrain.epochs: 2", "middle.yaml")
    path = write("train.channels_last: true\n_default: {train: {lr: 3, channels_last: no}}\n_include: [middle.yaml]")
    config = load(path)
    assert (config.data.name, config.train.epochs, config.train.decay) == ("inner", 2, 1)
    assert (config.train.lr, config.train.channels_last) == (3, True)


def test_include_below_a_key_holds_that_section(write) -> None:
    write("lr: 5", "train.yaml")
    assert load(write("train: {_include: train.yaml, epochs: 2}")).train == TrainConfig(lr=5, epochs=2)


def test_include_mistakes(write) -> None:
    write("_include: a.yaml", "b.yaml")
    said = complaint(write("_include: b.yaml"))
    assert "circle" in said and re.search(r"a\.yaml -> \S*b\.yaml -> \S*a\.yaml", said)
    said = complaint(write("\n_include: nothing.yaml"))
    assert "a.yaml:2" in said and "nothing.yaml" in said
    assert "a.yaml:1: _include must be the name" in complaint(write("_include: {a: 1}"))
    assert "a.yaml:1: _default must be a mapping" in complaint(write("_default: 3"))


def test_names_in_a_free_mapping_may_hold_dots_and_merge_key_by_key(write) -> None:
    write("data.sigmas: {neck: 1, left.ear: 2}", "b.yaml")
    path = write("_include: b.yaml\ndata: {sigmas: {left.ear: 3}}\ntrain.lr: 2")
    config = load(path, "--data.sigmas.hip 4")
    assert config.train.lr == 2 and config.data.sigmas == {"neck": 1, "left.ear": 3, "hip": 4}


@pytest.mark.parametrize(
    "text",
    [
        "data.name: a\ndata.name: b",
        "train: {lr: 1, lr: 2}",
        "train.lr: 1\ntrain: {lr: 2}",
        "train: {lr: 1}\ntrain: {eps: 2}",
        "arch.stages: [{blocks: [1], blocks: [2]}]",
    ],
)
def test_the_same_key_twice(write, text: str) -> None:
    assert re.search(r"a\.yaml:\d: key \S+ given twice", complaint(write(text)))


def test_anchors(write) -> None:
    config = load(write("search: {start: &a 0.25, end: 0.5}\nprune: {start: *a}"))
    assert config.search.start == config.prune.start == 0.25


@pytest.mark.parametrize(
    ("argument", "key", "nearest", "valid"),
    [
        ("--train.epoch 3", "train.epoch", "train.epochs", "epochs, batch_size"),
        ("--trian.lr 3", "trian.lr", "train.lr", "arch, search, prune, train"),
        ("--epochs 3", "epochs", "train.epochs", "arch, search, prune, train"),
        ("--trian 3", "trian", "train", "arch, search, prune, train"),
        ("--data.epochs 3", "data.epochs", "train.epochs", "name, root"),
        ("--serach.start 0", "serach.start", "search.start", "arch, search"),
    ],
)
def test_unknown_arguments_name_the_nearest_key(argument: str, key: str, nearest: str, valid: str) -> None:
    said = complaint(None, argument)
    assert f"unknown key {key} (the command line): did you mean {nearest}?" in said and valid in said


def test_unknown_keys_in_files_name_the_line(write) -> None:
    said = complaint(write("train.lr: 1\narch.stages:\n  - {block: [1], widths: [8]}\nzzz: 1\ndata: {zzz: {}}"))
    assert re.search(r"unknown key arch\.stages\[0\]\.block \(\S*a\.yaml:3\): did you mean arch\.stages\[0\]\.blocks\?", said)
    assert re.search(r"arch\.stages\[0\]\.blocks: missing, expected a list \(a whole number each\) \(\S*a\.yaml:3\)", said)
    assert re.search(r"unknown key zzz \(\S*a\.yaml:4\): valid keys: arch, search", said)
    assert re.search(r"unknown key data\.zzz \(\S*a\.yaml:5\): valid keys in data: name, root", said)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--train.epochs 1.5", "train.epochs: '1.5' given, expected a whole number (the command line)"),
        ("--train.epochs true", "train.epochs: 'true' given, expected a whole number (the"),
        ("--train.epochs null", "train.epochs: 'null' given, expected a whole number (the"),
        ("--train.lr -1", "train.lr: '-1' given, should be greater than 0 (the"),
        ("--train.lr", "--train.lr needs a value: expected a number"),
        ("--data.root --run.resume", "--data.root needs a value: expected a path or null"),
        ("--train.precision fp8", "train.precision: 'fp8' given, expected one of 'no', 'bf16', 'fp16' (the"),
        ("--run.tensorboard maybe", "run.tensorboard: 'maybe' given, expected true or false (the"),
        ("--data.size_px [1]", "data.size_px: [1] given, expected a list of 2 (a whole number each) (the"),
        ("--data.size_px 1,2,3", "data.size_px: [1, 2, 3] given, expected a list of 2 (a whole number each) (the"),
        ("--data.size_px 1,x", "data.size_px[1]: 'x' given, expected a whole number (the"),
        ("--data.size_px [1", "data.size_px: '[1' given, expected a list of 2 (a whole number each) (the"),
        ("--data.resize x", "data.resize[0]: 'x' given, expected a whole number (the"),
        ("--data.scales []", "data.scales: [] given, List should have at least 1 item"),
        ("--data.sigmas.neck -1", "data.sigmas.neck: '-1' given, should be greater than 0 (the"),
        ("--data.sigmas 3", "data.sigmas: '3' given, expected a mapping (the"),
        ("--arch.stem_stride 3", "arch.stem_stride: '3' given, expected one of 1, 2, 4 or null (the"),
        ("--data.low 3", "data: low is above high (the command line)"),
        ("--imp 3", "imp: '3' given, expected a mapping with the keys rounds, rewind_epoch (the"),
        ("--train.lr.x 3", "train.lr: {x: 3} given, expected a number (the"),
        ("--train.lr x --train.epochs y", "train.epochs: 'y' given, expected a whole number (the command line); train.lr: 'x'"),
        ("--imp.rounds 1 --pipeline.enabled", "imp.rounds and pipeline.enabled exclude each other: choose one (the"),
        ("--train.lr inf", "train.lr: 'inf' given, should be a finite number (the"),
        ("--train.milestones 1,nan", "train.milestones[1]: 'nan' given, should be a finite number (the"),
        ("--train.accumulate 1e12", "train.accumulate: 1000000000000 given, expected at most 2147483648 (the"),
        ("stray", "cannot read 'stray'"),
        ("--data.name a b", "cannot read 'b'"),
    ],
)
def test_wrong_arguments(argument: str, said: str) -> None:
    assert said in complaint(None, argument)


def test_wrong_values_name_their_file_and_line(write) -> None:
    write("train:\n  epochs: many", "b.yaml")
    assert re.search(r"train\.epochs: 'many' given, .* \(\S*b\.yaml:2\)", complaint(write("_include: b.yaml")))
    assert re.search(r"data\.name: null given, expected text \(\S*a\.yaml:1\)", complaint(write("data: {name: }")))
    assert re.search(r"train: null given, expected a mapping .* \(\S*a\.yaml:2\)", complaint(write("\ntrain:\n")))
    assert re.search(r"data: low is above high \(\S*a\.yaml\)", complaint(write("data:\n  low: 3\n  high: 2")))


@pytest.mark.parametrize(("given", "shown"), [("false", "'false'"), ("5", "'5'"), ("folder", "'folder'"), ("[1, 2]", "[1, 2]")])
@pytest.mark.parametrize("override", ["", "--train.epochs 3"])
def test_a_value_in_place_of_a_section_stays_wrong(write, given: str, shown: str, override: str) -> None:
    said = complaint(write(f"train: {given}"), override)
    assert f"train: {shown} given, expected a mapping with the keys epochs" in said and "a.yaml" in said


@pytest.mark.parametrize("value", ["many", True, None, 1.5])
def test_wrong_stored_values_name_the_stored_settings(value: object) -> None:
    said = complaint(base={"train": {"epochs": value}})
    assert "train.epochs: " in said and "given, expected a whole number (the stored settings)" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"train: [1, 2\ndata: x", r"a\.yaml:2: not valid YAML"),
        (b"a: b: c", r"a\.yaml:1: not valid YAML"),
        (b"- 1\n- 2", r"a\.yaml: the file must contain"),
        (b"3", r"a\.yaml: the file must contain"),
        (b"data.name: \xff\xfe", r"a\.yaml: cannot be read: not UTF-8 text"),
        (b"data.name: \x00", r"a\.yaml: not valid YAML"),
        (b"data.name: !!python/object/apply:os.getcwd []", r"data\.name: \[\] given, expected text \(\S*a\.yaml:1\)"),
        (b"\ndata.classes: &a [*a]", r"a\.yaml:2: not valid YAML: found unconstructable recursive node"),
        (b"? [1, 2]\n: 3", r"a\.yaml:1: a key must be"),
        (b"data.classes: " + b"[" * 5000, r"a\.yaml: not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert re.search(said, complaint(tmp_path / "a.yaml"))


def test_missing_file_folder_empty_file_and_byte_order_mark(tmp_path: Path, write) -> None:
    assert re.search(r"none\.yaml: cannot be read: No such file", complaint(tmp_path / "none.yaml"))
    assert "cannot be read: Is a directory" in complaint(tmp_path)
    assert load(write("# all defaults\n")) == load(write("{}")) == Settings()
    assert load(write("\ufefftrain.lr: 2")).train.lr == 2


def test_yaml_round_trip(write) -> None:
    texts = [
        "1e-3",
        "null",
        "None",
        "${HOME}",
        "$${X:-y}",
        "",
        "Stra\u00dfe: #1",
        "a\nb",
        "~",
        "010",
        "no",
        "a.b",
        "\U0001f600",
        "- x",
        "\x7f\x85\x89\u2028\ufeff\uffff",
    ]
    config = Settings(
        train=TrainConfig(lr=1e-5, eps=1e-12, clip_grad=float("inf"), milestones=[1, 2.5], precision="bf16"),
        data=Data(
            name="none", root=Path("null"), classes=texts, pairs=[("a", "no")], sigmas={"a.b": 1e-7, "c": 2}, category_id="3"
        ),
    )
    config.arch.stages = [StageArch(blocks=[1], widths=[8]), StageArch(blocks=[1, 0], widths=[8, 16])]
    path = write(config_to_yaml(config))
    assert load(path) == config and "  size_px: [64, 64]\n" in path.read_text() and "  crop: padded\n" in path.read_text()
    assert load(base=config.model_dump(mode="json")) == config
    for text in texts:
        config = Settings(data=Data(name=text))
        assert load(write(config_to_yaml(config))) == config
    assert load(write(config_to_yaml(Settings()))) == Settings()


def test_yaml_of_earlier_versions_reads(write) -> None:
    text = (
        "train:\n  lr: 1.0e-05\n  clip_grad: .inf\n  milestones: [1.0, 2.5]\ndata:\n  name: 'no'\n  root: null\n  sigmas: {}\n"
    )
    config = load(
        write(f"{text}  category_id: '3'\n  pairs:\n  - [a, b]\narch:\n  stages:\n  - blocks: [1]\n    widths: [8]\n")
    )
    assert config.train == TrainConfig(epochs=7, lr=1e-5, clip_grad=float("inf"), milestones=[1, 2.5])
    assert config.data == Data(low=-1, name="no", category_id="3", pairs=[("a", "b")])
    assert config.arch.stages == [StageArch(blocks=[1], widths=[8])]


def test_sections_check_assignment() -> None:
    config = load()
    with pytest.raises(ValidationError):
        config.train.epochs = "many"  # type: ignore[assignment]


@pytest.mark.parametrize("name", sorted(point.name for point in entry_points(group="supertickets.tasks")))
def test_every_key_of_every_installed_task_has_one_line_of_help(name: str) -> None:
    sections = section_help(task_class(name).Config)
    assert {"search", "prune", "data"} <= sections.keys() and all(text for text, _ in sections.values())
    keys = {key.key: key for _, keys in sections.values() for key in keys}
    assert [key for key, entry in keys.items() if not re.match(r"\S[^\n]+[.)]$", entry.help)] == []
    assert keys["train.epochs"].default == str(task_class(name).Config().train.epochs)


@pytest.mark.parametrize("script", [cli.train, cli.evaluate, cli.predict])
def test_help_lists_all_keys_or_one_section(script, capsys, toy_installed) -> None:
    with pytest.raises(SystemExit):
        script("toy", ["--help"])
    said = capsys.readouterr().out
    assert re.search(r"--prune\.target +0\.\d+ +Sparsity of all prunable weights at the end\.", said) and "--train.lr " in said
    with pytest.raises(SystemExit):
        script("toy", ["--help", "prune"])
    said = capsys.readouterr().out
    assert "--prune.target " in said and "--train.lr " not in said and "usage" not in said


def test_help_for_a_section_that_there_is_not_names_the_sections(capsys, toy_installed) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.train("toy", ["--help", "prunes"])
    assert caught.value.code == 2 and "no section 'prunes'; the sections are arch, search, prune" in capsys.readouterr().err


def test_paths_are_written_out_as_a_shell_would(write, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/people/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    for given, expected in (
        ("~/runs/x", "/people/me/runs/x"),
        ("$SCRATCH/x", "/scratch/x"),
        ("a/~/b", "a/~/b"),
        ("$5/x", "$5/x"),
    ):
        file = write(f"run: {{dir: '{given}'}}")
        for config in (load_config(Config, file), load_config(Config, None, ["--run.dir", given])):
            assert config.run.dir == Path(expected) == cli.path_argument(given)
    for given in ("$NOWHERE/x", "runs/$NOWHERE", "runs/${NOWHERE}_1/x"):
        with pytest.raises(UserError, match=r"run\.dir: .*the environment variable NOWHERE is not set"):
            load_config(Config, None, ["--run.dir", given])
    with pytest.raises(UserError, match="the home folder for ~ is not known"):
        load_config(Config, None, ["--run.dir", "~nobody_of_this_name/x"])


def test_a_path_that_is_not_utf8_and_a_number_without_end_are_one_line():
    with pytest.raises(UserError, match=r"data\.root: .*caf\\xe9: the name is not UTF-8; rename it, or use a link"):
        load(None, "--data.root caf\udce9")
    with pytest.raises(UserError, match=r"^train\.epochs: '1+\.\.\. given, [^\n]*$"):
        load(None, "--train.epochs " + "1" * 5000)
    assert str(expand_path("caf\udce9.png")) == "caf\udce9.png"  # names of images, which are not stored in settings
