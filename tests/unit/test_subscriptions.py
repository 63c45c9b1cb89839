"""Who is subscribed to what, against a plain list of subscriptions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helios.router.pubsub.subscriptions import Kind, Subscriptions, Topic

NAMES = (b"a", b"ab", b"b", b"a*", b"?", b"\xff")
steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from("xyz"), st.sampled_from(list(Kind)), st.sampled_from(NAMES)), max_size=40
)


@given(steps)
def test_it_agrees_with_a_list(script: list[tuple[bool, str, Kind, bytes]]) -> None:
    topics: Subscriptions[str] = Subscriptions()
    there: list[tuple[str, Topic]] = []
    for add, who, kind, name in script:
        topic = kind, name
        others = any(other == topic and someone != who for someone, other in there)
        known = (who, topic) in there
        if add:
            assert topics.add(who, topic) is (not others and not known)
            there += [] if known else [(who, topic)]
        else:
            assert topics.remove(who, topic) is (known and not others)
            there = [each for each in there if each != (who, topic)]
    assert set(topics.wanted()) == {topic for _, topic in there}
    assert len(topics) == len({topic for _, topic in there})
    assert topics.subscribers == len({who for who, _ in there})
    for each in Kind:
        assert topics.number(each) == len({topic for _, topic in there if topic[0] is each})
    for who in "xyz":
        mine = [topic for someone, topic in there if someone == who]
        assert list(topics.of(who)) == mine
        alone: Subscriptions[str] = Subscriptions()
        sizes = [alone.add(who, topic) and alone.size(who) for topic in mine]
        assert topics.size(who) == (sizes[-1] if sizes else 0)
        assert sizes == sorted(set(sizes))
        sharded = sum(kind is Kind.SHARD for kind, _ in mine)
        assert topics.count(who, Kind.SHARD) == sharded
        assert topics.count(who, Kind.PATTERN) == topics.count(who, Kind.CHANNEL) == len(mine) - sharded
    for topic in topics.wanted():
        assert list(topics.audience(topic)) == [someone for someone, other in there if other == topic]


def test_a_message_reaches_the_channel_and_the_patterns_that_match() -> None:
    topics: Subscriptions[str] = Subscriptions()
    for kind in Kind:
        for name in NAMES:
            topics.add("x", (kind, name))
    assert topics.reached_by((Kind.CHANNEL, b"ab")) == [
        (Kind.CHANNEL, b"ab"),
        (Kind.PATTERN, b"ab"),
        (Kind.PATTERN, b"a*"),
    ]
    assert topics.reached_by((Kind.SHARD, b"ab")) == [(Kind.SHARD, b"ab")]
    assert topics.reached_by((Kind.CHANNEL, b"a long one")) == [(Kind.PATTERN, b"a*")]
    assert topics.reached_by((Kind.SHARD, b"none")) == []
