"""Users as settings describe them, and the hashes of their passwords."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helios.errors import InvalidInput, SettingsError
from helios.model.passwords import check_hash, hashed, matches
from helios.model.settings import Settings
from helios.model.users import Role, User, parse_users
from helios.runtime.handover import hand_over
from helios.runtime.settings import load_settings

SALT = bytes(range(16))
HASH = hashed(b"secret", SALT)
QUICK = "scrypt$2$1$1$AAECAwQFBgc=$AAECAwQFBgcICQoLDA0ODw=="


def test_a_hash_knows_its_password_and_no_other() -> None:
    assert matches(b"secret", HASH)
    assert not matches(b"Secret", HASH)
    assert not matches(b"", HASH)
    assert hashed(b"secret", bytes(16)) != HASH
    assert "secret" not in HASH
    check_hash(HASH)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "secret",
        HASH[:-10],
        HASH.replace("scrypt", "md5"),
        QUICK.replace("$2$", "$3$"),
        QUICK.replace("$2$1$", "$1048576$64$"),
        QUICK.replace("$1$1$", "$1$99$"),
        QUICK.replace("AAECAwQFBgc=", "AA=="),
        QUICK.replace("AAECAwQFBgc=", "====="),
        QUICK + "\n",
    ],
)
def test_what_is_no_hash_matches_nothing_and_is_not_repeated(stored: str) -> None:
    assert not matches(b"secret", stored)
    with pytest.raises(ValueError, match="helios hash-password") as caught:
        check_hash(stored)
    assert not stored or stored not in str(caught.value)


def test_users_are_read_by_name() -> None:
    described = {
        "zoe": {"role": "admin", "password_hash": QUICK},
        "app": {"role": "read-write", "password_hash": QUICK, "keys": ["app:*", "shared"]},
        "one": {"role": "read-only", "password_hash": QUICK, "keys": "one:*"},
        "default": {"role": "read-only"},
    }
    users = parse_users(described)
    assert users == (
        User("app", Role.READ_WRITE, QUICK, ("app:*", "shared")),
        User("default", Role.READ_ONLY),
        User("one", Role.READ_ONLY, QUICK, ("one:*",)),
        User("zoe", Role.ADMIN, QUICK),
    )
    assert parse_users(json.dumps(described)) == parse_users(users) == users
    assert QUICK not in repr(users)


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        ({"a b": {"role": "admin"}}, "cannot be: a user's name is up to 64 letters"),
        ({"a:b": {"role": "admin"}}, "cannot be: a user's name"),
        ({"a": "admin"}, "security.users.a needs role and password_hash"),
        (
            {"a": {"role": "root", "password_hash": QUICK}},
            "security.users.a.role must be one of admin, operator, metrics, read-w",
        ),
        ({"a": {"password_hash": QUICK}}, "security.users.a.role must be one of"),
        ({"a": {"role": "admin"}}, "security.users.a has no password_hash"),
        ({"a": {"role": "admin", "password_hash": "plain"}}, "security.users.a.password_hash is not a password's hash"),
        ({"a": {"role": "admin", "password": "plain"}}, "security.users.a has no 'password'"),
        (
            {"a": {"role": "admin", "password_hash": QUICK, "keys": "x*"}},
            "keys limit the roles read-write and read-only",
        ),
        ({"a": {"role": "read-only", "password_hash": QUICK, "keys": []}}, "keys holds no pattern"),
        ({"a": {"role": "read-only", "password_hash": QUICK, "keys": [1]}}, "keys must be a pattern"),
        ("{", "is not JSON"),
        (["a"], "must hold users by name"),
        (5, "must hold users by name"),
    ],
)
def test_what_is_wrong_with_a_user_is_named(described: object, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_users(described)
    assert complaint in str(caught.value)
    assert "plain" not in str(caught.value)


def user(role: Role = Role.READ_WRITE, *keys: str, password: str = QUICK) -> User:
    return User("u", role, password, keys)


@pytest.mark.parametrize(
    ("before", "after", "still"),
    [
        (user(), user(), True),
        (user(), user(password=HASH), False),
        (user(), user(Role.READ_ONLY), False),
        (user(Role.READ_ONLY), user(Role.READ_WRITE), True),
        (user(Role.READ_ONLY), user(Role.ADMIN), True),
        (user(Role.OPERATOR), user(Role.READ_WRITE), False),
        (user(Role.ADMIN), user(Role.OPERATOR), False),
        (user(), user(Role.READ_WRITE, "a*"), False),
        (user(Role.READ_WRITE, "a*"), user(), True),
        (user(Role.READ_WRITE, "a*"), user(Role.READ_WRITE, "b*", "a*"), True),
        (user(Role.READ_WRITE, "a*", "b*"), user(Role.READ_WRITE, "a*"), False),
    ],
)
def test_who_may_do_less_than_before_is_noticed(before: User, after: User, still: bool) -> None:
    assert after.still_may(before) is still


# In a settings file.


def load(text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "helios.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ or {}, {})


def test_users_stand_in_a_settings_file(tmp_path: Path) -> None:
    text = f"security:\n  users:\n    app: {{role: read-write, password_hash: {QUICK}, keys: ['app:*', b]}}\n"
    settings = load(text, tmp_path)
    assert settings.security.users == (User("app", Role.READ_WRITE, QUICK, ("app:*", "b")),)
    assert settings.is_set("security.users")
    hand_over(settings, tmp_path / "handed.json")
    assert QUICK not in (tmp_path / "handed.json").read_text()
    from_environment = json.dumps({"x": {"role": "admin", "password_hash": QUICK}})
    other = load(text, tmp_path, {"HELIOS_SECURITY__USERS": from_environment})
    assert other.security.users == (User("x", Role.ADMIN, QUICK),)


@pytest.mark.parametrize(
    ("users", "line", "complaint"),
    [
        ("    a: {role: king}", 2, "security.users.a.role must be one of"),
        ("    a: {role: admin}\n    a: {role: admin}", 4, "security.users.a is already given in line 3"),
        ("    a: &x {role: admin, keys: *x}", 3, "is nested too deeply"),
        ("    a: {role: admin, password_hash: hunter2}", 2, "security.users.a.password_hash is not a password's hash"),
    ],
)
def test_mistakes_are_named_with_their_line_and_no_secret(
    users: str, line: int, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(f"security:\n  users:\n{users}\n", tmp_path)
    assert f"helios.yaml:{line}: " in str(caught.value)
    assert complaint in str(caught.value)
    assert "hunter2" not in str(caught.value)
