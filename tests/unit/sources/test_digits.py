from __future__ import annotations

import numpy as np

from badexpert.sources import open_source


def test_the_digits_are_there_and_span_the_grays():
    source = open_source("sklearn:digits")
    assert len(source) == 1797
    assert source.class_names == tuple("0123456789")
    assert source.labels[:4].tolist() == [0, 1, 2, 3]
    assert source.item_id(5) == "digits#5"
    images = np.stack([item for _, item in source.read(range(1797))])
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert len(np.unique(images)) == 17
    assert (images.min(), images.max()) == (0, 255)
