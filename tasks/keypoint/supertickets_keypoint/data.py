"""A split as a torch data set: persons, cropped from pictures that are kept in memory if requested."""

from __future__ import annotations

from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import Affine, inverse
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.persons import Person, turned
from supertickets_keypoint.sources import CocoSource, SceneSource, megabytes
from supertickets_keypoint.transforms import PersonTransform

CACHE_MB = 1000


class PersonSet(Dataset):
    """Item i is [image (3, H, W), joints (J, 3), map to the annotation's pixels (2, 3), i]; see `PersonTransform`."""

    def __init__(self, source: CocoSource | SceneSource, data: KeypointData, joints: Joints, *, train: bool) -> None:
        self.source, self.persons = source, source.persons
        self.transform = PersonTransform(data, joints, train=train)
        self._kept: dict[int, Image.Image] = {}
        self._turns: dict[int, Affine | None] = {}
        if isinstance(source, CocoSource) and (data.cache if data.cache is not None else megabytes(source) < CACHE_MB):
            # Done in the main process: workers live for one epoch and share what is in memory before they start.
            self._kept = {n: source.picture(n)[0] for n in sorted({person.image for person in self.persons})}

    def __len__(self) -> int:
        return len(self.persons)

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]:
        """Picture `number`, reduced by at most the factor `shrink`, and the actual factor."""
        return (self._kept[number], 1) if number in self._kept else self.source.picture(number, shrink)

    def upright(self, index: int) -> tuple[Person, Affine | None]:
        """Person i in its upright picture, and the map from the annotation's coordinates if these differ."""
        person = self.persons[index]
        if person.image not in self._turns:
            self._turns[person.image] = self.source.turn(person.image)
        turn = self._turns[person.image]
        return (person, None) if turn is None else (turned(person, turn), turn)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        person, turn = self.upright(index)
        image, joints, to_input = self.transform(person, partial(self.picture, person.image))
        linear = torch.linalg.inv(to_input[:, :2])
        to_image = torch.cat([linear, -linear @ to_input[:, 2:]], dim=1)
        if turn is not None:  # results refer to the annotation's coordinates, regardless of what the network saw
            back = torch.from_numpy(inverse(turn))
            to_image = torch.cat([back[:, :2] @ to_image[:, :2], back[:, :2] @ to_image[:, 2:] + back[:, 2:]], dim=1)
        return image, joints, to_image.float(), torch.tensor(index)
