"""Steps beside those of an engine that end when the test says so, or when they are waited for."""

from __future__ import annotations

from concurrent.futures import Future

import torch

from tandem_serve.engine.beside import Forward


class HeldLogits(Future[torch.Tensor]):
    """What a step gives."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward

    def end(self, error: Exception | None = None) -> None:
        """The step ends, by `error` where one is given."""
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(self._forward())

    def result(self, timeout: float | None = None) -> torch.Tensor:
        """Ends it first if it has not."""
        if not self.done():
            self.end()
        return super().result(timeout)


class Held:
    """Begins steps; `begun` is the one that has not ended."""

    def __init__(self) -> None:
        self._last: HeldLogits | None = None

    @property
    def begun(self) -> HeldLogits | None:
        """The step under way."""
        return None if self._last is None or self._last.done() else self._last

    def start(self, forward: Forward) -> Future[torch.Tensor]:
        """See `Beside`."""
        assert self.begun is None, "one at a time"
        self._last = HeldLogits(forward)
        return self._last

    def end(self, error: Exception | None = None) -> None:
        """Ends the step under way, if there is one."""
        if (begun := self.begun) is not None:
            begun.end(error)
