"""The process of a temporary Prefect server. It is run by its path and imports nothing of this project.

python -P server_process.py LISTENING_SOCKET; it ends when its standard input does, which is when its caller is gone.
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

PATIENCE_SECONDS = 3  # for requests that are under way when the server is told to end


def main(listening: int) -> None:
    """Serve Prefect's API, without its pages and schedules, on the inherited socket `listening`."""
    gc.disable()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    gc.freeze()  # all of this lasts: looking for garbage in it takes seconds
    gc.enable()
    config = uvicorn.Config(
        app, log_level="error", lifespan="on", timeout_graceful_shutdown=PATIENCE_SECONDS, access_log=False
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_caller, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listening)])
    gc.freeze()  # the interpreter would look once more before it ends


def _end_with_caller(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


if __name__ == "__main__":
    main(int(sys.argv[1]))
