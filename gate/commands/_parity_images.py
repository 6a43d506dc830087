"""Where two ways to prepare images part: what usually explains it, tried and measured.

The policy's steps are changed one after another, and what comes nearest to the function's pixels
is kept. Nearness is the share of the function's variance that a line through the policy's pixels
leaves, channel by channel, so that neither normalisation nor order of channels hides a resize.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from gate.commands._parity_fit import Line, beyond_rounding, grey_levels, line, shifted
from gate.commands._parity_found import Cause, apart, gap_of
from gate.commands._parity_normal import Normal, differs, normal, told
from gate.errors import GateError
from gate.sources import Preprocess
from gate.values import Array

Change = Mapping[str, Any]
"""Fields of `build.preprocess` and what they become."""
_CHANNELS = (1, 3)
_AXES = 3
_FEW, _ENOUGH, _MOST = 8, 200_000, 6_000_000
"""Images, and values of the function's, on which changes are tried: some large, or all small."""
_BETTER = 0.8
_EXACT = 1e-11
_RELATED = 0.5
_CROPS = (1.0, 0.95, 0.9, 0.875)
"""Shares of the shorter side that evaluation crops, as image classifiers are published."""
_FILTERS = ("bilinear", "bicubic", "lanczos", "box", "nearest")
_FILLS = (114, 0, 127, 128, 255)


@dataclass(frozen=True, slots=True)
class Images:
    """Examples of one image input, and how to prepare them by any `build.preprocess`."""

    given: Preprocess
    made: Callable[[Preprocess, int], list[Array]]
    """What the model is fed of the first examples, an array each; raises a GateError."""
    theirs: Sequence[Array]
    """What the function feeds it."""
    drawn: bool
    """Whether the raw values are images, which can be drawn otherwise."""

    @property
    def few(self) -> int:
        """Examples that changes are tried on."""
        size = max(1, self.theirs[0].size)
        return max(1, min(len(self.theirs), max(_FEW, _ENOUGH // size), _MOST // size))

    def pixels(self, preprocess: Preprocess) -> list[Array] | None:
        """(H, W, C) before normalisation; None where these steps cannot be done."""
        if not self.drawn:
            return [_channels_last(one) for one in self._tried(Preprocess(image=self.given.image))]
        bare = {"scale": 1.0, "mean": (), "std": (), "layout": "NHWC", "to_channels_first": False}
        return self._tried(preprocess.model_copy(update=bare)) or None

    def _tried(self, preprocess: Preprocess) -> list[Array]:
        try:
            return self.made(preprocess, self.few)
        except GateError:  # a step that these images cannot take is none that the function took
            return []


def explained(
    images: Images,
) -> tuple[list[Cause], float | None, Preprocess | None]:
    """Causes, each on top of those before; what stays unexplained, 0..1; and the policy's steps
    with every change that a policy can say."""
    search = _Search(images)
    changes = search.changes()
    causes, now = _cumulative(images, changes)
    rest = search.final
    if rest is not None:
        causes += [*_turned(images, *rest), *_leftovers(*rest)]
    return causes, rest[0].unexplained if rest else None, now if changes else None


def _cumulative(
    images: Images, changes: Sequence[tuple[str, str, Change]]
) -> tuple[list[Cause], Preprocess]:
    """Every change with the differences before and after it."""
    causes, now = [], images.given
    before = _gap(images, now)
    for name, detail, change in changes:
        now = changed(now, change) or now
        after = _gap(images, now)
        causes.append(
            Cause(
                name=name,
                detail=detail,
                mean_before=before[0],
                mean_after=after[0],
                share_before=before[1],
                share_after=after[1],
            )
        )
        before = after
    return causes, now


def _gap(images: Images, preprocess: Preprocess) -> tuple[float | None, float]:
    try:
        gap = gap_of("", images.made(preprocess, len(images.theirs)), images.theirs)
    except GateError:  # a change before the one that it needs
        return None, 1.0
    return gap.mean, gap.share


def changed(preprocess: Preprocess, change: Change) -> Preprocess | None:
    """With the change, where `build.preprocess` allows it."""
    told = preprocess.model_dump(exclude_defaults=True) | dict(change)
    try:
        return Preprocess.model_validate(told)
    except ValidationError:
        return None


# ── the search ────────────────────────────────────────────────────────────────────────────


class _Search:
    """Finds changes in the order in which they can be measured, tells them in that of effect."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.now = images.given
        self.theirs: list[Array] = []
        self.final: tuple[Line, list[Array], list[Array]] | None = None
        """The last line, our pixels and theirs."""
        self._shape: list[tuple[str, str, Change]] = []
        self._geometry: list[tuple[str, str, Change]] = []

    def changes(self) -> list[tuple[str, str, Change]]:
        """Name, detail and change of each, first those that make shapes the same."""
        images = self.images
        layout = _layout_of(images.theirs[0])
        self.theirs = [_channels_last(one) for one in images.theirs[: images.few]]
        if any(one.ndim != _AXES for one in self.theirs):
            return []
        if images.drawn:
            self._try_channels()
            self._try_sizes()
            self._try_geometry()
        pixels = images.pixels(self.now)
        fitted = line(pixels, self.theirs) if pixels else None
        if pixels is None or fitted is None:
            return self._shape
        self.final = fitted, pixels, self.theirs
        rest = [*self._layout(layout), *self._order(fitted), *self._normal(fitted, pixels)]
        return [*self._shape, *rest, *self._geometry]

    def _score(self, preprocess: Preprocess | None) -> float | None:
        pixels = self.images.pixels(preprocess) if preprocess else None
        fitted = line(pixels, self.theirs) if pixels else None
        return None if fitted is None else fitted.unexplained

    def _best(self, changes: Iterator[tuple[str, Change]]) -> tuple[str, Change] | None:
        """The change that explains clearly more than none; the first of equals."""
        now = self._score(self.now)
        if now is not None and now < _EXACT:
            return None
        best, least = None, np.inf if now is None else now * _BETTER
        for detail, change in changes:
            score = self._score(changed(self.now, change))
            if score is not None and score < least:
                best, least = (detail, change), score * (1 - 1e-6)
        if best is not None:
            self.now = changed(self.now, best[1]) or self.now
        return best

    # ── shapes ──

    def _try_channels(self) -> None:
        pixels = self.images.pixels(self.now)
        if not pixels:
            return
        ours, theirs = pixels[0].shape[2], self.theirs[0].shape[2]
        if ours != theirs and theirs in _CHANNELS:
            color = "L" if theirs == 1 else "RGB"
            detail = f"the function gives {theirs}, the policy {ours}"
            # means of other channels are none of these
            change = {"color": color, "mean": (), "std": ()}
            self.now = changed(self.now, change) or self.now
            self._shape.append(("number of channels", detail, change))

    def _try_sizes(self) -> None:
        if self._score(self.now) is not None:
            return
        found = self._best(self._framings())
        if found is not None:
            self._shape.append(("size", found[0], found[1]))

    def _framings(self) -> Iterator[tuple[str, Change]]:
        """Ways to bring images to the function's size."""
        none: Change = {"resize": None, "crop": None, "letterbox": None}
        yield "the function does not resize or crop", none
        sizes = {one.shape[:2] for one in self.theirs}
        if len(sizes) != 1:
            return
        (size,) = sizes
        how = _resampling(self.now)
        high, wide = size
        yield (
            f"the function resizes to {high}×{wide} whatever the proportions",
            {**none, "resize": {"size": size, **how}},
        )
        yield f"the function crops to {high}×{wide}", {**none, "crop": size}
        yield (
            f"the function crops to {high}×{wide} after the policy's resize",
            {"crop": size, "letterbox": None},
        )
        for share in _CROPS:
            short = round(min(size) / share)
            yield (
                f"the function resizes the shorter side to {short} and crops {high}×{wide}",
                {**none, "resize": {"shortest": short, **how}, "crop": size},
            )
        for align in ("center", "top_left"):
            yield (
                f"the function letterboxes to {high}×{wide}, {align}",
                {**none, "letterbox": {"size": size, "align": align, **how}},
            )

    # ── what happens within a size ──

    def _try_geometry(self) -> None:
        for name, changes in (
            ("framing", self._framings),
            ("resampling", self._filters),
            ("bars", self._bars),
        ):
            found = self._best(changes())
            if found is not None:
                self._geometry.append((name, *found))

    def _filters(self) -> Iterator[tuple[str, Change]]:
        was = _named(_resampling(self.now))
        for key in ("resize", "letterbox"):
            step = getattr(self.now, key)
            if step is None:
                continue
            for interpolation in _FILTERS:
                for antialias in (True, False) if interpolation == "bilinear" else (True,):
                    how = {"interpolation": interpolation, "antialias": antialias}
                    change = step.model_dump(exclude_defaults=True) | how
                    yield f"the function's is {_named(how)}, the policy's {was}", {key: change}

    def _bars(self) -> Iterator[tuple[str, Change]]:
        step = self.now.letterbox
        if step is None:
            return
        for align in ("center", "top_left"):
            for fill in _FILLS:
                change = step.model_dump(exclude_defaults=True) | {"align": align, "fill": fill}
                yield (
                    f"the function's bars are {fill}, {align}; the policy's {step.fill}, "
                    f"{step.align}",
                    {"letterbox": change},
                )

    # ── what lines tell ──

    def _layout(self, theirs: str | None) -> Iterator[tuple[str, str, Change]]:
        ours = _layout_of(self.images.made(self.images.given, 1)[0])
        if theirs is None or ours is None or theirs == ours:
            return
        detail = f"the function gives {theirs}, the policy {ours}"
        yield "layout", detail, {"layout": theirs, "to_channels_first": False}

    def _order(self, fitted: Line) -> Iterator[tuple[str, str, Change]]:
        if not self.images.drawn or not fitted.reversed or fitted.unexplained > _RELATED:
            return
        ours = self.now.color or "RGB"
        theirs = "RGB" if ours == "BGR" else "BGR"
        yield "channel order", f"the function's is {theirs}, the policy's {ours}", {"color": theirs}

    def _normal(self, fitted: Line, pixels: Sequence[Array]) -> Iterator[tuple[str, str, Change]]:
        if fitted.reversed and not self.images.drawn:  # no policy turns channels of plain arrays
            return
        given = Normal.of(self.now, len(fitted.a))
        if fitted.unexplained > _RELATED or not differs(fitted, given, pixels, self.theirs):
            return
        found = normal(fitted, self.now, pixels, self.theirs)
        yield "normalisation", told(fitted, given, self.now), found


# ── what no policy says ───────────────────────────────────────────────────────────────────


def _turned(
    images: Images, fitted: Line, pixels: Sequence[Array], theirs: Sequence[Array]
) -> Iterator[Cause]:
    """Channels of arrays that are no images to the policy, in reverse."""
    if images.drawn or not fitted.reversed or fitted.unexplained > _RELATED:
        return
    straight = line([x[..., :1] for x in pixels], [y[..., :1] for y in theirs])
    assert straight is not None
    yield _cause(
        "channel order",
        "the function's channels are the policy's in reverse: turn them in the data",
        _off(straight, [x[..., :1] for x in pixels], [y[..., :1] for y in theirs]),
        _off(fitted, pixels, theirs),
    )


def _leftovers(fitted: Line, pixels: Sequence[Array], theirs: Sequence[Array]) -> Iterator[Cause]:
    """A crop that is moved, and differences of a grey level."""
    if fitted.unexplained > _EXACT:
        moved = shifted(pixels, theirs)
        if moved is not None and moved[1].unexplained < _RELATED * fitted.unexplained:
            (down, right), better, ours, parts = moved
            yield _cause(
                "shift",
                f"the function's image is moved by {down} pixels down and {right} to the right",
                _off(fitted, pixels, theirs),
                _off(better, ours, parts),
            )
            fitted, pixels, theirs = better, ours, parts
    levels = grey_levels(fitted, pixels, theirs)
    if levels is None or fitted.unexplained < _EXACT or not levels.size:
        return
    beyond = beyond_rounding(levels)
    if beyond.mean() < 1 - _RELATED:
        within = _off(fitted, pixels, theirs)
        mean = within[0] * float(beyond.mean())
        detail = (
            f"{100 * float(1 - beyond.mean()):.4g} % of the values are within one grey level: "
            "another decoder, resampler or order of rounding; `after` counts those beyond it"
        )
        yield _cause("rounding", detail, within, (mean, float(beyond.mean())))


def _off(fitted: Line, pixels: Sequence[Array], theirs: Sequence[Array]) -> tuple[float, float]:
    """Mean difference to what the line gives, and the share of values that differ."""
    pairs = [(fitted.of(x), y.astype(np.float64)) for x, y in zip(pixels, theirs, strict=True)]
    mean = float(np.mean([np.abs(x - y).mean() for x, y in pairs]))
    return mean, float(np.mean([apart(x, y).mean() for x, y in pairs]))


def _cause(
    name: str, detail: str, before: tuple[float, float], after: tuple[float, float]
) -> Cause:
    return Cause(
        name=name,
        detail=detail,
        mean_before=before[0],
        mean_after=after[0],
        share_before=before[1],
        share_after=after[1],
    )


# ── axes and names ────────────────────────────────────────────────────────────────────────


def _layout_of(image: Array) -> str | None:
    """By which end has as many values as colours; None where both or neither have."""
    if image.ndim != _AXES:
        return None
    first, last = image.shape[0] in _CHANNELS, image.shape[2] in _CHANNELS
    return None if first == last else "NCHW" if first else "NHWC"


def _channels_last(values: Array) -> Array:
    """(H, W, C) of an image; of other arrays all axes in one, and one channel."""
    if values.ndim == _AXES and _layout_of(values) == "NCHW":
        return np.moveaxis(values, 0, -1)
    if values.ndim == _AXES and values.shape[2] in _CHANNELS:
        return values
    if values.ndim == _AXES - 1:
        return values[..., None]
    return values.reshape(-1, 1, 1)


def _resampling(preprocess: Preprocess) -> dict[str, Any]:
    """How the policy resizes, or would by default."""
    step = preprocess.resize or preprocess.letterbox
    if step is None:
        return {}
    return step.model_dump(include={"interpolation", "antialias"}, exclude_defaults=True)


def _named(how: Mapping[str, Any]) -> str:
    sharp = "" if how.get("antialias", True) else " without antialiasing"
    return f"{how.get('interpolation', 'bilinear')}{sharp}"
