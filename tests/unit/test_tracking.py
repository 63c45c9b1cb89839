"""What clients that cache have asked for, what they have read, and who is told of a change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.errors import InvalidInput
from helios.router.frontend.tracking import MAX_PREFIXES, OwnWrites, Tracking, Wish
from helios.router.tracking.interests import Interests
from helios.router.tracking.prefixes import Prefixes

KEYS = (b"a", b"ab", b"abc", b"b", b"", b"\xff")
keys = st.sampled_from(KEYS)
clients = st.integers(1, 4)


@given(st.lists(st.tuples(st.sampled_from(["note", "take", "take from", "clear"]), keys, clients), max_size=40))
def test_interests_agree_with_a_set_of_pairs(script: list[tuple[str, bytes, int]]) -> None:
    interests = Interests(1 << 20)
    there: set[tuple[bytes, int]] = set()
    for step, key, client in script:
        if step == "note":
            interests.note(key, client)
            there.add((key, client))
        elif step == "take":
            assert set(interests.take(key)) == {who for what, who in there if what == key}
            there = {pair for pair in there if pair[0] != key}
        elif step == "take from":
            assert interests.take_from(key, client) is ((key, client) in there)
            there.discard((key, client))
        else:
            interests.clear()
            there = set()
        assert (key in interests) is (key in {key for key, _ in there})
        assert (len(interests), interests.items) == (len({key for key, _ in there}), len(there))
    for key in KEYS:
        assert set(interests.take(key)) == {who for what, who in there if what == key}


@given(st.lists(st.tuples(st.binary(max_size=9), clients), max_size=60))
def test_who_does_not_fit_is_told_and_forgotten_the_oldest_first(reads: list[tuple[bytes, int]]) -> None:
    interests = Interests(5 * 400)
    untold: dict[bytes, set[int]] = {}
    for key, client in reads:
        interests.note(key, client)
        untold.setdefault(key, set()).add(client)
        for old, told in interests.surplus():
            assert old == next(iter(untold))
            assert set(told) == untold.pop(old)
    assert len(interests) <= 5
    assert {key: set(interests.take(key)) for key in untold} == untold
    interests.note(b"x", 1)
    assert not list(interests.surplus()), "what is taken away leaves room"


@given(st.lists(st.tuples(st.booleans(), clients, st.lists(keys, max_size=3)), max_size=30), st.lists(keys))
def test_prefixes_agree_with_a_list(script: list[tuple[bool, int, list[bytes]]], changed: list[bytes]) -> None:
    prefixes = Prefixes()
    there: set[tuple[int, bytes]] = set()
    for add, client, wanted in script:
        if add:
            prefixes.add(client, wanted)
            there |= {(client, prefix) for prefix in wanted}
        else:
            prefixes.remove(client, wanted)
            there -= {(client, prefix) for prefix in wanted}
    known = {prefix for _, prefix in there}
    assert len(prefixes) == len(known)
    for prefix in KEYS:
        assert set(prefixes.clients(prefix)) == {client for client, each in there if each == prefix}
    hit = {prefix: [key for key in changed if key.startswith(prefix)] for prefix in known}
    assert prefixes.sort(changed) == {prefix: found for prefix, found in hit.items() if found}


def test_options_are_understood_in_any_case_and_order() -> None:
    words = b"bcast PREFIX a: noLoop prefix b: redirect 7".split()
    assert Wish.parse(words) == Wish(redirect=7, bcast=True, noloop=True, prefixes=(b"a:", b"b:"))
    assert Wish.parse([]) == Wish()


@pytest.mark.parametrize(
    ("words", "before", "error"),
    [
        (b"OPTIN OPTOUT", None, "both OPTIN mode and OPTOUT"),
        (b"OPTIN BCAST", None, "not compatible with BCAST"),
        (b"PREFIX a", None, "PREFIX option requires BCAST"),
        (b"REDIRECT", None, "syntax error"),
        (b"REDIRECT x", None, "not an integer"),
        (b"REDIRECT 1 REDIRECT 2", None, "single other client"),
        (b"WHATEVER", None, "syntax error"),
        (b"BCAST", Wish(), "can't switch BCAST"),
        (b"", Wish(bcast=True), "can't switch BCAST"),
        (b"OPTIN", Wish(optout=True), "can't switch OPTIN/OPTOUT"),
        (b"BCAST PREFIX fo PREFIX foo", None, "Prefix 'fo' overlaps with another provided prefix 'foo'"),
        (b"BCAST PREFIX foo", Wish(bcast=True, prefixes=(b"fo",)), "Prefix 'foo' overlaps with an existing prefix"),
        (b"BCAST" + b" PREFIX x" * (MAX_PREFIXES + 1), None, f"may have {MAX_PREFIXES} prefixes"),
    ],
)
def test_what_cannot_be_is_refused_in_a_servers_words(words: bytes, before: Wish | None, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        Wish.parse(words.split()).after(before)


def test_prefixes_add_up() -> None:
    first = Wish.parse(b"BCAST PREFIX a: PREFIX b:".split()).after(None)
    assert Wish.parse(b"BCAST PREFIX c:".split()).after(first).prefixes == (b"a:", b"b:", b"c:")
    assert Wish.parse([b"BCAST"]).after(None).prefixes == (b"",), "without a prefix it is every key"
    many = Wish(bcast=True, prefixes=tuple(b"%03d" % i for i in range(MAX_PREFIXES)))
    with pytest.raises(InvalidInput, match="prefixes"):
        Wish(bcast=True, prefixes=(b"x",)).after(many)


@pytest.mark.parametrize(
    ("wish", "caching", "remembers"),
    [
        (Wish(), False, True),
        (Wish(optin=True), False, False),
        (Wish(optin=True), True, True),
        (Wish(optout=True), False, True),
        (Wish(optout=True), True, False),
        (Wish(bcast=True), False, False),
    ],
)
def test_what_is_read_counts_as_cached_as_was_agreed(wish: Wish, caching: bool, remembers: bool) -> None:
    tracking = Tracking(wish)
    tracking.caching = caching
    assert tracking.remembers is remembers


@given(st.lists(st.tuples(st.sampled_from(["sent", "heard", "changed", "unchanged"]), st.sampled_from((b"a", b"b")))))
def test_no_change_of_another_is_hidden_by_own_ones(script: list[tuple[str, bytes]]) -> None:
    own = OwnWrites()
    sent, hidden = {b"a": 0, b"b": 0}, {b"a": 0, b"b": 0}
    for step, key in script:
        if step == "sent":
            own.sent(key)
            sent[key] += 1
        elif step == "heard":
            mine = own.heard(key)
            assert mine is (hidden[key] < sent[key]), "one naming is hidden for each change on its way"
            hidden[key] += mine
        elif sent[key]:
            sent[key] -= 1
            told = own.settled(key, changed=step == "changed")
            if step == "changed":
                hidden[key] = max(0, hidden[key] - 1)
                assert not told
            else:
                assert told is (hidden[key] > sent[key]), "what was hidden for a change that was none is told"
                hidden[key] = min(hidden[key], sent[key])
    assert len(own) == sum(1 for count in sent.values() if count)


def test_its_state_is_shown_in_a_servers_words() -> None:
    tracking = Tracking(Wish(optout=True, noloop=True))
    assert list(tracking.flags()) == ["on", "optout", "noloop"]
    tracking.caching = tracking.broken = True
    assert list(tracking.flags()) == ["on", "optout", "caching-no", "noloop", "broken_redirect"]
    assert tracking.letters == "tR"
    assert Tracking(Wish(bcast=True)).letters == "tB"
