"""Records with all that a report can show, hostile ones, and a page as a browser reads it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br"}
HOSTILE = {
    "script": "</script></style></title><script>alert(1)</script>",
    "quotes": "\"' onload='alert(1)' x=\"><img src=x onerror=alert(1)>",
    "emoji": "🚀" * 60,
    "long": "n" * 300,
    "newlines": "a\r\nb\n::error::c\u2028d",
    "bidi": "abc\u202egpj.exe\u2066",
    "controls": "a\x00b\x1b[31mc\x7f",
    "shell": "$(touch x) `y` ; rm -rf / && ##[error]z",
    "wide": "模型" * 150,
    "entities": "&lt;b&gt; &amp; &#8238; <b>",
}


@dataclass
class Element:
    """An element, with what is in it."""

    tag: str
    attributes: dict[str, str | None]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        """Elements below this one, in the page's order; `class_` is one of several."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and child.fits(attributes):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def fits(self, wanted: dict[str, str]) -> bool:
        for key, value in wanted.items():
            name = key.rstrip("_").replace("_", "-")
            has = self.attributes.get(name)
            if value not in (has or "").split() if name == "class" else has != value:
                return False
        return True

    def __getitem__(self, name: str) -> str:
        value = self.attributes[name]
        assert value is not None
        return value


class _Parser(HTMLParser):
    """Strict: what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def parsed(page: str) -> Element:
    """The page as a tree; fails where it is not well formed."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root], f"never closed: {[e.tag for e in parser.open]}"
    return parser.root


# ── records ───────────────────────────────────────────────────────────────────────────────


def rich(make_record: Any, kind: str = "fail", **changes: Any) -> Any:
    """A record with flips, curves, latency, a past, a diagnosis, and tables of the task."""
    fields: dict[str, Any] = {
        "flips": flips(),
        "plots": (plot(),),
        "past": past(),
        "parts": (part(),),
        "process": {"rounds": {"latency_p50": rounds()}},
    }
    if kind == "fail":
        fields["diagnosis"] = diagnosis()
    return make_record(kind, **(fields | changes))


def flips(count: int = 30, text: str = "") -> dict[str, Any]:
    shown = [
        {"id": f"{text}{change}-{i}", "change": change, "target": text or "3", "fp32": text or "3",
         "int8": text or "8"}
        for change in ("lost", "gained", "other")
        for i in range(count)
    ]  # fmt: skip
    return {"metric": "accuracy", "lost": count + 25, "gained": count, "other": count,
            "shown": shown}  # fmt: skip


def plot(text: str = "", points: int = 10) -> dict[str, Any]:
    series = [
        {"name": f"{text}{name}",
         "points": [((i + 0.5) / points, min(1.0, (i + shift) / points)) for i in range(points)]}
        for name, shift in (("FP32", 0.45), ("INT8", 0.1))
    ]  # fmt: skip
    return {"title": text or "Calibration", "x": text or "confidence", "y": text or "share right",
            "series": series, "diagonal": True}  # fmt: skip


def rounds() -> dict[str, Any]:
    return {
        "reference": [1.31 + 0.02 * (i % 3) for i in range(30)],
        "int8": [0.52 + 0.01 * (i % 5) for i in range(30)],
    }


def past(count: int = 7, text: str = "", limit: float | None = 0.01) -> list[dict[str, Any]]:
    start = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    return [
        {"when": start + timedelta(days=20 * i), "stage": "release", "version": text or str(i + 1),
         "outcome": text or ("inconclusive" if i == 3 else "pass"),
         "held_out": ("aa" if i < 2 else "ef") * 32, "reference": 0.97, "int8": 0.969 - 0.0008 * i,
         "drop": 0.001 + 0.0008 * i, "limit": limit, "drift": None if i < 2 else 0.001 * i}
        for i in range(count)
    ]  # fmt: skip


def part(text: str = "", count: int = 24) -> dict[str, Any]:
    rows = [(text or "5", text or "1", "0", str(count - i)) for i in range(count)]
    columns = (text or "class", "taken for", "FP32", "INT8")
    return {"title": text or "Newly confused", "columns": columns, "rows": rows}


def diagnosis(text: str = "") -> dict[str, Any]:
    layers = [
        {"node": text or f"conv_{i}", "op": text or "Conv", "tensor": text or f"relu_{i}",
         "readers": [], "loses": "activations", "share": 0.5 / 2**i, "own_sqnr": 3.5 + i,
         "sqnr": None,
         "cause": {"name": text or "range outlier", "detail": text or "channel 8 reaches 368.6"}}
        for i in range(5)
    ]  # fmt: skip
    return {
        "examples": 64, "split": text or "calibration", "layers": layers, "others": 2,
        "lost": text or "accuracy", "looked_at": 10,
        "slices": [{"slice": text or "target=8", "n": 100, "loss": 0.3, "rest": 0.01, "p": 0.0005}],
        "advice": {"why": text or "channels differ: bring them to like ranges",
                   "recipe": {"base": "static", "equalize": True, "exclude_nodes": [text or "a"]}},
        "problems": [text] if text else [],
    }  # fmt: skip


def hostile(make_record: Any, text: str, kind: str = "fail") -> Any:
    """`text` wherever text from outside can get."""
    record = rich(
        make_record, kind, flips=flips(5, text), plots=[plot(text)], past=past(4, text),
        parts=[part(text, 3)], diagnosis=diagnosis(text),
    )  # fmt: skip
    fields = record.model_dump(mode="json")
    fields["id"] = fields["model"] = text
    fields["candidate"] |= {"source": text, "steps": [text]}
    fields["int8"] |= {
        "source": text,
        "recipe": None,
        "skipped_nodes": [text],
        "kernels": {text: 3},
    }
    fields["splits"]["held_out"]["source"] = text
    fields["policy_source"] = {"file": text, "lines": {text: 1}}
    fields["previous"] |= {"run": text, "changes": [text] * 30}
    fields["process"]["rounds"][text] = rounds()
    fields["stopped"] = text
    fields["provenance"] |= {
        "git": text, "versions": {"onnxruntime": text, text: text}, "cpu": {"model": text},
        "plugins": {text: text},
    }  # fmt: skip
    fields["durations"][text] = 1.0
    fields["comparisons"] = [{**item, "metric": text} for item in fields["comparisons"]]
    for index, finding in enumerate(fields["verdict"]["findings"]):
        finding |= {"reason": text, "slice": f"{text}={index}"}
        finding["comparison"] |= {"slice": f"{text}={index}", "note": text}
    fields["verdict"]["findings"].append(
        {**fields["verdict"]["findings"][0], "budget": text, "comparison": None}
    )
    return type(record).model_validate(fields)
