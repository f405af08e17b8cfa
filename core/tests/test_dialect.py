"""The laws of the config dialect: what wins, what is read as what, and what a mistake is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveFloat, ValidationError, model_validator

from supertickets.config.reader import config_to_yaml, load_config
from supertickets.config.section import Section
from supertickets.errors import UserError


class Optimizer(Section):
    lr: PositiveFloat = 0.1
    epochs: int = 1
    precision: Literal["no", "bf16"] = "no"
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.99)
    sizes: list[int] = []
    decay: float | int = 0


class Scenes(Section):
    kind: Literal["scenes"] = "scenes"
    size: int = 96
    count: int = 10


class Pairs(Section):
    kind: Literal["pairs"] = "pairs"
    size: int = 144
    root: Path | None = None
    names: list[str] = []


class Limit(Section):
    low: float = 0
    high: float = 1

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Settings(Section):
    name: str = "x"
    train: Optimizer = Optimizer(epochs=7)
    data: Annotated[Scenes | Pairs, Field(discriminator="kind")] = Scenes(size=32)
    limit: Limit | None = None
    groups: dict[str, Optimizer] = {}
    units: dict[str, dict[int, int]] = {}
    colours: dict[str, list[int]] = {}
    stages: list[Limit] = []
    extra: Any = None


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "a.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def load(path: Path | None = None, arguments: str = "", **more: Any) -> Settings:
    return load_config(Settings, path, arguments.split(), **more)


def complaint(path: Path | None = None, arguments: str = "", **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_command_line_beats_file_beats_base_beats_defaults(write) -> None:
    path = write("train: {epochs: 3}\nname: file")
    config = load(path, "--name line", base={"name": "base", "train": {"epochs": 2, "lr": 0.5}})
    assert (config.name, config.train.epochs, config.train.lr, config.train.nesterov) == ("line", 3, 0.5, False)


def test_a_partial_section_keeps_the_defaults_its_parent_gave_it() -> None:
    config = load(None, "--train.lr 1 --data.count 5")
    assert (config.train.epochs, config.data.size) == (7, 32)


@pytest.mark.parametrize(
    ("argument", "get", "expected"),
    [
        ("--name 123", lambda c: c.name, "123"),
        ("--name=no", lambda c: c.name, "no"),
        ("--name -x", lambda c: c.name, "-x"),
        ("--train.lr 1e-3", lambda c: c.train.lr, 0.001),
        ("--train.precision no", lambda c: c.train.precision, "no"),
        ("--train.nesterov", lambda c: c.train.nesterov, True),
        ("--train.nesterov --name y", lambda c: c.train.nesterov, True),
        ("--train.nesterov --train.nesterov=False", lambda c: c.train.nesterov, False),
        ("--train.nesterov false", lambda c: c.train.nesterov, False),
        ("--train.decay -3", lambda c: c.train.decay, -3),
        ("--train.decay -1e-3", lambda c: c.train.decay, -0.001),
        ("--train.sizes [96,128]", lambda c: c.train.sizes, [96, 128]),
        ("--train.sizes 96,128", lambda c: c.train.sizes, [96, 128]),
        ("--train.sizes 96", lambda c: c.train.sizes, [96]),
        ("--train.betas [0.1,0.2]", lambda c: c.train.betas, (0.1, 0.2)),
        ("--train {'lr':2}", lambda c: (c.train.lr, c.train.epochs), (2.0, 7)),
        ("--data.kind pairs --data.root 123", lambda c: c.data.root, Path("123")),
        ("--data.kind pairs --data.root None", lambda c: c.data.root, None),
        ("--data.kind=pairs --data.names no,1,b", lambda c: c.data.names, ["no", "1", "b"]),
        ("--limit.high 2", lambda c: c.limit.high, 2.0),
        ("--groups.head.lr 3", lambda c: c.groups["head"].lr, 3.0),
        ("--units.stages.0.1.3 72", lambda c: c.units, {"stages.0.1": {3: 72}}),
        ("--colours.road 1,2,3", lambda c: c.colours, {"road": [1, 2, 3]}),
    ],
)
def test_arguments_are_typed_by_the_schema(argument: str, get: Any, expected: Any) -> None:
    found = get(load(None, argument))
    assert found == expected and type(found) is type(expected)


def test_file_scalars_are_typed_by_the_schema(write) -> None:
    text = "name: 010\ntrain: {precision: no, nesterov: off, lr: 1e-3}\ndata: {kind: pairs, names: [on, 2020-01-01]}"
    config = load(write(text))
    assert (config.name, config.train.precision, config.train.nesterov, config.train.lr) == ("010", "no", False, 0.001)
    assert config.data.names == ["on", "2020-01-01"]


def test_variables(write, monkeypatch) -> None:
    monkeypatch.setenv("PLACE", "/here")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = write('name: "$${PLACE}"\ntrain.epochs: ${NOWHERE:-4}\ndata: {kind: pairs, root: "${PLACE}/x"}')
    config = load(path)
    assert (config.name, config.train.epochs, config.data.root) == ("${PLACE}", 4, Path("/here/x"))
    said = complaint(write("name: a\ndata:\n  root: ${NOWHERE}/b"))
    assert "a.yaml:3" in said and "data.root" in said and "NOWHERE" in said


def test_include_default_own_keys(write) -> None:
    write("name: inner\ntrain: {lr: 1, epochs: 1, decay: 1}", "inner.yaml")
    write("_include: inner.yaml\ntrain.epochs: 2", "middle.yaml")
    path = write("train.nesterov: true\n_default: {train: {lr: 3, nesterov: no}}\n_include: [middle.yaml]")
    config = load(path)
    assert (config.name, config.train.epochs, config.train.decay) == ("inner", 2, 1)
    assert (config.train.lr, config.train.nesterov) == (3, True)


def test_include_below_a_key_holds_that_section(write) -> None:
    write("lr: 5", "train.yaml")
    assert load(write("train: {_include: train.yaml, epochs: 2}")).train == Optimizer(lr=5, epochs=2)


def test_include_mistakes(write) -> None:
    write("_include: a.yaml", "b.yaml")
    said = complaint(write("_include: b.yaml"))
    assert "circle" in said and re.search(r"a\.yaml -> \S*b\.yaml -> \S*a\.yaml", said)
    said = complaint(write("\n_include: nothing.yaml"))
    assert "a.yaml:2" in said and "nothing.yaml" in said


def test_dotted_keys_reach_into_any_section_and_into_entries_of_free_mappings(write) -> None:
    path = write("train.lr: 2\ngroups.a.lr: 3\ngroups: {b.lr: 4}\nunits: {s.0: {3: 7}, s.1.5: 8}\nextra: {a.b: 1}")
    config = load(path)
    assert (config.train.lr, config.groups["a"].lr, config.groups["b"].lr) == (2, 3, 4)
    assert config.units == {"s.0": {3: 7}, "s.1": {5: 8}} and config.extra == {"a.b": 1}


@pytest.mark.parametrize("text", ["name: a\nname: b", "train: {lr: 1, lr: 2}", "train.lr: 1\ntrain: {lr: 2}"])
def test_the_same_key_twice(write, text: str) -> None:
    assert re.search(r"a\.yaml:\d: key \S+ given twice", complaint(write(text)))


def test_yaml_merge_keys_and_anchors(write) -> None:
    config = load(write("groups:\n  a: &a {lr: 2, epochs: 3}\n  b: {<<: *a, epochs: 4}\n  c: *a"))
    assert [(group.lr, group.epochs) for group in config.groups.values()] == [(2, 3), (2, 4), (2, 3)]


def test_a_new_tag_drops_what_only_the_old_member_knows(write) -> None:
    config = load(write("data: {kind: pairs, root: there, size: 5}"), "--data.kind scenes --data.count 3")
    assert config.data == Scenes(size=5, count=3)
    assert load(None, "--data.count 3 --data.kind scenes").data.count == 3
    assert "data.count" in complaint(None, "--data.count 3 --data.kind pairs")


@pytest.mark.parametrize(
    ("argument", "key", "nearest", "valid"),
    [
        ("--train.epoch 3", "train.epoch", "train.epochs", "epochs"),
        ("--trian.lr 3", "trian.lr", "train.lr", "train, data"),
        ("--epochs 3", "epochs", "train.epochs", "train, data"),
        ("--data.epochs 3", "data.epochs", "train.epochs", "kind, size, count"),
        ("--groups.a.epohcs 3", "groups.a.epohcs", "groups.a.epochs", "lr, epochs"),
    ],
)
def test_unknown_arguments_name_the_nearest_key(argument: str, key: str, nearest: str, valid: str) -> None:
    said = complaint(None, argument)
    assert f"unknown key {key} (the command line): did you mean {nearest}?" in said and valid in said


def test_unknown_keys_in_files_name_the_line(write) -> None:
    said = complaint(write("name: a\nstages:\n  - {low: 0}\n  - {lwo: 0}\nzzz: 1"))
    assert re.search(r"unknown key stages\[1\]\.lwo \(\S*a\.yaml:4\): did you mean stages\[1\]\.low\?", said)
    assert re.search(r"unknown key zzz \(\S*a\.yaml:5\): valid keys: name, train", said)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--train.epochs 1.5", "train.epochs: '1.5' given, expected a whole number (the command line)"),
        ("--train.epochs true", "train.epochs: 'true' given, expected a whole number"),
        ("--train.lr -1", "train.lr: -1 given, should be greater than 0"),
        ("--train.lr", "--train.lr needs a value: expected a number"),
        ("--train.precision fp8", "train.precision: 'fp8' given, expected one of 'no', 'bf16'"),
        ("--train.nesterov maybe", "train.nesterov: 'maybe' given, expected true or false"),
        ("--train.decay x", "train.decay: 'x' given, expected a number (the"),
        ("--train.betas [1]", "train.betas: '[1]' given, expected a list of 2"),
        ("--train.sizes 1,x", "train.sizes: '1,x' given, expected a list (a whole number each)"),
        ("--data.kind lmdb", "data.kind: 'lmdb' given, expected one of 'scenes', 'pairs'"),
        ("--limit.low 3", "limit: low is above high (the command line)"),
        ("--limit 3", "limit: '3' given, expected a mapping with the keys low, high or null"),
        ("--train.lr.x 3", "train.lr: {'x': 3} given, expected a number"),
        ("--train.lr x --train.epochs y", "'x' given, expected a number (the command line); train.epochs: 'y'"),
        ("stray", "cannot read 'stray'"),
    ],
)
def test_wrong_arguments(argument: str, said: str) -> None:
    assert said in complaint(None, argument)


def test_wrong_values_name_their_file_and_line(write) -> None:
    write("train:\n  epochs: many", "b.yaml")
    assert re.search(r"train\.epochs: 'many' given, .* \(\S*b\.yaml:2\)", complaint(write("_include: b.yaml")))
    assert "(the stored settings)" in complaint(base={"train": {"epochs": "many"}})
    assert re.search(r"name: null given, expected text \(\S*a\.yaml:1\)", complaint(write("name:\n")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"train: [1, 2\nname: x", r"a\.yaml:2: not valid YAML"),
        (b"a: b: c", r"a\.yaml:1: not valid YAML"),
        (b"- 1\n- 2", r"a\.yaml: the file must hold"),
        (b"name: \xff\xfe", r"a\.yaml: not UTF-8 text"),
        (b"name: \x00", r"a\.yaml: not valid YAML"),
        (b"name: !!python/object/apply:os.getcwd []", r"a\.yaml:1: not valid YAML"),
        (b"extra: &a [*a]", r"a\.yaml:1: extra\S* contains itself"),
        (b"? [1, 2]\n: 3", r"a\.yaml:1: a key must be"),
        (b"extra: " + b"[" * 5000, r"a\.yaml: not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert re.search(said, complaint(tmp_path / "a.yaml"))


def test_missing_file_folder_and_empty_file(tmp_path: Path, write) -> None:
    assert "no such file" in complaint(tmp_path / "none.yaml")
    assert "a folder" in complaint(tmp_path)
    assert load(write("# all defaults\n")) == Settings()


def test_yaml_round_trip(write) -> None:
    config = Settings(
        name="no",
        train=Optimizer(lr=1e-5, betas=(0.0, 1e-12), sizes=[1, 2], decay=3),
        data=Pairs(root=Path("a/b c"), names=["1e-3", "null", "${HOME}", "$${X:-y}", "", "Straße: #1", "a\nb", "~", "010"]),
        limit=Limit(high=float("inf")),
        groups={"a.b": Optimizer(nesterov=True)},
        units={"s.0.1": {3: 72, 5: 0}},
        stages=[Limit(), Limit(low=-1)],
        extra={"yes": ["no", True, None, 1.5], "a.b": "1", "empty": {}},
    )
    path = write(config_to_yaml(config))
    assert load(path) == config and "betas: [" in path.read_text()
    assert load(write(config_to_yaml(Settings()))) == Settings()


def test_sections_check_assignment() -> None:
    config = load()
    with pytest.raises(ValidationError):
        config.train.epochs = "many"  # type: ignore[assignment]
