"""What strangers hand in: one record in a zip as GitHub packs it, and nothing else."""

import zipfile
from pathlib import Path

import pytest

from gate.errors import RecordError
from gate.workflows.artifact import MOST_BYTES, record_of


def packed(folder: Path, how: int, content: bytes = b"{}" * 100) -> Path:
    archive = folder / "a.zip"
    with zipfile.ZipFile(archive, "w", how) as opened:
        opened.writestr("record.json", content)
    return archive


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_record_comes_out(tmp_path: Path, how: int) -> None:
    assert record_of(packed(tmp_path, how)) == b"{}" * 100


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_other_packing_is_opened(tmp_path: Path, how: int) -> None:
    archive = packed(tmp_path, how)
    with pytest.raises(RecordError, match="not packed as GitHub"):
        record_of(archive)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="over 5,000,000 bytes"):
        record_of(packed(tmp_path, zipfile.ZIP_DEFLATED, b"0" * (MOST_BYTES + 1)))


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_told(tmp_path: Path, how: int) -> None:
    archive = packed(tmp_path, how)
    raw = archive.read_bytes()
    for index in range(len(raw)):
        archive.write_bytes(raw[:index] + bytes([raw[index] ^ 0xFF]) + raw[index + 1 :])
        try:
            record_of(archive)
        except RecordError:
            continue
