"""Laws of distillation: the loss, a teacher that stays as it is, which teachers are refused, and exact resume."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from supertickets.config.sections import Config, DistillConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.losses import softened_divergence
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.testing.processes import run_on_two_processes
from supertickets.ticket.ticket import Ticket
from supertickets.training.distill import Lesson

pytestmark = pytest.mark.usefixtures("toy_installed")
OFF = {"search": {"enabled": False}, "prune": {"enabled": False}}
SHORT = {"train": {"epochs": 4}, "prune": {"every": 1, "start": 0.2}}
FEW = 16  # images, for epochs of two steps


def draw(folder: Path, images: int = FEW, **sections) -> tuple[Ticket, list[dict]]:
    config = toy_config(folder, **sections)
    ticket = draw_ticket(ToyTask(config, images), config)
    return ticket, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The folder of a short run without a teacher."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("plain") / "run"
    config = toy_config(folder, **SHORT)
    draw_ticket(ToyTask(config, FEW), config)
    return folder


def test_the_divergence_by_hand():
    student = torch.tensor([[0.0, 0.0], [7.0, -5.0]])
    teacher = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]])  # at temperature 2: shares 3/4 and 1/4
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    counted = torch.tensor([True, False])
    assert float(softened_divergence(student, teacher, 2.0, counted=counted)) == pytest.approx(by_hand, rel=1e-5)
    assert float(softened_divergence(student[:1], teacher[:1], 2.0)) == pytest.approx(by_hand, rel=1e-5)
    pixels = [logits[:1, :, None, None].expand(1, 2, 3, 4) for logits in (student, teacher)]
    assert float(softened_divergence(*pixels, 2.0)) == pytest.approx(by_hand, rel=1e-5)
    assert softened_divergence(student, teacher, 2.0, counted=torch.zeros(2, dtype=torch.bool)) == 0


def test_a_lesson_mixes_both_losses_in_one_forward_and_leaves_the_teacher_as_it_was():
    task, student, teacher = ToyTask(Config()), micro_net(0), micro_net(1).eval().requires_grad_(False)
    before, forwards = copy.deepcopy(teacher.state_dict()), []
    student.register_forward_hook(lambda *_: forwards.append(1))
    batch = next(iter(task.build_loaders(8)[0]))
    lesson = Lesson(teacher, task, DistillConfig(weight=0.3, temperature=2.0), Accelerator())
    task_loss, total = lesson.losses(student, batch)
    total.backward()
    with torch.no_grad():
        images, labels = batch
        assert len(forwards) == 1
        distance = softened_divergence(student(images), teacher(images), 2.0)
        assert torch.allclose(task_loss, task.loss(student, batch), atol=1e-5)
        assert torch.allclose(total, 0.7 * task_loss + 0.3 * distance, atol=1e-5)
    assert (
        lesson.record()["distillation"] == pytest.approx(float(distance), rel=1e-4) and lesson.record()["teacher_seconds"] > 0
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not teacher.training and len(student._forward_hooks) == 1  # the test's own


def test_a_loss_that_calls_the_model_twice_is_refused():
    class Twice(ToyTask):
        def loss(self, model, batch):
            return super().loss(model, batch) + super().loss(model, batch)

    task, net = Twice(Config()), micro_net()
    lesson = Lesson(micro_net(1), task, DistillConfig(), Accelerator())
    with pytest.raises(UserError, match="calls the model 2 times"):
        lesson.losses(net, next(iter(task.build_loaders(8)[0])))
    assert not net._forward_hooks


@pytest.mark.parametrize("teacher", ["ema", "supernet", "ticket"])
def test_a_teacher_of_weight_zero_changes_nothing_bit_for_bit(tmp_path, plain, teacher):
    named = plain / "ticket" if teacher == "ticket" else teacher
    ticket, records = draw(tmp_path / "run", **SHORT, distill={"teacher": named, "weight": 0.0})
    expected = Ticket.load(plain / "ticket")
    assert all(torch.equal(ticket.tensors[name], tensor) for name, tensor in expected.tensors.items())
    taught = [record["epoch"] for record in records if "teacher_seconds" in record]
    assert taught == ([1] if teacher == "ticket" else []) + [2, 3, 4]  # the first shrink comes after epoch 1


def test_a_student_learns_from_a_teacher_alone(tmp_path):
    once = {"train": {"epochs": 5, "evaluate_every": 5}}
    draw(tmp_path / "teacher", 48, **OFF, **once)
    distill = {"teacher": tmp_path / "teacher" / "ticket", "weight": 1.0}
    _, records = draw(tmp_path / "student", 48, **OFF, **once, distill=distill, run={"seed": 1})
    assert records[-1]["accuracy"] > 0.45 and records[-1]["distillation"] < records[0]["distillation"] / 2


@pytest.mark.parametrize("teacher", ["supernet", "ema"])
def test_a_resumed_run_has_the_same_teacher_bit_for_bit(tmp_path, teacher):
    class Stop(Exception):
        pass

    class StopsLate(ToyTask):
        def evaluate(self, model, loader, accelerator):
            if list((tmp_path / "cut").glob("checkpoints/epoch_0003*")):
                raise Stop
            return super().evaluate(model, loader, accelerator)

    distill = {"teacher": teacher, "weight": 0.5}
    whole, records = draw(tmp_path / "whole", **SHORT, distill=distill)
    with pytest.raises(Stop):
        draw_ticket(StopsLate(None, FEW), toy_config(tmp_path / "cut", **SHORT, distill=distill))
    resumed, again = draw(tmp_path / "cut", **SHORT, distill=distill, run={"resume": True})
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert [r.get("distillation") for r in again] == [r.get("distillation") for r in records]
    with pytest.raises(UserError, match=r"distill\.weight \(0\.5 -> 0\.6\)"):
        draw(tmp_path / "cut", **SHORT, distill=distill | {"weight": 0.6}, run={"resume": True})


def test_unfit_tickets_are_refused_in_one_line_before_anything_is_written(tmp_path, plain):
    def refusal(path: Path, task_type: type[ToyTask] = ToyTask, **sections) -> str:
        config = toy_config(tmp_path / "run", distill={"teacher": path})
        config = config.model_copy(update={"arch": config.arch.model_copy(update=sections)})
        with pytest.raises(UserError) as caught:
            draw_ticket(task_type(config), config)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
        return str(caught.value)

    class Other(ToyTask):
        name = "other"

    class OtherLabels(ToyTask):
        def __init__(self, *args):
            super().__init__(*args)
            self.labels = ["red", "green", "violet"]

    class OtherColours(ToyTask):
        def settings(self):
            return {"data": {"mean": [0.5, 0.5, 0.5]}}

    path = plain / "ticket"
    assert "was trained with data.mean None, but this run has [0.5, 0.5, 0.5]" in refusal(path, OtherColours)
    assert f"distill.teacher: {path} is a toy ticket, not a other one" in refusal(path, Other)
    assert "knows other labels: 'blue' where the data have 'violet'" in refusal(path, OtherLabels)
    assert "outputs of shape [3, 8, 8] for an image, but this run's network has [3, 16, 16]" in refusal(path, stem_stride=1)
    assert "no such file" in refusal(tmp_path / "nowhere")


def test_a_supernet_that_never_teaches_is_refused(tmp_path):
    with pytest.raises(UserError, match="this run plans none"):
        draw(tmp_path / "run", **OFF, distill={"teacher": "supernet"})
    with pytest.raises(UserError, match="comes after the last epoch, 6"):
        prune = {"schedule": "one_shot", "end": 1.0}
        draw(tmp_path / "run", search={"enabled": False}, prune=prune, distill={"teacher": "supernet"})
    with pytest.raises(UserError, match="training before the first prune"):
        prune = {"schedule": "one_shot", "end": 0.0}
        draw(tmp_path / "run", search={"enabled": False}, prune=prune, distill={"teacher": "supernet"})
    with pytest.raises(UserError, match="only the first round has a supernet"):
        draw(tmp_path / "run", distill={"teacher": "supernet"}, imp={"rounds": 2})
    assert not (tmp_path / "run").exists()


def test_a_frozen_teacher_has_the_weights_of_before_the_first_event(tmp_path, monkeypatch):
    from supertickets.training.trainer import Trainer

    kept: list[nn.Module] = []
    old = Trainer.keep_teacher

    def keep(self):
        old(self)
        kept.append(copy.deepcopy(self.state.teacher))
        kept.append(self.state.teacher)
        assert not self.state.mask and not self.state.teacher.training

    monkeypatch.setattr(Trainer, "keep_teacher", keep)
    ticket, _ = draw(tmp_path / "run", **SHORT, distill={"teacher": "supernet"})
    assert len(kept) == 2 and kept[1].arch != ticket.arch
    assert all(torch.equal(t, kept[1].state_dict()[name]) for name, t in kept[0].state_dict().items())
    assert not any(param.requires_grad or param.grad is not None for param in kept[1].parameters())


_WORKER = """
import json, sys
from pathlib import Path
import torch
import supertickets.task as tasks
from accelerate import PartialState
from supertickets.draw import draw_ticket
from supertickets.testing import ToyTask, mask_digest, toy_config
torch.set_num_threads(1)
tasks.task_class = lambda name: ToyTask
config = toy_config(
    Path(sys.argv[1]), train={"batch_size": 4, "epochs": 4}, distill={"teacher": "supernet"}, run={"keep_best": True}
)
ticket = draw_ticket(ToyTask(config, 16), config)
Path(sys.argv[1], f"rank{PartialState().process_index}.json").write_text(json.dumps(mask_digest(ticket.mask)))
"""


def test_two_processes_share_a_teacher(tmp_path):
    folder = tmp_path / "run"
    run_on_two_processes(_WORKER, tmp_path, str(folder))
    assert (folder / "rank0.json").read_text() == (folder / "rank1.json").read_text()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(records[-1]["distillation"]) and records[-1]["teacher_seconds"] >= 0
    assert (folder / "best" / "ticket.json").exists()
