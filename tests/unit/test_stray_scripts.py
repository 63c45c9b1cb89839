"""Who may have written a key, and what a count of keys that scripts have left still tells."""

from __future__ import annotations

from helios.engines.valkey.statistics import script_calls_in
from helios.resp.info import info_fields
from helios.router.commands.counting import Look, script_calls
from helios.router.script_cache import sha_of
from helios.router.stray_scripts import name_of, suspects

BODIES = {
    "by-name": b"return redis.call('SET', 'made:' .. ARGV[1], \"v\")",
    "by-key": b"return redis.call('SET', KEYS[1], 'v')",
    "by-argument": b"return redis.call('SET', ARGV[1], 'v')",
}
INFO = b"""# Commandstats\r
cmdstat_eval:calls=3,usec=1\r
cmdstat_evalsha:calls=40,usec=1\r
cmdstat_fcall:calls=500,usec=1\r
cmdstat_eval_ro:calls=6000,usec=1\r
cmdstat_get:calls=70000,usec=1\r
"""


def test_a_script_is_suspected_by_the_names_in_its_text() -> None:
    assert suspects(b"made:7", list(BODIES), BODIES.get) == ["by-name"]
    assert suspects(b"other", list(BODIES), BODIES.get) == []
    assert suspects(b"SET", list(BODIES), BODIES.get) == [], "the name of a command is no part of a key's"
    assert suspects(b"made:7", ["function f"], BODIES.get) == []


def test_scripts_have_the_names_by_which_they_are_called() -> None:
    body = BODIES["by-key"]
    assert name_of([b"EVAL", body, b"0"]) == name_of([b"evalsha", sha_of(body).upper(), b"0"]) == sha_of(body).decode()
    assert name_of([b"FCALL", b"f\xff", b"0"]) == "function f\\xff"


def test_only_calls_that_may_write_are_counted() -> None:
    assert script_calls(INFO) == 543
    fields = info_fields(INFO)
    assert script_calls_in(fields) == 543


def test_a_look_tells_until_scripts_run_again_or_the_server_is_another_one() -> None:
    none = Look(b"run", held=9, calls=5, strays=0, began_s=10.0, took_s=0.01)
    assert none.tells(b"run", 5, 1000.0)
    assert not none.tells(b"run", 6, 10.1)
    assert none.tells(b"run", 6, 9.9), "it began after it was asked for"
    assert not none.tells(b"other run", 5, 10.1)
    assert not Look(b"run", 9, -1, 0, 10.0, 0.01).tells(b"run", -1, 10.1), "nobody knows whether scripts ran"


def test_what_scripts_have_left_can_end_by_itself_so_it_is_looked_at_again_after_a_rest() -> None:
    few = Look(b"run", held=9, calls=5, strays=3, began_s=10.0, took_s=2.0)
    assert not few.tells(b"run", 5, 10.1)
    many = Look(b"run", held=100_000, calls=5, strays=3, began_s=10.0, took_s=2.0)
    assert many.tells(b"run", 6, 29.9)
    assert not many.tells(b"run", 6, 30.1)
