"""Text as pictures, in matplotlib's DejaVu fonts: the labels are exact."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from real.gating import package

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
)


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    folder: Path = package("matplotlib") / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), size)


def line(text: str, rng: np.random.Generator, height: int = 48, width: int = 192) -> np.ndarray:
    """(3, height, width) of float32 in −1..1: dark letters on a light ground, or the reverse."""
    chosen = font(str(rng.choice(FONTS)), int(rng.integers(height * 5 // 10, height * 8 // 10)))
    left, top, right, bottom = chosen.getbbox(text)
    margin = int(rng.integers(2, 8))
    size = (right - left + 2 * margin, bottom - top + 2 * margin)
    dark, light = rng.integers(0, 80, 3), rng.integers(170, 256, 3)
    ground, ink = (light, dark) if rng.random() < 0.8 else (dark, light)
    picture = Image.new("RGB", size, tuple(map(int, ground)))
    at = (margin - left, margin - top)
    ImageDraw.Draw(picture).text(at, text, font=chosen, fill=tuple(map(int, ink)))
    scaled = min(width, max(1, round(height * size[0] / size[1])))
    pixels = np.asarray(picture.resize((scaled, height), Image.Resampling.BILINEAR), np.float32)
    noisy = pixels + rng.normal(0, rng.uniform(0, 12), pixels.shape)
    values = (np.clip(noisy, 0, 255) / 127.5 - 1).astype(np.float32).transpose(2, 0, 1)
    padded = np.zeros((3, height, width), np.float32)
    padded[:, :, :scaled] = values
    return padded
