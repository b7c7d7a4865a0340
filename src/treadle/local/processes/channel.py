"""Messages with file descriptors over a Unix socket.

A frame is a header (length of the pickle, number of descriptors) and a pickled tuple of builtin values. Both ends
belong to the same user and one started the other, which is why pickle is fit for it.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
import time
from collections import deque
from typing import Any

__all__ = ["MAX_FDS", "Channel", "Message"]

#: A kind, then what belongs to it.
Message = tuple[Any, ...]

_HEADER = struct.Struct("<QI")
_CHUNK = 1 << 18
#: The most descriptors that one frame may carry. The kernel allows 253, but the receiver must have room for them.
MAX_FDS = 32
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Channel:
    """One end of a connection. With a non-blocking socket nothing here ever waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = bytearray()
        self._fds: deque[int] = deque()
        #: What the kernel would not take yet: the rest of a frame, and the descriptors (our copies) due with its start.
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def congested(self) -> bool:
        """True while something waits for :meth:`flush`."""
        return bool(self._outgoing)

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send a message, or queue what cannot be sent now. The descriptors remain the caller's.

        :raises OSError: the other end is gone.
        """
        data = pickle.dumps(message, 5)
        frame = memoryview(_HEADER.pack(len(data), len(fds) if fds else 0) + data)
        if not self._outgoing:
            sent = self._push(frame, fds or [])
            if sent == len(frame):
                return
            if sent:
                frame, fds = frame[sent:], []
        self._outgoing.append((frame, [os.dup(fd) for fd in fds or []]))

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
        while self._outgoing:
            frame, fds = self._outgoing[0]
            sent = self._push(frame, fds)
            if sent:
                for fd in fds:
                    os.close(fd)
                self._outgoing[0] = (frame[sent:], [])
            if sent < len(frame):
                return
            self._outgoing.popleft()

    def _push(self, frame: memoryview, fds: list[int]) -> int:
        """How many bytes were sent; if any, the descriptors went with them."""
        total = 0
        while total < len(frame):
            try:
                if fds and total == 0:
                    total += socket.send_fds(self._sock, [frame], fds)
                else:
                    total += self._sock.send(frame[total:])
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # As many descriptors are on their way as may be: there is room as soon as somebody reads.
                if not self._sock.getblocking():
                    break
                time.sleep(0.001)
        return total

    def receive(self) -> list[tuple[Message, list[int]]]:
        """Read once, and return the messages that are complete. The descriptors become the caller's.

        :raises EOFError: the other end is gone.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, _CHUNK, MAX_FDS, _CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("the connection was closed")
        self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "too many open files to receive another one; raise the limit (ulimit -n)")
        self._incoming += data
        return self._parse()

    def _parse(self) -> list[tuple[Message, list[int]]]:
        messages: list[tuple[Message, list[int]]] = []
        incoming = self._incoming
        offset = 0
        while len(incoming) - offset >= _HEADER.size:
            length, count = _HEADER.unpack_from(incoming, offset)
            end = offset + _HEADER.size + length
            if len(incoming) < end:
                break
            with memoryview(incoming) as view:
                message = pickle.loads(view[offset + _HEADER.size : end])
            messages.append((message, [self._fds.popleft() for _ in range(count)]))
            offset = end
        if offset:
            del incoming[:offset]
        return messages

    def close(self) -> None:
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        for _, fds in self._outgoing:
            for fd in fds:
                os.close(fd)
        self._fds.clear()
        self._outgoing.clear()
