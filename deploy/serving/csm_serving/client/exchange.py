"""One stream as its client keeps it, over as many calls as it takes: what to send, what came, when to ask again.

No thread, no socket, no sleep: `client` and `aio` bring those. The caller sees one stream. Where its call breaks off,
the frames that came go back with the next request (`RESUME_CODES`), so that frame indices go on without gap or repeat;
text that came in parts is sent again as far as it is known.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from csm_model.errors import CsmError, InputError
from csm_serving.client import calls
from csm_serving.client.retry import Retry
from csm_serving.wire import messages
from csm_serving.wire.encodings import SoundDecoder, decoder_of
from csm_serving.wire.errors import BusyError, DeadlineError, ServingError, UnavailableError
from csm_serving.wire.protocol import MAX_TEXT_CHARACTERS, Chunk, End, Resume, SpeechRequest, TextPart, may_be_said
from csm_serving.wire.tensors import Array

DEADLINE_MARGIN_S: Final = 2.0
"""Seconds after its deadline in which the server may still say so itself; then the call is given up."""
_FIRST: Final = "0"
_PART_GRACE_S: Final = 0.5
"""A part may be refused because the stream has just ended: its last response, which says so, comes within this time."""
_POLL_S: Final = 1.0
_SILENT: Final = np.zeros(0, np.float32)


class Exchange:
    """The state of one stream.

    Args:
        request: what is asked; its text is the text, or the first of it.
        more: whether more text will be offered.
        waits: all of its text is still to be offered, and the request's stands for it.
        retry: when to ask again.
        chunk_timeout_s: seconds without an answer after which a server counts as gone.
        raw: hand sound out as the bytes that came (`Chunk.encoded`), undecoded.
        clock: seconds, of any origin.
        draw: where waits are drawn from.
    """

    def __init__(
        self,
        request: SpeechRequest,
        *,
        retry: Retry,
        chunk_timeout_s: float,
        more: bool = False,
        waits: bool = False,
        raw: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draw: random.Random | None = None,
    ) -> None:
        self.end: End | None = None
        """The last response, when it has come."""
        self.over = False
        """Whether nothing more follows in the call, well or ill."""
        self.retries = 0
        """Times the stream was asked for again."""
        self._request = request
        self._retry = retry
        self._chunk_timeout_s = chunk_timeout_s
        self._raw = raw
        self._clock = clock
        self._draw = draw or random.Random()
        self._text = "" if waits else request.text
        self._more = more
        self._sent = 0
        self._closed = False
        self._stream_id = ""
        self._parts = 0
        self._unanswered = False
        self._refused: CsmError | None = None
        self._deadline: float | None = None
        self._heard = 0.0
        self._broke: float | None = None
        before = request.resume  # of an earlier process, perhaps
        self._frames: list[Array] = [] if before is None else list(before.codes.T)
        self._sentences: list[int] = [] if before is None else before.sentences.tolist()
        self._token = b"" if before is None else before.token
        self._new_call = True
        self._decode: SoundDecoder | None = None

    # The text.

    def offer(self, text: str) -> None:
        """Adds text to what is to be said; raises `InputError` for characters that UTF-8 does not hold."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"text has a character that UTF-8 does not hold, at position {error.start}") from None
        self._text += text

    def finish(self) -> None:
        """No more text follows."""
        self._more = False
        self._heard = self._clock()

    @property
    def ready(self) -> bool:
        """Whether a call can begin: there is something to say, or it has come out that there is not."""
        return not self._more or may_be_said(self._text)

    @property
    def full(self) -> bool:
        """Whether more text waits to be sent than goes into a request."""
        return self.ready and len(self._text) - self._sent > MAX_TEXT_CHARACTERS

    # Calls.

    def begin(self) -> list[Any]:
        """The messages that open a call, in order; None closes its sending side.

        Raises:
            InputError: there is nothing to say.
            DeadlineError: no time is left.
        """
        now = self._clock()
        asked = self._request.deadline_s
        if asked is not None and self._deadline is None:
            self._deadline = now + asked
        if self._deadline is not None and self._deadline - now < 0.001:
            raise DeadlineError(f"the stream was not over within {asked:g} s; ask for less, or give it longer")
        piece = self._text[:MAX_TEXT_CHARACTERS]
        more = self._more or len(piece) < len(self._text)
        self._stream_id = str(uuid.uuid4()) if more else ""
        message = replace(
            self._request,
            text=piece,
            stream_id=self._stream_id or None,
            text_more=more,
            resume=self._resume(),
            deadline_s=None if self._deadline is None else self._deadline - now,
        )
        self._sent, self._closed, self._unanswered, self._refused = len(piece), not more, False, None
        self._heard, self._new_call, self.over = now, False, False
        self._decode = None if self._raw else decoder_of(self._request.encoding)
        opening = calls.message_of(message, _FIRST)
        return [opening] if more else [opening, None]

    def due(self) -> list[Any]:
        """The messages that may follow now: one part at a time, so that words that come meanwhile gather in the next.

        None closes the sending side.
        """
        piece = self._text[self._sent : self._sent + MAX_TEXT_CHARACTERS]
        more = self._more or self._sent + len(piece) < len(self._text)
        if self._new_call or self._closed or self._unanswered or self._refused or (more and not piece):
            return []
        self._parts += 1
        self._sent += len(piece)
        self._closed, self._unanswered, self._heard = not more, True, self._clock()
        part = calls.message_of(TextPart(stream_id=self._stream_id, text=piece, more=more), str(self._parts))
        return [part] if more else [part, None]

    @property
    def timeout_s(self) -> float | None:
        """Seconds in which the call itself must be over."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock()) + DEADLINE_MARGIN_S

    @property
    def poll_s(self) -> float:
        """Seconds to wait for an answer before `check` is due."""
        left = self._left_s()
        return _POLL_S if left is None else min(_POLL_S, max(0.0, left))

    def check(self, url: str) -> None:
        """Raises what is wrong with a call in which nothing came."""
        left = self._left_s()
        if left is None or left > 0:
            return
        if self._refused is not None:
            raise self._refused
        raise UnavailableError(f"{url} sent nothing for {self._patience_s():g} s (chunk_timeout_s)")

    def take(self, answer: Any, url: str) -> Chunk | End | None:
        """What an answer brings to the caller, if anything; raises the error it carries."""
        name, error = answer.infer_response.id or _FIRST, calls.error_in(answer, url)
        if name != _FIRST:  # of a part
            if calls.is_final(answer):
                self._unanswered = False
            if error is not None and self._refused is None:
                self._refused = error
            self._heard = self._clock()
            return None
        if self._refused is not None:
            self.check(url)
        else:
            self._heard = self._clock()
        self.over = calls.is_final(answer)
        if error is not None:
            raise error
        item = self._item(answer.infer_response) if answer.infer_response.outputs else None
        if self.over and self.end is None:
            raise UnavailableError(f"{url} dropped the stream before the turn was over; ask again")
        return item

    @staticmethod
    def is_last(answer: Any) -> bool:
        """Whether an answer is the stream's last one, so that its call ends by itself."""
        return (answer.infer_response.id or _FIRST) == _FIRST and calls.is_final(answer)

    def again_in(self, error: CsmError) -> float:
        """Seconds after which to ask again; raises `error` where the policy says not to."""
        now = self._clock()
        self._new_call = True
        if isinstance(self._refused, InputError):
            raise self._refused
        if self._frames and isinstance(error, InputError) and self._broke is not None:
            raise UnavailableError(f"the stream broke after frame {len(self._frames) - 1} and cannot go on: {error}")
        again = isinstance(error, UnavailableError) or (
            isinstance(error, BusyError) and (self._retry.busy or bool(self._frames))
        )
        if not again or self.retries >= self._retry.attempts or (self._frames and not self._token):
            raise error
        if self._broke is None:
            self._broke = now
        wait = self._retry.wait_s(self.retries, self._draw)
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            wait += error.retry_after_s
        if now + wait > self._broke + self._retry.budget_s:
            raise error
        self.retries += 1
        return wait

    def _item(self, response: Any) -> Chunk | End:
        tensors = calls.tensors_of(response)
        item = messages.decode_response(tensors, self._decode)
        if isinstance(item, End):
            self.end = item
            return item
        if item.frame_index != len(self._frames):
            raise ServingError(
                f"frame {item.frame_index} came where {len(self._frames)} was due; is the server another's?"
            )
        self._frames.append(item.codes)
        self._sentences.append(item.sentence)
        self._token, self._broke = item.token, None
        if self._raw and not item.encoded:
            sound = next(tensors[name] for name in ("AUDIO", "AUDIO_INT16") if name in tensors)
            item = replace(item, audio=_SILENT, encoded=sound.tobytes())
        return item

    def _resume(self) -> Resume | None:
        if not self._frames:
            return None
        codes, sentences = np.stack(self._frames, axis=1), np.array(self._sentences, np.int32)
        return Resume(codes=codes, sentences=sentences, token=self._token)

    def _patience_s(self) -> float:
        return self._chunk_timeout_s + (0.0 if self._frames else self._request.max_wait_s)

    def _left_s(self) -> float | None:
        """Seconds in which something must come; None where it is the client's text that all wait for."""
        if self._refused is not None:
            return self._heard + _PART_GRACE_S - self._clock()
        if self._more and not self._unanswered:
            return None
        return self._heard + self._patience_s() - self._clock()
