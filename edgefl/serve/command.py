"""`edgefl serve`: anytime inference over gRPC, each answer as deep as the client's deadline allows."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgefl.core.sizes import ByteSizes
from edgefl.errors import BadInputError, StorageError

if TYPE_CHECKING:
    from edgefl.serve.server import Access

__all__ = ["serve"]

_SHORTEST_TOKEN = 16
_LEAST_MESSAGE = 1000
_ADDRESS = re.compile(r"[^:]+:(\d{1,5})|\[[0-9A-Fa-f:]+\]:(\d{1,5})")
_LARGEST_PORT = 65535


def _listen(_context: click.Context, _option: click.Parameter, text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    # gRPC takes the rest of a port that is too large.
    if not re.fullmatch(r"unix:.+", text) and (match is None or int(match[1] or match[2]) > _LARGEST_PORT):
        raise click.BadParameter(f"{text!r} is neither HOST:PORT, with a port up to {_LARGEST_PORT}, nor unix:PATH")
    return text


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--listen",
    default="127.0.0.1:50051",
    show_default=True,
    callback=_listen,
    help="HOST:PORT, 0 for any port; or unix:PATH.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option("--client-ca", type=click.Path(path_type=Path), help="Clients must have a certificate from this one.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token that clients must send.")
@click.option("--max-message", type=ByteSizes(), default="16MB", show_default=True, help="Largest request.")
@click.option(
    "--max-requests", type=click.IntRange(1, 10_000), default=64, show_default=True, help="At once, waiting ones too."
)
@click.option("--max-pixels", type=click.IntRange(1), default=4_000_000, show_default=True, help="Of an image.")
@click.option("--max-batch", type=click.IntRange(1, 64), default=8, show_default=True, help="Most answered together.")
@click.option("--min-exit", type=click.IntRange(0), help="Never answer at a shallower exit.")
@click.option("--max-exit", type=click.IntRange(0), help="Never go deeper.")
@click.option("--adapter", type=click.Path(path_type=Path), help="[default: the personal one, else the bundle's]")
@click.option("--memory", type=click.Choice(["lean", "balanced", "fast"]), default="fast", show_default=True)
@click.option("--trace", type=click.Path(path_type=Path), help="Recorded signals to play instead of the device's.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus metrics on 127.0.0.1.")
def serve(folder: Path, **options: Any) -> None:
    """Answer requests with the bundle in DIR, over gRPC (edgefl/serve/predict.proto), until SIGTERM or ctrl-C.

    A call's deadline is its budget: the answer is the deepest one that is ready in time.  Where more is asked than this
    device can do, answers become shallower before any request is refused.  A new adapter, written by a client or by
    `edgefl personalize`, answers as soon as it is there.
    """
    import asyncio

    from edgefl.policy import Rules
    from edgefl.serve.server import Limits
    from edgefl.serve.start import Settings, serve_bundle

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    access = _access(options)
    least, most = options["min_exit"], options["max_exit"]
    if least is not None and most is not None and least > most:
        raise click.UsageError(f"--min-exit {least} is deeper than --max-exit {most}")
    settings = Settings(
        folder=folder,
        adapter=options["adapter"],
        memory=options["memory"],
        rules=Rules(min_exit=least, max_exit=most),
        most_together=options["max_batch"],
        trace=options["trace"],
        metrics_port=options["metrics_port"],
    )
    limits = Limits(
        message_bytes=_message_bytes(options["max_message"][0]),
        pixels=options["max_pixels"],
        requests=options["max_requests"],
    )
    asyncio.run(serve_bundle(settings, access, limits))


def _access(options: dict[str, Any]) -> Access:
    from edgefl.serve.server import Access

    certificate, key, authority = options["tls_cert"], options["tls_key"], options["client_ca"]
    if (certificate is None) != (key is None) or (authority is not None and certificate is None):
        raise click.UsageError("--tls-cert and --tls-key go together, and --client-ca needs both")
    token = _token(options["token_file"]) if options["token_file"] is not None else None
    return Access(listen=options["listen"], certificate=certificate, key=key, client_ca=authority, token=token)


def _message_bytes(size: int) -> int:
    if not _LEAST_MESSAGE <= size < 1 << 31:
        raise click.UsageError(f"--max-message is {size} bytes, expected 1kB to 2GB")
    return size


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is no text of ASCII letters; write a token into it") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable():
        raise BadInputError(
            f"{path} has a token of {len(token)} letters, expected one line of {_SHORTEST_TOKEN} or more"
        )
    return token
