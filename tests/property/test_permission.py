"""A user's rights against a slow, obvious reckoning of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.obvious import obvious_match

from helios.access.rights import Rights
from helios.model.users import Role, User

KEYS = st.text("ab:", min_size=1, max_size=4)
PATTERNS = st.text("ab:*?", min_size=1, max_size=4)
USERS = st.one_of(
    st.builds(User, st.just("u"), st.sampled_from([Role.READ_WRITE, Role.READ_ONLY]), st.just("x"), st.just(())),
    st.builds(
        User,
        st.just("u"),
        st.sampled_from([Role.READ_WRITE, Role.READ_ONLY]),
        st.just("x"),
        st.lists(PATTERNS, min_size=1, max_size=3).map(tuple),
    ),
    st.sampled_from([User("u", Role.OPERATOR, "x"), User("u", Role.ADMIN, "x")]),
)
# Each with what it does (read, write, about everything, about the cluster, nothing), K standing for a key.
FORMS = {
    "get K": "r",
    "strlen K": "r",
    "mget K K K": "r",
    "exists K K": "r",
    "set K v": "w",
    "incr K": "w",
    "mset K v K v": "w",
    "del K K": "w",
    "rename K K": "w",
    "sinterstore K K K": "w",
    "zunionstore K 2 K K": "w",
    "lmove K K left right": "w",
    "xread count 1 streams K K 0 0": "r",
    "xreadgroup group g c streams K >": "w",
    "bitop and K K K": "w",
    "object encoding K": "r",
    "watch K K": "r",
    "subscribe K K": "r",
    "publish K v": "w",
    "keys *": "r",
    "dbsize": "r",
    "eval s 1 K": "W",
    "eval_ro s 1 K": "R",
    "flushall": "W",
    "randomkey": "R",
    "listnodes": "c",
    "rebalance": "c",
    "config get *": "c",
    "ping": "-",
    "client id": "-",
    "multi": "-",
}


def obvious_may(user: User, deed: str, keys: list[str]) -> bool:
    """Whether the user may do that: the role first, then every key by every pattern."""
    if user.role is Role.ADMIN or deed == "-":
        return True
    if user.role is Role.OPERATOR or deed == "c":
        return user.role is Role.OPERATOR and deed == "c"
    if deed in "wW" and user.role is Role.READ_ONLY:
        return False
    if not user.keys:
        return True
    if deed in "RW":
        return False
    return all(any(obvious_match(pattern.encode(), key.encode()) for pattern in user.keys) for key in keys)


@given(user=USERS, form=st.sampled_from(sorted(FORMS)), data=st.data(), upper=st.booleans())
def test_the_decision_is_the_obvious_one(user: User, form: str, data: st.DataObject, upper: bool) -> None:
    keys: list[str] = []
    argv: list[bytes] = []
    for number, word in enumerate(form.split()):
        if word == "K":
            word = data.draw(KEYS)
            keys.append(word)
        elif number == 0 and upper:
            word = word.upper()
        argv.append(word.encode())
    refusal = Rights(user).refusal(argv)
    assert (refusal is None) == obvious_may(user, FORMS[form], keys), refusal
    assert refusal is None or refusal.startswith("NOPERM ")


@given(user=USERS, key=KEYS)
def test_who_takes_the_short_way_may_do_what_goes_there(user: User, key: str) -> None:
    rights = Rights(user)
    if rights.by_fast_path:
        assert rights.refusal([b"GET", key.encode()]) is None
        assert rights.refusal([b"SET", key.encode(), b"v"]) is None
    assert rights.sees(key.encode()) == (
        not user.keys or any(obvious_match(pattern.encode(), key.encode()) for pattern in user.keys)
    )
