"""What a rebase came to, as plain text or as JSON."""

from collections.abc import Iterator

from gate.commands.rebase import Rebased
from gate.registered import Bridged, registered_name
from gate.wording import json_text, metric_name, metric_value, short, unit_of, whole


def render(found: Rebased, format_: str) -> str:
    """All of it; `format_` is text or json."""
    if format_ == "json":
        told = {"run": found.run, "unchecked": found.unchecked}
        document = found.bridge.model_dump(mode="json") | told
        return json_text(document)
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Rebased) -> Iterator[str]:
    bridge = found.bridge
    yield (
        f"{bridge.model}: held-out set {short(bridge.before)} -> {short(bridge.after)}, "
        f"{whole(found.examples)} examples; kept as run {found.run}"
    )
    for release in bridge.releases:
        yield ""
        yield (
            f"{' and '.join(release.roles)}: models:/{registered_name(bridge.model)}/"
            f"{release.version} (INT8 {short(release.int8_sha256)})"
        )
        yield from _values(release)
    yield ""
    for what in found.unchecked:
        yield f"NOT CHECKED: whether {what} hold any of the new examples: they are not here."
    yield "From here on releases are held against these on the new set. Put it into the policy:"
    yield f"  judge: {{held_out: {{path: …, sha256: {bridge.after}}}}}"


def _values(release: Bridged) -> Iterator[str]:
    """INT8's value on the old set and on the new one."""
    names = [*release.after]
    width = max(len(metric_name(name)) for name in names) if names else 0
    for name in names:
        old, new = (
            metric_value(values.get(name), unit_of(name))
            for values in (release.before, release.after)
        )
        yield f"  {metric_name(name):<{width}}  {old} -> {new}"
