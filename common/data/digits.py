"""Handwritten digits of scikit-learn: 1,797 images of 8x8 pixels, ten classes.

The test half of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998; CC BY 4.0).
"""

from typing import Any

import torch

from common.checks.settings import check_flag
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData

TEST_IMAGES = 512
VAL_IMAGES = 128


class Digits(ImageData):
    """Fixed stratified split: 512 test, 128 validation and 1,157 training images, classes interleaved.

    Pixel values 0 .. 16 become [0,1]. ``hold_out_validation=False`` trains on all 1,285 remaining images; validation
    then uses images that were trained on. ``loading`` holds the arguments of `ImageData`.
    """

    num_classes = 10
    shape = (1, 8, 8)
    channels = 1
    classes = tuple("0123456789")

    def __init__(self, hold_out_validation: bool = True, **loading: Any) -> None:
        super().__init__(**loading)
        self.hold_out_validation = check_flag("hold_out_validation", hold_out_validation)

    def load(self, stage: str | None = None) -> None:
        from sklearn.datasets import load_digits  # imported on use: takes a second
        from sklearn.model_selection import train_test_split

        pixels, target = load_digits(return_X_y=True)
        split = {"stratify": target, "random_state": 0}
        rest_x, test_x, rest_y, test_y = train_test_split(pixels, target, test_size=TEST_IMAGES, **split)
        train_x, val_x, train_y, val_y = train_test_split(
            rest_x, rest_y, test_size=VAL_IMAGES, stratify=rest_y, random_state=0
        )
        if not self.hold_out_validation:
            train_x, train_y = rest_x, rest_y
        self.train, self.val, self.held_out = (
            ImageDataset(torch.tensor(x, dtype=torch.float32).view(-1, *self.shape) / 16, torch.tensor(y).long())
            for x, y in ((train_x, train_y), (val_x, val_y), (test_x, test_y))
        )
