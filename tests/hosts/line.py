"""A long bad line between two network cards of this machine, where the kernel has no netem: frames late, some lost."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import threading
import time
from collections import deque

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_ALL_PROTOCOLS = 3
_OUTGOING = 4
_FRAME_BYTES = 1 << 17


class Line(threading.Thread):
    """Carries frames between two cards, each a fixed time late. A part of them, drawn at random, never arrives."""

    def __init__(self, one: str, other: str, delay_s: float, loss: float) -> None:
        super().__init__(daemon=True, name=f"line {one}")
        self._delay_s = delay_s
        self._loss = loss
        self._random = random.Random(one)
        self._cards = [_card(name) for name in (one, other)]
        self._wake, self._end = os.pipe()

    def run(self) -> None:
        """Until stopped."""
        one, other = self._cards
        to = {one: other, other: one}
        waiting: deque[tuple[float, socket.socket, bytes]] = deque()
        while True:
            wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready = select.select([one.fileno(), other.fileno(), self._wake], [], [], wait_s)[0]
            if self._wake in ready:
                return
            for card in (each for each in to if each.fileno() in ready):
                frame, address = card.recvfrom(_FRAME_BYTES)
                if address[2] != _OUTGOING and self._random.random() >= self._loss:
                    waiting.append((time.monotonic() + self._delay_s, to[card], frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, card, frame = waiting.popleft()
                with contextlib.suppress(OSError):  # lost, as it happens on such lines
                    card.send(frame)

    def stop(self) -> None:
        """Take the line away; what is on its way is lost."""
        os.write(self._end, b"x")
        self.join()
        for card in self._cards:
            card.close()
        os.close(self._wake)
        os.close(self._end)


def _card(name: str) -> socket.socket:
    # Frames come with what the sending card has left for the receiving one to do (checksums, cutting into packets).
    card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    card.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    card.bind((name, 0))
    return card
