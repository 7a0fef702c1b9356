"""Ctrl-C and SIGTERM become a request: the running step ends, a checkpoint is written, then the run stops."""

import os
import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into `requested`; a second one acts at once."""

    def __init__(self) -> None:
        self._signalled = False
        self._before: dict[int, object] = {}
        # `accelerate launch` passes no signal on: a launcher that was stopped is seen by its absence.
        self._launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None

    @property
    def requested(self) -> bool:
        """Whether a signal came, or the launcher went."""
        return self._signalled or (self._launcher is not None and os.getppid() != self._launcher)

    def __enter__(self) -> "StopRequest":
        # Handlers can only be set in the main thread; elsewhere (a notebook server) whoever runs it decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
