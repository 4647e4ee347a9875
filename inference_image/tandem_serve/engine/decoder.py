"""What one sequence needs to turn its tokens into released text: detokenizer and stop strings together."""

from __future__ import annotations

from dataclasses import dataclass

from tandem_serve.engine.detokenizer import Decode, IncrementalDetokenizer
from tandem_serve.engine.stop import StopChecker
from tandem_serve.engine.types import SequenceRequest


@dataclass(slots=True)
class TextDecoder:
    """Text of one sequence; `push` returns (text to release, stop string that was found)."""

    detokenizer: IncrementalDetokenizer
    stop: StopChecker

    @classmethod
    def for_request(cls, request: SequenceRequest, decode: Decode) -> TextDecoder:
        """A decoder that continues the request's prompt."""
        return cls(IncrementalDetokenizer(decode, request.prompt), StopChecker(request.sampling.stop))

    def push(self, token: int) -> tuple[str, str | None]:
        """Adds a token."""
        return self.stop.push(self.detokenizer.push(token))

    def flush(self) -> str:
        """The rest of the text at the end; a stop string completed by the last characters still cuts it."""
        released, found = self.stop.push(self.detokenizer.flush())
        return released if found else released + self.stop.flush()
