"""The record itself: what every other report is made from, and later steps read."""

import json
import math
from collections.abc import Iterator
from typing import Any

from gate import story
from gate.errors import RecordError
from gate.records import GateRecord
from gate.wording import json_text


class JsonReporter:
    """`record.json`: indented, UTF-8, one canonical text for one record."""

    key = "json"
    filename: str | None = "record.json"

    def render(self, record: GateRecord) -> str:
        """The record as JSON that parses to an equal record; each finding with its code.

        Raises:
            RecordError: a number is NaN or infinite; JSON has no such numbers.
        """
        for place in _not_finite(record.model_dump(), "record"):
            raise RecordError(
                f"{place} is NaN or infinite: JSON cannot hold it, so this record is not written"
            )
        fields = json.loads(record.model_dump_json())
        for told, case in zip(fields["verdict"]["findings"], story.cases(record), strict=True):
            told["code"] = case.code
        return json_text(fields)


REPORTER = JsonReporter()


def _not_finite(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{index}]")
