"""Every error that Helios raises on purpose; each says what happened, to what, and what to do."""

from __future__ import annotations

from collections.abc import Iterator


class HeliosError(Exception):
    """Base of all errors of this package. `code` is a stable name for programs."""

    code = "ERROR"


class InvalidInput(HeliosError):
    """A value given by a person or a program cannot be used; nothing was changed."""

    code = "INVALID"


class NotFound(HeliosError):
    """What was named does not exist; nothing was changed."""

    code = "NOTFOUND"


class Refused(HeliosError):
    """The request is understood and cannot be granted in the present state; nothing was changed."""

    code = "REFUSED"


class NotAuthenticated(HeliosError):
    """Who asks has not said who it is; nothing was changed."""

    code = "NOAUTH"


class WrongPassword(HeliosError):
    """There is no user of that name with that password."""

    code = "WRONGPASS"


class NotPermitted(HeliosError):
    """The user may not do that; nothing was changed."""

    code = "NOPERM"


class Unavailable(HeliosError):
    """A part of the system that is needed does not answer; nothing was changed. Trying again may help."""

    code = "UNAVAILABLE"


class OutcomeUnknown(HeliosError):
    """A request was sent and its answer was lost: it may or may not have been carried out."""

    code = "UNKNOWN"


class ChangeFailed(HeliosError):
    """A change that had been accepted was not carried out: it failed, or was cancelled; what had moved went back."""

    code = "FAILED"


class WaitTimeout(HeliosError, TimeoutError):
    """What was waited for had not ended when the time was up. It goes on; only the waiting ended."""

    code = "WAITTIMEOUT"


class SettingsError(HeliosError):
    """A setting is unknown or out of its bounds; the message names file, line and what is allowed."""

    code = "SETTINGS"


class StartError(HeliosError):
    """A process cannot start (a taken port, an unwritable folder, a second start); nothing was left running."""

    code = "START"


class StoreError(HeliosError):
    """The store of topology and leases failed."""

    code = "STORE"


class StoreUnreachable(StoreError):
    """The store does not answer now, and may again. A request that was on its way has an unknown outcome."""


class Conflict(StoreError):
    """A compare-and-set found another version than expected; nothing was written. Read again and decide again."""

    code = "CONFLICT"


class TooBig(StoreError):
    """A commit is beyond what every store takes, in bytes or in operations; nothing was written."""

    code = "TOOBIG"


class WatchLost(StoreError):
    """A watch cannot go on from its revision (compacted): list again and watch from there."""

    code = "WATCHLOST"


class LeaseLost(StoreError):
    """A lease has expired or was revoked; what was bound to it is gone."""

    code = "LEASELOST"


class EngineError(HeliosError):
    """A data server refused or failed a request."""

    code = "ENGINE"


class EngineUnreachable(EngineError):
    """A data server cannot be reached, or the connection broke; what was in flight has an unknown outcome."""

    code = "UNREACHABLE"


class EngineDenied(EngineError):
    """A data server does not let this user in (or no longer does)."""

    code = "DENIED"


class EngineBusy(EngineError):
    """A data server runs a script or function for so long that it refuses everything but ending it."""

    code = "BUSY"


class ChangesLost(EngineError):
    """The change stream of a server broke or the server was flushed: any key may have changed unseen."""

    code = "CHANGESLOST"


class PayloadRefused(EngineError):
    """A target cannot read what the source serialised (an older server version); trying again cannot help."""

    code = "PAYLOAD"


class CopyDiffers(EngineError):
    """A copy is not what it was copied from although nobody changes it; trying again cannot help."""

    code = "DIFFERS"


class TooHot(EngineError):
    """A value is so big and so busy that no pause of bearable length can move it; the message names it."""

    code = "TOOHOT"


class ProtocolError(HeliosError):
    """The bytes of a connection are not RESP, or announce more than is allowed; the connection cannot go on."""

    code = "PROTOCOL"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group is made of, in whatever groups these are; the error itself where it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from causes(each)
    else:
        yield error
