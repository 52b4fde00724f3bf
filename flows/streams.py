"""Standard output and error that cannot break a command: closed, full, or a pipe whose reader has gone.

Python raises in the middle of whatever happens to print, or once more at exit. Here a stream that takes no more drops
what follows, and the command's end tells why.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from typing_extensions import Buffer


class Lasting(io.RawIOBase):
    """The file behind a standard stream; `lost` is the first error that writing to it has met."""

    def __init__(self, file: io.RawIOBase, name: str) -> None:
        self._file, self.name, self.mode = file, name, "wb"
        self.lost: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the number of the file."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Return True on a terminal."""
        return self._file.isatty()

    def write(self, data: Buffer) -> int:
        """Write all of `data`, or drop what is left of it once the stream is lost."""
        rest = whole = memoryview(data)
        while len(rest) and self.lost is None:
            try:
                written = self._file.write(rest)
            except OSError as error:
                self.lost = error
            else:
                if written is None:  # somebody has made the pipe or terminal a non-blocking one
                    select.select([], [self._file], [])
                rest = rest[written or 0 :]
        return len(whole)


_standard: dict[str, Lasting] = {}


def settle() -> None:
    """Make standard output and error lasting ones; those that the caller has closed lead nowhere."""
    # A closed number would be given to the next file that is opened, and a library's print would land in it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115  # open as long as the process
    sys.stdout = _lasting(sys.stdout, "<stdout>")
    sys.stderr = _lasting(sys.stderr, "<stderr>")


def lost_output() -> str | None:
    """Return the reason why standard output took no more, if somebody should hear of it: a reader that has gone knows."""
    sys.stdout.flush()
    error = _standard["<stdout>"].lost if "<stdout>" in _standard else None
    return None if error is None or error.errno == errno.EPIPE else error.strerror or str(error)


def _lasting(stream: TextIO | None, name: str) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # What the terminal's encoding lacks is shown escaped; it is never worth an error.
    encoding, lines = stream.encoding, stream.line_buffering
    buffer: Any = stream.detach()
    buffered = isinstance(buffer, io.BufferedWriter)  # not under python -u
    raw = _standard[name] = Lasting(buffer.detach() if buffered else buffer, name)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if buffered else raw,
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=lines,
        write_through=not buffered,
    )
