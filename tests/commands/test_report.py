"""Records are read back strictly, and shown where they belong."""

import json

import pytest

from gate import reporters
from gate.commands import report
from gate.errors import PolicyError, RecordError, TrackerError, UsageError


@pytest.fixture
def folder(tmp_path, make_record):
    (tmp_path / "record.json").write_text(report.render(make_record("fail"), "json"))
    return tmp_path


def changed(folder, **fields):
    """The record in `folder`, with top-level fields replaced."""
    file = folder / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return file


def test_reads_a_file_or_its_folder(folder, make_record):
    assert report.load_record(folder) == make_record("fail")
    assert report.load_record(folder / "record.json") == make_record("fail")


def test_missing_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist: name a record"):
        report.load_record(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no record\.json: .* did not finish"):
        report.load_record(tmp_path)


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_truncated(folder, share):
    file = folder / "record.json"
    text = file.read_text()
    file.write_text(text[: int(len(text.rstrip()) * share)])
    with pytest.raises(
        RecordError, match=r"record\.json:\d+:\d+: not complete JSON .* interrupted"
    ):
        report.load_record(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "it holds a JSON list"),
        (b"null", "it holds a JSON NoneType"),
        (b"{}", "no whole number as `schema_version`"),
        (b'{"schema_version": true}', "no whole number as `schema_version`"),
        (b'{"schema_version": "1"}', "no whole number as `schema_version`"),
        (b'{"schema_version": 2}', "it is newer. Upgrade"),
        (b'{"schema_version": 0}', "it is older. Run the gate again"),
        (b'{"schema_version": 1, "alpha": NaN}', "it holds NaN"),
        (b'{"schema_version": 1, "alpha": -Infinity}', "it holds -Infinity"),
        (b'{"schema_version": 1, "alpha": 1e999}', "it holds 1e999"),
        (b'{"schema_version": 1, "a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        (b'{"schema_version": ' + b"[" * 200_000, "damaged"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "damaged"),
        (b'{"schema_version": 1}', r"does not fit the record's schema: id: .*; and \d+ more"),
    ],
)
def test_damaged(tmp_path, content, message):
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(RecordError, match=message):
        report.load_record(file)


def test_unknown_and_missing_fields_are_named(folder):
    with pytest.raises(RecordError, match=r"schema: signature: Extra inputs .* fetch it again"):
        report.load_record(changed(folder, signature="x"))


def test_a_wrong_value_is_named(folder):
    with pytest.raises(RecordError, match=r"verdict\.outcome: Input should be 'pass'"):
        report.load_record(changed(folder, verdict={"outcome": "ok", "findings": []}))


def test_render_in_every_format(make_record):
    record = make_record()
    for key in reporters.names():
        assert report.render(record, key) == reporters.get(key).render(record)
    with pytest.raises(UsageError, match="unknown reporter 'txt'; did you mean 'text'"):
        report.render(record, "txt")


# ── showing ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_actions(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


def test_shows_text_by_default(no_actions, make_record, capsys):
    report.show([make_record("fail")], [])
    out, err = capsys.readouterr()
    assert out == reporters.get("text").render(make_record("fail"))
    assert err == ""


def test_several_end_with_one_table(no_actions, make_record, capsys):
    problem = ("policies/x.yaml", PolicyError("unknown metric"))
    report.show([make_record(), make_record("fail")], [], [problem])
    out = capsys.readouterr().out
    assert out.startswith("PASS  digits-cnn")
    assert "\nFAIL  digits-cnn" in out
    table = out.split("\nModel ")[1].splitlines()
    assert len(table) >= 4
    assert table[-1].startswith("policies/x.yaml  ERROR")


def test_chosen_formats_come_in_their_order(no_actions, make_record, capsys):
    report.show([make_record()], ["json", "markdown"])
    out = capsys.readouterr().out
    assert out.startswith("{\n")
    assert out.index("}\n## PASS: digits-cnn") > 0


def test_an_unknown_format_is_a_usage_error(no_actions, make_record):
    with pytest.raises(UsageError, match="unknown reporter"):
        report.show([make_record()], ["pdf"])


def test_actions_get_annotations_summary_and_outputs(make_record, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    report.show([make_record("fail")], [], [("p.yaml", PolicyError("bad"))])
    out = capsys.readouterr().out
    assert out.startswith("FAIL  digits-cnn")
    assert "\n::error file=policies/digits.yaml,line=17,title=FAIL digits-cnn::" in out
    assert "::error title=gate could not judge (exit 2)::bad\n" in out
    assert "## FAIL: digits-cnn" in (tmp_path / "summary").read_text()
    assert "exit-code" in (tmp_path / "output").read_text()


class Narrow:
    """Standard output that only knows ASCII."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text.encode("ascii").decode()
        return len(text)

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        pass


def test_a_poor_encoding_loses_signs_and_not_the_report(no_actions, make_record, monkeypatch):
    stream = Narrow()
    monkeypatch.setattr("sys.stdout", stream)
    report.show([make_record("fail")], [])
    assert "- accuracy, drop ? 1.00 pp: drop 5.50 pp" in stream.text


# ── sending ───────────────────────────────────────────────────────────────────────────────


class Keeper:
    """A tracker that remembers what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.logged = error, []

    def prepare(self) -> None:
        pass

    def log(self, record, folder) -> str:
        if self.error:
            raise self.error
        self.logged.append((record, folder))
        return "run-7"

    def where(self) -> str:
        return "the store"


def test_send(folder, make_record, monkeypatch):
    keeper = Keeper()
    monkeypatch.setattr("gate.trackers.get", lambda key: keeper)
    told = report.send(folder / "record.json", "mlflow")
    assert keeper.logged == [(make_record("fail"), folder)]
    assert make_record("fail").id in told
    assert "run-7" in told
    assert "the store" in told


def test_send_that_fails_says_how_to_try_again(folder, monkeypatch):
    monkeypatch.setattr("gate.trackers.get", lambda key: Keeper(TrackerError("refused")))
    with pytest.raises(TrackerError, match=r"refused\n.*gate report --track"):
        report.send(folder, "mlflow")
