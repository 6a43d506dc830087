"""What `gate tasks` lists."""

import pytest

from gate import tasks
from gate.cli import exit_code_of


def test_every_task_is_listed_with_its_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["tasks"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in listed[: len(tasks.names())]} == {*tasks.names()}
    assert any(line.startswith("detection ") and "yolox" in line for line in listed)


@pytest.mark.parametrize("key", tasks.names())
def test_every_metric_is_listed_with_what_it_declares(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert exit_code_of(["tasks", key]) == 0
    text = capsys.readouterr().out
    assert f"independent by {tasks.get(key).unit}" in text
    for name, traits in tasks.get(key).known.items():
        (line,) = (one for one in text.splitlines() if one.split()[:1] == [name])
        better = "higher" if traits.higher_is_better else "lower"
        assert f"{better} is better" in line
        assert f"undefined {traits.undefined}" in line
        assert ("no labels" in line) is traits.relative


def test_an_unknown_task_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["tasks", "detecton"]) == 2
    assert "did you mean 'detection'" in capsys.readouterr().err
