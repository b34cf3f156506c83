"""The digits are real and cut once and for all; grey becomes three channels."""

import numpy as np
from sklearn.datasets import load_digits

from igkd_search import spec
from igkd_search.augment import Views
from igkd_search.datasets import load, load_test
from tests.written import NOWHERE, check_split, shares


def test_digits_are_cut_into_1437_and_360() -> None:
    data = load(spec.Data(), NOWHERE)
    images, labels = load_test(spec.Data(), NOWHERE, data.classes)
    assert data.images.shape == (1437, 3, 8, 8) and data.images.dtype == np.uint8
    assert data.labels.shape == (1437,) and data.labels.dtype == np.int64
    assert images.shape == (360, 3, 8, 8) and labels.shape == (360,)
    assert data.classes == 10 and data.image_shape == (3, 8, 8)
    assert data.views == Views(shift=1, flip=False)
    assert (len(data.fit_rows), len(data.validation_rows)) == (1150, 287)
    check_split(data)
    assert np.abs(shares(labels) - shares(data.labels)).max() < 1 / 360


def test_digits_are_sklearns_each_in_one_part() -> None:
    data = load(spec.Data(), NOWHERE)
    images, labels = load_test(spec.Data(), NOWHERE, data.classes)
    assert (data.images[:, 0] == data.images[:, 1]).all()
    assert data.images.min() == 0 and data.images.max() == 255  # 16 grey levels become 255
    digits = load_digits()
    original = {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    ours = [
        {(image[0].tobytes(), int(label)) for image, label in zip(*part, strict=True)}
        for part in [(data.images, data.labels), (images, labels)]
    ]
    assert len(original) == 1797  # no image is there twice, so a set can tell the parts apart
    assert ours[0] | ours[1] == original and not ours[0] & ours[1]


def test_the_test_part_of_digits_does_not_follow_the_studys_seed() -> None:
    one, other = spec.Data(seed=0), spec.Data(seed=1, validation=0.5, limit=100)
    assert (load_test(one, NOWHERE, 10)[0] == load_test(other, NOWHERE, 10)[0]).all()
