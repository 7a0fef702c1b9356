"""Ctrl-C and SIGTERM become a request: the running step ends, a checkpoint is written, then the run stops."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into `requested`; a second one acts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
