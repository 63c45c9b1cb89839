"""Commands for the differential test, drawn from templates, some of them spoilt.

In a template K is a key, F a field or member, V a value, I an integer, R a real number and N a small count; every
other word stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from hypothesis import strategies as st

Words: TypeAlias = tuple[bytes, ...]

KEYS = (b"a", b"b", b"c", b"{t}1", b"{t}2", b"{t}3")
_PLACES: dict[str, st.SearchStrategy[bytes]] = {
    "K": st.sampled_from(KEYS),
    "F": st.sampled_from((b"f", b"g", b"1", b"")),
    "V": st.sampled_from((b"v", b"12", b"-3.5", b"", b"\x00\xff\r\n", b"long " * 1000)),
    "I": st.sampled_from((b"0", b"1", b"-1", b"100", b"9223372036854775807")),
    "R": st.sampled_from((b"0.5", b"-2", b"1e3", b"inf")),
    "N": st.sampled_from((b"0", b"1", b"2", b"7", b"-1")),
}

STRINGS = """
SET K V|SET K V NX|SET K V XX GET|SET K I|SET K V EX 100|SET K V PX 100000 NX|SET K V KEEPTTL
SET K V EXAT 4102444800
SET K V IFEQ V|SET K V EX 0|SET K V NX XX|SETNX K V|SETEX K 100 V|PSETEX K 100000 V|GET K|GETDEL K|GETEX K EX 50
GETEX K PERSIST|GETEX K
GETSET K V|APPEND K V|STRLEN K|SETRANGE K N V|GETRANGE K N N|SUBSTR K N N|INCR K|DECR K|INCRBY K I|DECRBY K I
INCRBYFLOAT K R
MGET K K K|MSET K V K V|MSETNX K V K V|LCS K K|LCS K K LEN|LCS K K IDX|SETBIT K N 1|SETBIT K N N|GETBIT K N
BITCOUNT K|BITCOUNT K N N BIT|BITPOS K 1
BITOP AND K K K|BITOP NOT K K|BITFIELD K SET u8 #1 I GET u4 N|BITFIELD K OVERFLOW FAIL INCRBY u2 N I
BITFIELD_RO K GET u8 N
PFADD K F F|PFCOUNT K|PFCOUNT K K|PFMERGE K K|DELIFEQ K V
"""
KEYSPACE = """
DEL K|DEL K K K|UNLINK K K|EXISTS K K K|TOUCH K K|TYPE K|RENAME K K|RENAMENX K K|COPY K K|COPY K K REPLACE|DUMP K
KEYS *|KEYS {t}*|DBSIZE|RANDOMKEY
EXPIRE K 100|EXPIRE K 0|EXPIRE K 100 NX|EXPIRE K 50 GT|PEXPIRE K 100000 LT|EXPIREAT K 4102444800
PEXPIREAT K 4102444800000 XX|EXPIRE K I
TTL K|PTTL K|EXPIRETIME K|PEXPIRETIME K|PERSIST K|OBJECT ENCODING K|OBJECT REFCOUNT K|OBJECT FREQ K|OBJECT HELP
SORT K|SORT K ALPHA DESC LIMIT N N
SORT K BY nosort GET # STORE K|SORT_RO K ALPHA|FLUSHALL|FLUSHDB|FLUSHDB SYNC|RESTORE K 0 V|MEMORY USAGE K
"""
LISTS = """
LPUSH K V V|RPUSH K I I I|LPUSHX K V|RPUSHX K V|LPOP K|LPOP K N|RPOP K|RPOP K N|LLEN K|LRANGE K 0 -1|LRANGE K N N
LINDEX K N|LSET K N V|LREM K N V
LINSERT K BEFORE V V|LTRIM K N N|LPOS K V|LPOS K V COUNT N|LPOS K V RANK -1 MAXLEN N|LMOVE K K LEFT RIGHT
RPOPLPUSH K K|LMPOP 1 K LEFT|LMPOP 2 K K RIGHT COUNT N
BLPOP K 0.01|BRPOP K K 0.01|BLMOVE K K RIGHT LEFT 0.01|BRPOPLPUSH K K 0.01|BLMPOP 0.01 2 K K LEFT COUNT 2|BLPOP K -1
BLPOP K V
"""
HASHES = """
HSET K F V|HSET K F V F I|HMSET K F V|HSETNX K F V|HGET K F|HMGET K F F|HGETALL K|HKEYS K|HVALS K|HLEN K|HEXISTS K F
HDEL K F F|HSTRLEN K F
HINCRBY K F I|HINCRBYFLOAT K F R|HSCAN K 0|HSCAN K 0 NOVALUES|HSCAN K 0 MATCH f*|HRANDFIELD K 100 WITHVALUES
HEXPIREAT K 4102444800 FIELDS 1 F
HEXPIRE K 0 FIELDS 1 F|HPERSIST K FIELDS 2 F F|HTTL K FIELDS 1 F|HEXPIRETIME K FIELDS 1 F
HGETEX K PERSIST FIELDS 1 F|HSETEX K FIELDS 1 F V|HGETDEL K FIELDS 1 F
"""
SETS = """
SADD K F F|SADD K I V|SREM K F|SMEMBERS K|SISMEMBER K F|SMISMEMBER K F F|SCARD K|SPOP K 100|SRANDMEMBER K 100
SMOVE K K F|SINTER K K|SINTERCARD 2 K K LIMIT N
SUNION K K|SDIFF K K|SINTERSTORE K K K|SUNIONSTORE K K K|SDIFFSTORE K K|SSCAN K 0|SSCAN K 0 COUNT N
"""
SORTED_SETS = """
ZADD K R F|ZADD K R F I F|ZADD K NX CH R F|ZADD K GT R F|ZADD K INCR R F|ZINCRBY K R F|ZREM K F F|ZSCORE K F
ZMSCORE K F F|ZCARD K|ZCOUNT K -inf +inf|ZRANK K F
ZREVRANK K F WITHSCORE|ZRANGE K 0 -1|ZRANGE K 0 -1 WITHSCORES|ZRANGE K (R +inf BYSCORE LIMIT N N
ZREVRANGE K 0 N WITHSCORES|ZRANGEBYSCORE K -inf R WITHSCORES
ZRANGEBYLEX K - +|ZLEXCOUNT K - [g|ZPOPMIN K|ZPOPMAX K N|ZMPOP 2 K K MIN COUNT N|BZPOPMIN K 0.01|BZPOPMAX K K 0.01
BZMPOP 0.01 1 K MAX|ZRANGESTORE K K 0 N
ZUNION 2 K K WITHSCORES|ZINTER 2 K K|ZDIFF 2 K K WITHSCORES|ZUNIONSTORE K 2 K K WEIGHTS 2 3 AGGREGATE MAX
ZINTERSTORE K 1 K|ZDIFFSTORE K 2 K K|ZINTERCARD 2 K K
ZREMRANGEBYRANK K 0 N|ZREMRANGEBYSCORE K R R|ZSCAN K 0|ZRANDMEMBER K 100 WITHSCORES
GEOADD K 13.361389 38.115556 F 15.087269 37.502669 F|GEOPOS K F F|GEODIST K F F km|GEOHASH K F
GEOSEARCH K FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST WITHCOORD
GEOSEARCHSTORE K K FROMLONLAT 15 37 BYBOX 400 400 km ASC|GEORADIUS K 15 37 200 km ASC STORE K
GEORADIUSBYMEMBER K F 100 km ASC
"""
STREAMS = """
XADD K 1-1 F V|XADD K 5-* F V F V|XADD K MAXLEN N 7-1 F V|XADD K NOMKSTREAM 9-1 F V|XLEN K|XRANGE K - +
XREVRANGE K + - COUNT N|XRANGE K (1-1 5|XDEL K 1-1 5-0|XTRIM K MAXLEN N
XREAD STREAMS K 0|XREAD COUNT N STREAMS K K 0 1-1|XREAD BLOCK 10 STREAMS K 0|XREAD BLOCK 10 STREAMS K $
XREAD STREAMS K +|XGROUP CREATE K g 0 MKSTREAM|XGROUP CREATE K g $|XGROUP SETID K g 0
XGROUP CREATECONSUMER K g c|XGROUP DELCONSUMER K g c|XGROUP DESTROY K g|XREADGROUP GROUP g c STREAMS K >
XREADGROUP GROUP g c COUNT N BLOCK 10 STREAMS K >|XREADGROUP GROUP g c STREAMS K 0
XACK K g 1-1 5-0|XPENDING K g|XINFO GROUPS K|XINFO STREAM K|XCLAIM K g d 0 1-1 JUSTID|XAUTOCLAIM K g d 0 0 JUSTID
XSETID K 100-1|XINFO HELP
"""
SCRIPTS = """
EVAL return{1,'a',{2.5,false,true}} 0|EVAL return'redis'..ARGV[1] 0 V|EVAL return(redis.call('GET',KEYS[1])) 1 K
EVAL return(redis.pcall('INCR',KEYS[1])) 1 K
EVAL return(redis.call('RENAME',KEYS[1],KEYS[2])) 2 K K
EVAL redis.setresp(3);return(redis.call('HGETALL',KEYS[1])) 1 K|EVAL return{err='MY_own'} 0
EVAL return{ok='fine'} 0|EVAL return{double=3.5} 0|EVAL return( 0|EVAL_RO return(redis.call('SET',KEYS[1],1)) 1 K
EVALSHA 0123456789012345678901234567890123456789 1 K
EVALSHA nosuch 0|EVAL return(redis.call('NOSUCH')) 0|SCRIPT LOAD return(1)
SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db|EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
FCALL nosuch 1 K|EVAL return(1) N K|EVAL return(1) 9
"""
CONNECTION = """
PING|PING V|ECHO V|SELECT 0|TIME|CLIENT SETNAME name|CLIENT GETNAME|CLIENT NO-EVICT ON|CLIENT NO-TOUCH OFF
CLIENT SETINFO LIB-NAME F|CLIENT GETREDIR|COMMAND GETKEYS SET K V
COMMAND GETKEYS ZUNIONSTORE K 2 K K|COMMAND GETKEYS PING|COMMAND INFO GET NOSUCH|COMMAND LIST FILTERBY PATTERN xr*
WAIT 0 0|NOSUCH K|OBJECT NOSUCH K|CLIENT NOSUCH|HELLO 3|HELLO 2|HELLO 9|RESET|LOLWUT VERSION 9
"""
TRANSACTIONS = "MULTI|EXEC|DISCARD|WATCH K|WATCH K K|UNWATCH|MULTI|EXEC"


def _command(template: str) -> st.SearchStrategy[Words]:
    return st.tuples(*(_PLACES.get(word, st.just(word.encode())) for word in template.split()))


def _any_of(text: str) -> st.SearchStrategy[Words]:
    templates = [template for line in text.split("\n") for template in line.split("|") if template]
    return st.sampled_from(templates).flatmap(_command)


def _spoilt(words: Words) -> st.SearchStrategy[Words]:
    """The command as somebody might send it by mistake."""
    ways: list[Callable[[Words], Words]] = [
        lambda words: words[:-1] or (b"GET",),
        lambda words: (*words, b"more"),
        lambda words: (words[0].lower(), *words[1:]),
        lambda words: (*words[:-1], b"x y"),
        lambda words: (*words, *words[1:]),
    ]
    return st.sampled_from(ways).map(lambda way: way(words))


def _mistaken(drawn: st.SearchStrategy[Words]) -> st.SearchStrategy[Words]:
    return drawn.flatmap(lambda words: st.one_of(*[st.just(words)] * 9, _spoilt(words)))


def _together(words: Words) -> Words:
    """The same command with keys that share a node."""
    return tuple(b"{t}%d" % (KEYS.index(word) + 1) if word in KEYS[:3] else word for word in words)


def sequences(most: int = 25) -> st.SearchStrategy[list[Words]]:
    """Sequences of commands: most about values of one type, some about all types, some full of transactions.

    Half of them keep to keys that share a node.
    """
    types = [_any_of(text) for text in (STRINGS, LISTS, HASHES, SETS, SORTED_SETS, STREAMS)]
    transactions = _any_of(TRANSACTIONS)
    common = [_any_of(KEYSPACE), _any_of(SCRIPTS), _any_of(CONNECTION), transactions]
    mixtures = [st.one_of(*[of_type] * 4, *common) for of_type in types]
    mixtures += [st.one_of(*types, *common), st.one_of(*types, *common, *[transactions] * 4)]
    drawn = [st.lists(_mistaken(mixture), min_size=1, max_size=most) for mixture in mixtures]
    anyhow = st.sampled_from(drawn).flatmap(lambda mixture: mixture)
    return anyhow | anyhow.map(lambda commands: [_together(words) for words in commands])
