"""A client for the service: answers as plain values, refusals as edgefl's errors."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from PIL import Image

from edgefl.errors import BadInputError, EdgeFLError, RefusedError, StorageError, UnreachableError
from edgefl.runtime.weights import FloatArray
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.predict_pb2_grpc import AnytimeStub

__all__ = ["Answer", "DeadlineError", "PredictClient"]

_LONGEST_SECONDS = 1e8
"""gRPC takes what is much longer as over already; who waits three years waits for the deepest exit."""


class DeadlineError(EdgeFLError):
    """No answer came before the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the service answers.

    Attributes:
        exit_index: The exit.
        label: The most probable class.
        confidence: Its probability, in [0, 1].
        logits: (C,).
        elapsed_ms: Time in the service.
        stop_reason: Why no deeper exit follows; empty where one does.
        stop_text: The same in words.
        batch: Requests answered together.
        adapter_sha256: Digest of the adapter that answered.
    """

    exit_index: int
    label: int
    confidence: float
    logits: FloatArray
    elapsed_ms: float
    stop_reason: str
    stop_text: str
    batch: int
    adapter_sha256: str


class PredictClient:
    """Asks one service; threads may share it.

    Args:
        address: Such as `127.0.0.1:50051`.
        token: What the service wants to see; None for nothing.
        ca: Certificate authority of the service, PEM, for TLS; None for none.
        certificate: This client's own, PEM, where the service wants one.
        key: Its private key, PEM.

    Raises:
        BadInputError: If there is a certificate without `ca`, or the token cannot be sent.
        StorageError: If a file cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        if ca is None and (certificate or key):
            raise BadInputError("a certificate of the client is of use with TLS only; pass the service's ca, too")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise BadInputError("the token has characters that no header can carry; expected printable ASCII")
        if ca is None:
            self._channel = grpc.insecure_channel(address)
        else:
            pems = [None if path is None else _read(path) for path in (ca, key, certificate)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*pems))
        self._stub = AnytimeStub(self._channel)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def predict(
        self,
        image: Path | bytes | np.ndarray[Any, Any],
        *,
        deadline_ms: float | None = None,
        min_confidence: float | None = None,
        min_exit: int | None = None,
        max_exit: int | None = None,
    ) -> Answer:
        """Return one answer.

        Args:
            image: An image file, the bytes of one, pixels (H, W, 3) of uint8 RGB, or a normalised float32 sample
                (channels, height, width).
            deadline_ms: The answer is the deepest that is ready in this time; None waits for the deepest there is.
            min_confidence: Confidence in [0, 1] at which a shallower exit will do; None takes what is calibrated.
            min_exit: Never answer at a shallower exit.
            max_exit: Never go deeper.

        Raises:
            BadInputError: If the service cannot read or answer what it is asked.
            RefusedError: If it does not accept the token, or has too much to do.
            DeadlineError: If no answer came in time.
            UnreachableError: If nobody answers at the address.
        """
        request = _request(image, min_confidence, min_exit, max_exit)
        with _errors():
            return _answer(self._stub.Predict(request, timeout=_seconds(deadline_ms), metadata=self._metadata))

    def stream(
        self,
        image: Path | bytes | np.ndarray[Any, Any],
        *,
        deadline_ms: float | None = None,
        min_confidence: float | None = None,
        min_exit: int | None = None,
        max_exit: int | None = None,
    ) -> Iterator[Answer]:
        """Yield an answer at every exit, each as soon as it is ready; whoever stops iterating stops the computing.

        Arguments and errors are those of `predict`.
        """
        request = _request(image, min_confidence, min_exit, max_exit)
        call = self._stub.PredictStream(request, timeout=_seconds(deadline_ms), metadata=self._metadata)
        try:
            with _errors():
                for message in call:
                    yield _answer(message)
        finally:
            call.cancel()


def _request(
    image: Path | bytes | np.ndarray[Any, Any], min_confidence: float | None, min_exit: int | None, max_exit: int | None
) -> pb.PredictRequest:
    for name, value in (("min_exit", min_exit), ("max_exit", max_exit)):
        if value is not None and not 0 <= value < 1 << 32:
            raise BadInputError(f"{name} is {value}, expected the number of an exit")
    request = pb.PredictRequest(min_confidence=min_confidence, min_exit=min_exit, max_exit=max_exit)
    if isinstance(image, Path):
        request.image = _read(image)
    elif isinstance(image, bytes):
        request.image = image
    elif not isinstance(image, np.ndarray) or not image.size:
        what = "an empty array" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise BadInputError(f"the image is {what}; pass a Path, the bytes of a file, or an array")
    elif image.dtype == np.float32 and image.ndim == 3:
        request.sample.values = np.ascontiguousarray(image, "<f4").tobytes()
    elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        request.image = file.getvalue()
    else:
        raise BadInputError(
            f"the image is {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3) or float32 (channels, H, W)"
        )
    return request


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _seconds(deadline_ms: float | None) -> float | None:
    if deadline_ms is None:
        return None
    seconds = float(deadline_ms) / 1000.0  # numpy's narrow types would round the time of day
    if math.isnan(seconds):
        raise BadInputError("deadline_ms is NaN, expected a number of milliseconds, or None")
    return None if seconds > _LONGEST_SECONDS else seconds


def _answer(message: pb.Answer) -> Answer:
    return Answer(
        exit_index=message.exit,
        label=message.label,
        confidence=message.confidence,
        logits=np.array(message.logits, np.float32),
        elapsed_ms=message.elapsed_ms,
        stop_reason=message.stop_reason,
        stop_text=message.stop_text,
        batch=message.batch,
        adapter_sha256=message.adapter_sha256,
    )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the status a call ended with into one of edgefl's errors."""
    try:
        yield
    except grpc.RpcError as error:
        kinds: dict[Any, type[EdgeFLError]] = {
            grpc.StatusCode.INVALID_ARGUMENT: BadInputError,
            grpc.StatusCode.UNAUTHENTICATED: RefusedError,
            grpc.StatusCode.RESOURCE_EXHAUSTED: RefusedError,
            grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
            grpc.StatusCode.UNAVAILABLE: UnreachableError,
        }
        code, details = error.code(), error.details()
        raise kinds.get(code, EdgeFLError)(f"the service answered {code.name}: {details}") from error
