"""Copying one big value from server to server in steps, none of which occupies a server for long.

A copy is not atomic: it is exact only where the key does not change meanwhile. A change stream names the
keys for which that is not so, and they are copied again.
"""

from helios.engines.valkey.stepwise.copying import copy_value
from helios.engines.valkey.stepwise.key_copy import ChangedMeanwhile, KeyCopy, NotInSteps

__all__ = ["ChangedMeanwhile", "KeyCopy", "NotInSteps", "copy_value"]
