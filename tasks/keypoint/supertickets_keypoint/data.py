"""A split as a torch data set: persons, cropped from pictures that stay in memory if wanted."""

from __future__ import annotations

from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.sources import CocoSource, SceneSource, megabytes
from supertickets_keypoint.transforms import PersonTransform

CACHE_MB = 1000


class PersonSet(Dataset):
    """Item i: [image (3, H, W), joints (J, 3), map to the picture (2, 3), i] of person i, see `PersonTransform`."""

    def __init__(self, source: CocoSource | SceneSource, data: KeypointData, joints: Joints, *, train: bool) -> None:
        self.source, self.persons = source, source.persons
        self.transform = PersonTransform(data, joints, train=train)
        self._kept: dict[int, Image.Image] = {}
        if isinstance(source, CocoSource) and (data.cache if data.cache is not None else megabytes(source) < CACHE_MB):
            # Here, in the main process: workers live for an epoch and share what is kept before they start.
            self._kept = {n: source.picture(n)[0] for n in sorted({person.image for person in self.persons})}

    def __len__(self) -> int:
        return len(self.persons)

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]:
        """Picture `number`, reduced by at most `shrink`, and by how much."""
        return (self._kept[number], 1) if number in self._kept else self.source.picture(number, shrink)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        person = self.persons[index]
        image, joints, to_input = self.transform(person, partial(self.picture, person.image))
        linear = torch.linalg.inv(to_input[:, :2])
        to_image = torch.cat([linear, -linear @ to_input[:, 2:]], dim=1)
        return image, joints, to_image.float(), torch.tensor(index)
