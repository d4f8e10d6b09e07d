"""node/cluster_key.py: the file, and what is derived from it."""

from __future__ import annotations

import base64
import errno
import hmac
import logging
import os
from pathlib import Path

import pytest
from edgecache.node.cluster_key import FILE_BYTES_MAX, ClusterKey, KeyExists, new_key, read_keys, retire, rotate
from edgecache.protocol.errors import InvalidValue

SECRET = bytes(range(32))
LINE = f"edgecache-key-1:{SECRET.hex()}\n"
OTHER_LINE = f"edgecache-key-1:{'11' * 32}\n"


def _hkdf_sha256(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 without a salt, for one block of output."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_a_new_key_is_one_line_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    (line,) = path.read_text().splitlines()
    assert line.startswith("edgecache-key-1:")
    assert line.isprintable()
    new_key(tmp_path / "other")
    assert read_keys(path) != read_keys(tmp_path / "other")


def test_a_key_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "key", tmp_path / "link"
    path.write_text(LINE)
    link.symlink_to(tmp_path / "elsewhere")
    for target in (path, link):
        with pytest.raises(KeyExists, match="never overwritten"):
            new_key(target)
    assert path.read_text() == LINE
    assert not (tmp_path / "elsewhere").exists()


def test_a_rotated_file_has_a_new_key_and_the_former_one_until_it_is_retired(tmp_path: Path) -> None:
    path, link = tmp_path / "key", tmp_path / "link"
    path.write_text(LINE)
    link.symlink_to(path)
    with pytest.raises(InvalidValue, match="no former one to retire"):
        retire(path)
    rotate(link)
    new, former = read_keys(path)
    assert former == ClusterKey.derived(SECRET) != new
    with pytest.raises(KeyExists, match="edgecache key retire ends that change first"):
        rotate(path)
    assert read_keys(path) == (new, former)
    retire(link)
    assert read_keys(path) == (new,)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_key_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text(LINE)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rotate(path)
    assert path.read_text() == LINE
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_derived_is_hkdf_sha256_and_stays_the_same() -> None:
    key = ClusterKey.derived(SECRET)
    assert key.ca_seed == _hkdf_sha256(SECRET, b"edgecache 1 certificate authority")
    token = base64.urlsafe_b64decode(key.token + "=")
    assert token == _hkdf_sha256(SECRET, b"edgecache 1 http bearer token")
    # Fixed, so that a node of this version and one of the next are members of one cluster.
    assert key.ca_seed.hex() == "bd37e860ccf8debafa65214d89d0971601aec2d13e60e74bb7cb791e6143dc07"
    assert key.name == _hkdf_sha256(SECRET, b"edgecache 1 key name")[:16].hex()
    assert key.token == "RhWqNq8wV13AcJc_Il_YvFROhELXgjTYNKtCCosh9fU"


def test_a_key_is_read_with_or_without_its_line_end_and_through_a_link(tmp_path: Path) -> None:
    for name, content in {"unix": LINE, "dos": LINE.replace("\n", "\r\n"), "bare": LINE.strip()}.items():
        (tmp_path / name).write_bytes(content.encode())
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
        assert read_keys(tmp_path / f"link-{name}") == (ClusterKey.derived(SECRET),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "expected one line, edgecache-key-1: and 64 hexadecimal digits"),
        (LINE[:-2].encode(), "expected one line"),
        (2 * LINE.encode(), "expected one line"),
        (LINE.encode() + OTHER_LINE.encode() + OTHER_LINE.replace("11", "22").encode(), "expected one line"),
        (LINE.upper().encode(), "expected one line"),
        (b"\xff\x00" * 40, "expected one line"),
        (LINE.replace("-1:", "-2:").encode(), "a key of format 2; format 1 is read here"),
        (bytes(FILE_BYTES_MAX + 1), f"more than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(InvalidValue, match=complaint) as refused:
        read_keys(path)
    assert str(path) in str(refused.value)
    assert SECRET.hex()[:8] not in str(refused.value)


def test_a_file_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="No such file or directory; edgecache key new FILE makes one"):
        read_keys(tmp_path / "key")
    with pytest.raises(InvalidValue, match="Is a directory"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidValue, match="not a file"):
        read_keys(tmp_path / "fifo")


def test_a_key_in_the_place_of_its_file_is_not_shown() -> None:
    with pytest.raises(InvalidValue, match="expected the name of a file") as refused:
        read_keys(Path(LINE.strip()))
    assert SECRET.hex() not in str(refused.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_key_that_others_can_read_is_complained_about(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    path.write_text(LINE)
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        read_keys(path)
    assert ("chmod 600" in caplog.text) is warned


def test_a_key_does_not_show_what_it_holds() -> None:
    key = ClusterKey.derived(SECRET)
    for shown in (repr(key), str(key)):
        assert shown == "ClusterKey()"
