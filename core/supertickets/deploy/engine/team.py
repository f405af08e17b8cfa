"""The threads that run single images together with the calling thread."""

from __future__ import annotations

import ctypes
import threading

from supertickets.deploy.engine.scheduling import YIELD, keep_off_this_processor, this_processor


class Team:
    """`parts` - 1 threads that run their parts of single images; `run` leads them.

    After an image, they spin for about a millisecond, because waking a sleeping thread takes as long as running a small
    network.
    """

    def __init__(self, library: ctypes.CDLL, parts: int) -> None:
        self._lead, self._follow = library.ticket_lead, library.ticket_follow
        self._lead.argtypes = (*[ctypes.c_void_p] * 4, ctypes.c_int, ctypes.c_void_p)
        self._follow.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
        self._follow.restype = ctypes.c_uint32
        self._memory = (ctypes.c_uint64 * 8)()  # C's TicketTeam
        self._started = ctypes.c_uint32.from_buffer(self._memory)  # its first field: images that `lead` has started
        self._parts = parts
        self._lock = threading.Lock()
        self._announced = 0  # images for which the threads were woken
        self._asleep: list[threading.Event] = []
        self._stopped = False
        self._processor = -1
        self._threads = [threading.Thread(target=self._serve, args=(part,), daemon=True) for part in range(1, parts)]
        for thread in self._threads:
            thread.start()

    def run(self, image: int, output: int, scratch: int) -> None:
        """Run one image, given as addresses. Only one call at a time is allowed."""
        if (here := this_processor()) != self._processor:
            keep_off_this_processor(thread.native_id for thread in self._threads if thread.native_id)
            self._processor = here
        try:
            with self._lock:
                self._announced = (self._started.value + 1) % 2**32
                self._wake()
            self._lead(self._memory, image, output, scratch, self._parts, YIELD)
        except BaseException:  # interrupted before the image: the threads may sleep again
            self._announced = self._started.value
            raise

    def stop(self) -> None:
        """End the threads."""
        with self._lock:
            self._stopped = True
            self._wake()

    def _wake(self) -> None:
        """Wake the sleeping threads; the lock must be held."""
        while self._asleep:
            self._asleep.pop().set()

    def _serve(self, part: int) -> None:
        seen, awake = 0, threading.Event()
        while True:
            seen = self._follow(self._memory, part, seen, YIELD)
            with self._lock:
                if self._stopped:
                    return
                if self._announced != seen:
                    continue
                awake.clear()
                self._asleep.append(awake)
            awake.wait()
