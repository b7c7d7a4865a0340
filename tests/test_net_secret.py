"""Tokens: given ones, those of the environment, and the local secret in its file."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from treadle.errors import UserError
from treadle.net.secret import TOKEN_VARIABLE, local_secret, new_token, read_token, token_for


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    return tmp_path


def test_a_given_token_comes_first_then_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, " from the environment\n")
    assert token_for("10.1.2.3:8786", b"given") == b"given"
    assert token_for("10.1.2.3:8786") == b"from the environment"
    assert token_for("localhost") == b"from the environment"


def test_the_local_secret_is_made_once_and_for_its_user_alone(home: Path) -> None:
    secret = local_secret()
    path = home / ".cache" / "treadle" / "token"
    assert path.read_bytes().strip() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["token"]
    assert len(secret) == 64
    for address in ("localhost", "127.0.0.1:8786", "[::1]:8786", "127.9.9.9", "::1"):
        assert token_for(address) == secret


def test_the_folder_of_the_session_is_used_where_there_is_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "session"))
    secret = local_secret()
    assert (home / "session" / "treadle" / "token").read_bytes().strip() == secret


def test_all_who_make_it_at_once_get_the_same() -> None:
    start = threading.Barrier(8)

    def make(_: int) -> bytes:
        start.wait()
        return local_secret()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1


@pytest.mark.parametrize("address", ["0.0.0.0", "10.1.2.3:8786", "example.org:1", "[::]:8786"])
def test_other_addresses_need_a_token(address: str, home: Path) -> None:
    with pytest.raises(UserError) as caught:
        token_for(address)
    assert address in str(caught.value)
    assert "--token-file" in str(caught.value)
    assert TOKEN_VARIABLE in str(caught.value)
    assert not (home / ".cache").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_touch_is_refused(mode: int, home: Path) -> None:
    local_secret()
    path = home / ".cache" / "treadle" / "token"
    path.chmod(mode)
    with pytest.raises(UserError, match=f"mode {mode:o}.*chmod 600"):
        local_secret()


def test_token_files(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_token(path)
    path.write_bytes(b"  \n")
    path.chmod(0o600)
    with pytest.raises(UserError, match="is empty"):
        read_token(path)
    path.write_bytes(b"  secret \n")
    assert read_token(path) == read_token(str(path)) == b"secret"
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_token(tmp_path)


def test_where_no_file_can_be_made(home: Path) -> None:
    (home / ".cache").write_text("a file, where a folder should be")
    with pytest.raises(UserError, match=f"cannot be made.*{TOKEN_VARIABLE}"):
        local_secret()


def test_tokens_are_random_text() -> None:
    assert new_token() != new_token()
    assert new_token().isalnum()
