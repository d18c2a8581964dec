"""A real service in a process of its own, asked over gRPC."""

from __future__ import annotations

import io
import math
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

import edgefl
from edgefl.core.signals import Signals
from edgefl.errors import BadInputError, RefusedError, StorageError, UnreachableError
from edgefl.serve import predict_pb2 as pb
from edgefl.serve.client import DeadlineError, PredictClient
from edgefl.serve.predict_pb2_grpc import AnytimeStub
from tests.golden_bundle import GOLDEN, random_samples
from tests.predict.test_predict_command import recorded
from tests.serve.service import Service, refused, served


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with served("--max-message", "100kB", "--max-requests", "8", "--max-pixels", 10_000) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[PredictClient]:
    with PredictClient(service.address) as asking:
        yield asking


def image(size: tuple[int, int] = (20, 30)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def black(size: int) -> bytes:
    """Return a square image that is small as a file."""
    file = io.BytesIO()
    Image.new("L", (size, size)).save(file, "png")
    return file.getvalue()


def test_an_image_is_answered_as_the_model_answers_it(client: PredictClient, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(image())
    with Image.open(path) as opened:
        expected = list(edgefl.load(GOLDEN).infer(np.asarray(opened.convert("RGB"))))

    answer = client.predict(path)

    assert (answer.exit_index, answer.stop_reason) == (2, "deepest")
    assert answer.label == int(expected[2].labels[0])
    assert answer.confidence == pytest.approx(float(expected[2].confidence[0]), rel=1e-4)
    np.testing.assert_allclose(answer.logits, expected[2].logits[0], rtol=1e-4, atol=1e-6)
    assert answer.adapter_sha256 == edgefl.Bundle(GOLDEN).adapter().digest()
    assert answer.elapsed_ms > 0


def test_a_stream_has_an_answer_at_every_exit(client: PredictClient) -> None:
    sample = random_samples(1)[0]
    expected = list(edgefl.load(GOLDEN).infer(sample))

    answers = list(client.stream(sample[0]))

    assert [answer.exit_index for answer in answers] == [0, 1, 2]
    assert [answer.stop_reason for answer in answers] == ["", "", "deepest"]
    for answer, prediction in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.logits, prediction.logits[0], rtol=1e-4, atol=1e-6)


def test_requests_narrow_what_may_answer(client: PredictClient) -> None:
    assert client.predict(image(), max_exit=1).exit_index == 1
    assert client.predict(image(), min_confidence=0.0).exit_index == 0
    assert client.predict(image(), min_confidence=0.0).stop_reason == "confidence"
    assert client.predict(image(), min_confidence=0.0, min_exit=1).exit_index == 1
    assert [answer.exit_index for answer in client.stream(image(), max_exit=0)] == [0]
    assert [answer.exit_index for answer in client.stream(image(), min_exit=1)] == [1, 2]


def test_an_answer_that_nobody_waits_for_to_the_end_can_be_left(client: PredictClient) -> None:
    answers = client.stream(image())
    assert next(answers).exit_index == 0
    answers.close()

    assert client.predict(image()).exit_index == 2


def test_without_time_there_is_no_answer_and_with_a_lot_the_deepest(client: PredictClient) -> None:
    with pytest.raises(DeadlineError, match="DEADLINE_EXCEEDED"):
        client.predict(image(), deadline_ms=0.001)
    assert client.predict(image(), deadline_ms=60_000).exit_index == 2


@pytest.mark.parametrize(
    ("what", "options", "fault"),
    [
        (b"", {}, "the request has no image"),
        (b"no image", {}, "the image cannot be read as an image: it is none of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop", {}, "it is none of PNG, JPEG"),
        (black(1000), {}, "it has 1000 x 1000 pixels, more than 10000"),
        (image()[:200], {}, "the image cannot be read as an image"),
        (np.zeros((1, 16, 15), np.float32), {}, "the sample has 960 bytes, expected 1024"),
        (np.full((1, 16, 16), np.nan, np.float32), {}, "NaN or infinite values"),
        (image(), {"max_exit": 3}, "exit 3 does not exist: bundle bundle has the exits 0-2"),
        (image(), {"min_exit": 2, "max_exit": 1}, "min_exit 2 is deeper than max_exit 1"),
        (image(), {"min_confidence": 1.5}, "min_confidence is 1.5, expected a number from 0 to 1"),
        (image(), {"min_confidence": float("nan")}, "min_confidence is nan"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_next_request_answered(
    client: PredictClient, what: bytes, options: dict[str, float], fault: str
) -> None:
    with pytest.raises(BadInputError, match=fault):
        client.predict(what, **options)  # type: ignore[arg-type]  # wrong on purpose
    assert client.predict(image()).exit_index == 2


def test_a_request_above_the_limit_is_refused(client: PredictClient) -> None:
    with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
        client.predict(bytes(200_000))
    assert client.predict(image()).exit_index == 2


def test_a_request_without_input_is_refused(service: Service) -> None:
    with grpc.insecure_channel(service.address) as channel, pytest.raises(grpc.RpcError) as caught:
        AnytimeStub(channel).Predict(pb.PredictRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_at_once_are_all_answered_or_refused(client: PredictClient) -> None:
    def ask(_: int) -> str:
        try:
            return client.predict(image()).stop_reason
        except RefusedError as error:
            return str(error)

    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(ask, range(200)))

    refused = "the service answered RESOURCE_EXHAUSTED: 8 requests are under way, which is the limit; ask again later"
    assert set(found) <= {"deepest", refused}
    assert found.count("deepest") >= 8


def test_health_and_the_service_s_own_description_can_be_asked_for(service: Service) -> None:
    with grpc.insecure_channel(service.address) as channel:
        for name in ("", "edgefl.serve.v1.Anytime"):
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        names = {each.name for each in listed.list_services_response.service}
    assert {"edgefl.serve.v1.Anytime", "grpc.health.v1.Health"} <= names


def test_signals_and_the_owner_s_rules_limit_the_depth(tmp_path: Path) -> None:
    empty = recorded(tmp_path, Signals(charge=0.05, charging=False))
    with served("--trace", empty, "--min-exit", 1) as running, PredictClient(running.address) as client:
        assert client.predict(image()).stop_reason == "min_exit"
        assert client.predict(image(), max_exit=0).exit_index == 1
        # A request goes no deeper than the owner and the device let it.
        assert client.predict(image(), min_exit=2).exit_index == 1


def test_metrics_tell_what_was_answered_and_the_end_is_orderly() -> None:
    with served("--metrics-port", 0) as running:
        with PredictClient(running.address) as client:
            client.predict(image())
            with pytest.raises(BadInputError):
                client.predict(b"no image")
        assert running.process.stderr is not None
        url = running.process.stderr.readline().rpartition(" at ")[2].strip()
        with urllib.request.urlopen(url) as answer:  # noqa: S310  # its own address
            text = answer.read().decode()
        running.process.send_signal(signal.SIGTERM)
        code, said = running.ended()

    assert 'edgefl_answers_total{exit="2",reason="deepest"} 1.0' in text
    assert 'edgefl_refusals_total{code="INVALID_ARGUMENT"} 1.0' in text
    assert "edgefl_batch_size_count 1.0" in text
    assert code == 0
    assert "Traceback" not in said


def test_watching_the_health_takes_no_request_s_place(service: Service, client: PredictClient) -> None:
    with grpc.insecure_channel(service.address) as channel:
        asked = health_pb2.HealthCheckRequest()
        watching = [health_pb2_grpc.HealthStub(channel).Watch(asked) for _ in range(20)]
        for each in watching:
            next(each)
        assert client.predict(image()).exit_index == 2
        for each in watching:
            each.cancel()


def test_pixels_are_sent_as_an_image_and_other_arrays_refused(client: PredictClient) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)

    np.testing.assert_array_equal(client.predict(pixels).logits, client.predict(image()).logits)
    for wrong in (pixels[..., 0], pixels.astype(np.float64), np.zeros((16, 16), np.float32)):
        with pytest.raises(BadInputError, match="expected uint8"):
            client.predict(wrong)


@pytest.mark.parametrize("deadline_ms", [math.inf, 1e300, np.float32(60_000), np.float16(60_000)])
def test_a_deadline_of_any_size_and_type_of_number_is_kept(client: PredictClient, deadline_ms: float) -> None:
    assert client.predict(image(), deadline_ms=deadline_ms).exit_index == 2
    assert len(list(client.stream(image(), deadline_ms=deadline_ms))) == 3


@pytest.mark.parametrize("wrong", ["seven.png", None, [1, 2], np.zeros((0, 4, 3), np.uint8), bytearray(b"a")])
def test_what_is_no_image_at_all_is_refused_before_it_is_sent(client: PredictClient, wrong: Any) -> None:
    with pytest.raises(BadInputError, match="pass a Path, the bytes of a file, or an array"):
        client.predict(wrong)


def test_a_deadline_that_is_no_number_is_refused(client: PredictClient) -> None:
    with pytest.raises(BadInputError, match="deadline_ms is NaN"):
        client.predict(image(), deadline_ms=math.nan)


def test_a_client_that_could_not_keep_what_it_promises_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="pass the service's ca"):
        PredictClient("127.0.0.1:1", certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(BadInputError, match="printable ASCII"):
        PredictClient("127.0.0.1:1", token="two\nlines")  # noqa: S106  # no secret


def test_a_file_that_is_not_there_is_said_to_be_so(client: PredictClient, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*missing\.png: No such file"):
        client.predict(tmp_path / "missing.png")
    with pytest.raises(BadInputError, match="min_exit is -1"):
        client.predict(image(), min_exit=-1)


def test_nobody_at_an_address_is_an_error_of_its_own() -> None:
    with PredictClient("127.0.0.1:1") as client, pytest.raises(UnreachableError):
        client.predict(image())


@pytest.mark.parametrize(
    ("options", "code", "fault"),
    [
        (["--max-exit", 3], 3, "exit 3 does not exist"),
        (["--min-exit", 2, "--max-exit", 1], 2, "--min-exit 2 is deeper than --max-exit 1"),
        (
            ["--listen", "0.0.0.0:0"],
            4,
            "can be reached from other machines; give --tls-cert, --tls-key and --token-file",
        ),
        (["--tls-cert", "cert.pem"], 2, "--tls-cert and --tls-key go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], 7, "cannot read no.pem"),
        (["--token-file", "no.txt"], 7, "cannot read no.txt"),
        (
            ["--listen", "127.0.0.1:65536"],
            2,
            "'127.0.0.1:65536' is neither HOST:PORT, with a port up to 65535",
        ),
        (["--listen", "unix:"], 2, "'unix:' is neither HOST:PORT"),
        (["--max-message", "5GB"], 2, "--max-message is 5000000000 bytes, expected 1kB to 2GB"),
        (["--tls-cert", __file__, "--tls-key", __file__], 3, "holds no PEM certificate"),
        (["--listen", "here"], 2, "'here' is neither HOST:PORT"),
        (["--listen", "192.0.2.1:0", "--token-file", __file__], 3, "expected one line of 16 or more"),
    ],
)
def test_a_service_that_cannot_start_says_why(options: list[object], code: int, fault: str) -> None:
    found, said = refused(*options)

    assert found == code, said
    assert fault in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_refused(service: Service) -> None:
    code, said = refused("--listen", service.address)

    assert code == 4
    assert f"cannot listen on {service.address}" in said
