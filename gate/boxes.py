"""How pictures and their boxes stand in rows: the columns of a detection target.

An entry is one picture. Its first row tells the picture itself: class `IMAGE`, and a box that is
all of it. Every other row is one true box ::

    class  x1  y1  x2  y2  area  crowd

Coordinates are pixels of the original picture, x2 and y2 exclusive; `area` is the object's own in
square pixels, by which COCO tells small from large; `crowd` is 1 where a box holds many objects.
"""

CLASS, X1, Y1, X2, Y2, AREA, CROWD = range(7)
BOX = slice(X1, Y2 + 1)
WIDTH = 7
"""Columns of a row."""
IMAGE = -1
"""The class of the row that tells the picture itself."""


def image_row(width: float, height: float) -> tuple[float, ...]:
    """The first row of a picture's entry, `width` and `height` in pixels."""
    return (float(IMAGE), 0.0, 0.0, float(width), float(height), float(width * height), 0.0)
