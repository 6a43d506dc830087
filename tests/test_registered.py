"""Names and addresses of releases."""

from datetime import UTC, datetime

import pytest

from gate.registered import PINNED, Version, model_of, registered_name


def test_a_model_has_one_registered_name_and_back() -> None:
    assert registered_name("digits-cnn") == "digits-cnn-int8"
    assert model_of(registered_name("digits-cnn")) == "digits-cnn"
    assert model_of("digits-cnn") is None
    assert model_of("-int8") is None


@pytest.mark.parametrize("address", ["models:/a-int8/1", "models:/a b/120"])
def test_a_pinned_version_has_a_number(address: str) -> None:
    assert PINNED.fullmatch(address)


@pytest.mark.parametrize(
    "address", ["models:/a@production", "models:/a/0", "models:/a/x", "a/1", "runs:/1/model", ""]
)
def test_whatever_can_move_is_not_pinned(address: str) -> None:
    assert not PINNED.fullmatch(address)


def test_versions_are_numbers_written_as_text() -> None:
    found = Version("a-int8", "12", datetime.now(UTC), run="", source="")
    assert (found.number, found.uri) == (12, "models:/a-int8/12")
