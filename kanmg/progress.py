"""The progress bar, and interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from kanmg.history import Record

__all__ = ["Interrupts", "Progress"]

# Seconds between two updates of the bar.
UPDATE_INTERVAL = 0.1


class Progress:
    """A bar on stderr that counts smoothing steps and shows level and loss.

    Parameters
    ----------
    total_steps : int
        Smoothing steps of the whole run.
    enabled : bool, optional
        None: if stderr is a terminal.
    """

    def __init__(self, total_steps: int, enabled: bool | None = None) -> None:
        if enabled is None:
            enabled = sys.stderr.isatty()
        self._bar: Any = tqdm(total=total_steps, unit="step", dynamic_ncols=True, leave=False) if enabled else None
        self._next_update = 0.0

    def show(self, record: Record, top: int, now: float) -> None:
        """Show a record, unless the last one has been shown just before.

        Parameters
        ----------
        record : Record
        top : int
            The highest level in use.
        now : float
            Seconds.
        """
        if self._bar is None or now < self._next_update:
            return
        self._next_update = now + UPDATE_INTERVAL
        self._bar.set_postfix_str(f"level {record.level}/{top}, loss {record.loss:.3e}", refresh=False)
        self._bar.update(record.step - self._bar.n)

    def extend(self, steps: int) -> None:
        """Expect so many more steps."""
        if self._bar is not None:
            self._bar.total += steps

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class Interrupts:
    """While this context is entered, Ctrl-C waits for the end of a step.

    A step that an exception cut in the middle could leave the run in a state that no undisturbed run has. A second
    Ctrl-C does not wait. Where another handler than Python's own is installed, or outside the main thread, nothing is
    changed.

    Attributes
    ----------
    requested : bool
        Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._is_installed = False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._is_installed = True
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; obey the second."""
        if self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
