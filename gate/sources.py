"""What a policy says of data: where they lie, what happens to them, how outputs are read."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Frozen, and nothing that it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,
    )


class DataSource(Strict):
    """Where a split lies."""

    path: str
    """A local path, relative to the policy file, or a URI (s3://, gs://, https://, file:///), which
    ends in `/` where it is a folder's."""
    format: str | None = None
    """A key of `gate.formats`, where the file's name does not tell."""
    limit: int | None = Field(default=None, gt=0)
    """Take a sample of this many examples, drawn with `judge.seed`; never the first ones."""
    sha256: Sha256 | None = None
    """Pin: the sha256 of a file that holds all, or the content digest of all examples (the
    record's, without `limit` and with nothing missing), which covers a folder or the images that
    a file names."""
    images: str | None = None
    """The folder that a `coco` or `jsonl` file's images lie in, relative to the policy file, or its
    URI, which ends in `/`; by default that of the file."""
    may_miss: Annotated[int, Field(ge=0)] = 0
    """How many images may be left out because they do not decode; the record tells how many
    were."""


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Pixels = Annotated[int, Field(gt=0, le=16384)]
Size = tuple[Pixels, Pixels]
"""(height, width)."""
_ALONE = ("nearest", "bilinear")
_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class Resampling(Strict):
    """By which formula pixels of another size come about."""

    interpolation: Interpolation = "bilinear"
    """Pillow's filter of that name."""
    antialias: bool = True
    """Average over all pixels that a smaller one covers, as Pillow does. `false`, for `bilinear`,
    weighs the four nearest alone and rounds, as OpenCV and `torch.nn.functional.interpolate` do;
    `nearest` never averages."""

    @model_validator(mode="after")
    def _check_antialias(self) -> Self:
        if not self.antialias and self.interpolation not in _ALONE:
            raise ValueError(
                f"`antialias: false` is exact for {' and '.join(_ALONE)} only, and Pillow always "
                f"antialiases {self.interpolation!r}; choose one of them, or leave `antialias` out"
            )
        return self


class Resize(Resampling):
    """Brings images to another size; one of `size`, `shortest` and `longest`."""

    size: Size | None = None
    """[height, width], whatever that does to the proportions."""
    shortest: Pixels | None = None
    """The shorter side's length; the other keeps the proportions, rounded down as torchvision
    does."""
    longest: Pixels | None = None
    """The longer side's length; the other keeps the proportions, rounded down."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        given = [name for name in ("size", "shortest", "longest") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "give one of `size: [height, width]`, `shortest` and `longest`; "
                f"found {' and '.join(given) or 'none'}"
            )
        return self


class Letterbox(Resampling):
    """Brings images to one size in their own proportions, with bars where they leave room.

    The scale is the largest at which the image fits; its sides are rounded to the nearest pixel.
    """

    size: Size
    """[height, width]."""
    fill: Annotated[int, Field(ge=0, le=255)] = 114
    """What bars hold, in every channel, before `scale`."""
    align: Literal["center", "top_left"] = "center"
    """Where the image lies; an odd pixel goes to the right and to the bottom."""


class Tokenizer(Strict):
    """Turns text into token ids and masks, under the usual names of a language model's inputs."""

    file: str | None = None
    """A `tokenizer.json` of the `tokenizers` library, relative to the policy; by default the one
    that the candidate brings."""
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
    """The column of texts, or the two of pairs."""
    max_length: Annotated[int, Field(gt=0)]
    """Tokens, special ones included; longer texts are cut off, and counted."""
    padding: Literal["max_length", "longest"] = "max_length"
    """To `max_length`, or to a batch's longest text: faster, and other batches, other shapes."""
    allow_empty: bool = False
    """Whether texts may be empty."""
    sha256: Sha256 | None = None
    """Of the file: what it is when the policy is read, unless written."""
    _own: Path | None = PrivateAttr(default=None)

    @property
    def own(self) -> Path | None:
        """The candidate's own file, where a run reads that; a document does not tell where."""
        return self._own

    def with_own(self, file: Path, sha256: str) -> Self:
        """The same, reading the candidate's own file; a pin that is written stays."""
        found = self.model_copy(update={"sha256": self.sha256 or sha256})
        found._own = file
        return found


class Graph(Strict):
    """An ONNX file that runs before the model or after it, in floating point, for both models."""

    file: str
    """Relative to the policy; its weights lie in it, and its operators are standard ones."""
    sha256: Sha256 | None = None
    """Of the file: what it is when the policy is read, unless written."""


def _full_graph(value: Any) -> Any:
    """A file's name alone is how it is written."""
    return {"file": value} if isinstance(value, str) else value


GraphFile = Annotated[Graph, BeforeValidator(_full_graph)]


class Preprocess(Strict):
    """What happens to a raw value before it enters the model.

    The order is fixed: decode, colour, resize, crop, letterbox, then
    `(value * scale - mean) / std` in float32, then the layout. Images are encoded (a column of
    files' bytes) or arrays (N, H, W, C) of uint8.
    """

    image: str | None = None
    """The column of images; by default the one named as the model's only input, else the only one
    that holds encoded images."""
    color: Literal["RGB", "BGR", "L"] | None = None
    """Order of the channels; `L` is one of grey (ITU-R 601-2 luma). Encoded images are `RGB` by
    default, an alpha channel dropped, and always turned as their EXIF orientation says. Arrays
    are taken as RGB or grey, and stay as they are by default."""
    resize: Resize | None = None
    """Another size."""
    crop: Size | None = None
    """[height, width] of the middle; a larger one than the image is an error."""
    letterbox: Letterbox | None = None
    """One size with bars."""
    tokenizer: Tokenizer | None = None
    """For text, and then nothing else but a graph."""
    graph: GraphFile | None = None
    """An ONNX file that makes the model's inputs, under their names, of what all other fields make
    of the columns named as its own inputs; without other fields, of the columns as they are."""
    scale: float = 1.0
    """Multiplies; 0.00392156862745098 brings bytes to 0..1."""
    mean: tuple[float, ...] = ()
    """Subtracted, one value or one per channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Divides, one value or one per channel."""
    to_channels_first: bool = False
    """Turn (N, H, W, C) data into (N, C, H, W)."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Axes of what enters the model. Encoded images are `NCHW` by default; arrays (N, H, W, C) stay
    as they are."""

    @property
    def before_graph(self) -> "Preprocess | None":
        """All but the graph; None where that is nothing."""
        rest = self.model_copy(update={"graph": None})
        return None if rest == Preprocess() else rest

    @property
    def draws(self) -> bool:
        """Whether it changes pixels, which only images have."""
        return any((self.color, self.resize, self.crop, self.letterbox))

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        others = self.model_dump(exclude={"tokenizer", "graph"}, exclude_defaults=True)
        if self.tokenizer and others:
            raise ValueError(
                f"`tokenizer` is of text, and `{next(iter(others))}` is not: remove one"
            )
        if self.resize and self.letterbox:
            raise ValueError("`letterbox` resizes by itself; remove `resize` or `letterbox`")
        if self.to_channels_first and self.layout == "NHWC":
            raise ValueError("`to_channels_first` makes NCHW; remove it, or `layout: NHWC`")
        self._check_crop()
        self._check_channels()
        return self

    def _check_crop(self) -> None:
        if not (self.crop and self.resize):
            return
        most = self.resize.size or (self.resize.longest,) * 2
        least = self.resize.shortest
        if least and min(self.crop) > least:
            raise ValueError(
                f"`crop: {list(self.crop)}` is larger than images of which the shorter side is "
                f"{least}; crop less, or resize to more"
            )
        if any(size is not None and cut > size for cut, size in zip(self.crop, most, strict=True)):
            raise ValueError(
                f"`crop: {list(self.crop)}` is larger than `resize` makes the images; crop less, "
                "or resize to more"
            )

    def _check_channels(self) -> None:
        channels = _CHANNELS.get(self.color or "")
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if channels and count not in (0, 1, channels):
                raise ValueError(
                    f"`{name}` has {count} values, and `color: {self.color}` {channels} channels; "
                    "give one value, or one for each channel"
                )


class Decode(Strict):
    """How outputs become predictions."""

    name: str = Field(alias="as")
    """A decoder of the task: `logits` or `probabilities` for classification."""
    output: str | None = None
    """The model output to read, where there are several."""
    graph: GraphFile | None = None
    """An ONNX file between the model and the decoder: it reads outputs of the model by their names,
    and the decoder reads what it gives."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """Role to model output, for decoders that read several: `{start: NAME, end: NAME}`."""
    score: float = Field(default=0.001, ge=0, lt=1)
    """Detection: the least score of a box that is kept; mAP wants nearly all of them."""
    iou: float = Field(default=0.65, gt=0, le=1)
    """Detection: of two boxes of a class that overlap by more than this the weaker one goes."""
    most: int = Field(default=300, ge=1, le=10_000)
    """Detection: boxes kept of an image, the highest scores first."""
    strides: tuple[Pixels, ...] = ()
    """Detection: input pixels from one cell of a grid to the next, a grid each."""
    size: Size | None = None
    """Detection: [height, width] of the model's input; by default what `preprocess` makes."""
    boxes: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """Detection: what four numbers of a box are: corners, corner and size, centre and size."""
    peaks: bool = True
    """Detection, `centernet`: only the highest of 3 × 3 cells counts; `false` takes all cells, and
    leaves it to `iou` which boxes stay."""
    normalized: bool = False
    """Detection: boxes are shares of the model's input, 0..1, and not pixels."""
    flip_score: float = Field(default=0.25, ge=0, lt=1)
    """Detection: the least score at which a box that is lost or gained counts as a flip."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @model_serializer(mode="wrap")
    def _as_said(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what one decoder alone reads and is left as it is by default.

        A record then says what the policy does, and its hash does not change with each new field.
        """
        of_all = {"name", "as", "output"}
        changed = {
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.get_default(call_default_factory=True)
        }
        return {name: value for name, value in whole(self).items() if name in of_all | changed}
