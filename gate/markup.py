"""Text that a page shows as it is: one place for each language of markup."""

import re

_INVISIBLE = "&#8203;"
_ESCAPES = (
    (re.compile(r"[\\`*\[|~$]"), r"\\\g<0>"),
    (re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"), r"\\_"),
    (re.compile(r"&"), "&amp;"),
    (re.compile(r"<"), "&lt;"),
    (
        re.compile(r"[@#](?=\w)|(?i:\bgh-(?=\d))|(?i:\b(?:https?|ftp):(?=//))"),
        rf"\g<0>{_INVISIBLE}",
    ),
    (re.compile(r"(?i)\bwww(?=\.)"), rf"\g<0>{_INVISIBLE}"),
    (re.compile(r"^[-+>#=]"), r"\\\g<0>"),
    (re.compile(r"^(\d+)(?=[.)]\s)"), rf"\g<1>{_INVISIBLE}"),
)


def markdown(text: str) -> str:
    """As GitHub and MLflow show it: no markup, HTML, mention, reference or link."""
    for pattern, replacement in _ESCAPES:
        text = pattern.sub(replacement, text)
    return text
