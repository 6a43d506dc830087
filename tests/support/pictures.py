"""Small images for tests, made by Pillow."""

import io

import numpy as np
from PIL import Image


def pixels(width, height, channels=3, seed=0):
    """(H, W, C) of random uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, kind="PNG", mode=None, **options):
    """The bytes of a file with these pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()
