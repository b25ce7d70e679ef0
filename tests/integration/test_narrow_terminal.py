"""What a person needs is never cut on a narrow terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios

from recommendation_service.core.config import Settings


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What a command prints on a terminal of that width, without colours."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    command = [sys.executable, "-c", "import sys; from recommendation_service.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env={**environment, "TERM": "xterm"}
    )
    os.close(terminal)
    shown = io.BytesIO()
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # all who had the terminal have closed it
            break
        if not part:
            break
        shown.write(part)
    os.close(master)
    assert process.wait() == 0, shown.getvalue()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue().decode())


def test_eighty_columns_show_every_setting_whole() -> None:
    shown = on_a_terminal(80, "config")

    assert "…" not in shown
    assert {name.upper() for name in Settings.model_fields} <= set(re.findall(r"\w+", shown))
    assert max(map(len, shown.splitlines())) <= 80
