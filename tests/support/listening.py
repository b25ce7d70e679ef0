"""The end of a test's own asyncio server."""

import asyncio


async def stop_listening(server: asyncio.Server) -> None:
    """Close ``server``, once each connection that it has accepted has its transport.

    Accepting and making the transport are two turns of the loop. A server that is closed between them fails within
    the transport's constructor, with its socket open; the garbage collector says so, in whichever test it next runs.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener)  # accepts nothing from here on
    await asyncio.sleep(0)
    server.close()
