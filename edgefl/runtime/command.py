"""`edgefl run`: execute any program of a bundle, the probe by which anyone checks it against their own reference."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["run"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--program", required=True, help="Such as infer/5, anytime, train/11 or preprocess.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Another adapter of this bundle.")
@click.option("--inputs", required=True, type=click.Path(path_type=Path), help="safetensors: samples or images, ...")
@click.option("--outputs", required=True, type=click.Path(path_type=Path), help="safetensors file to write.")
def run(folder: Path, program: str, adapter: Path | None, inputs: Path, outputs: Path) -> None:
    """Run a program of the bundle in FOLDER.

    Inputs are `samples` (float32, normalised, N x C x H x W) or `images` (uint8 RGB, N x H x W x 3); for training also
    `labels` (int64) and `weights` (float32, by default 1/N each).  Outputs are `logits` (`logits_00` and so on for
    anytime), or `loss` and each gradient under its adapter tensor's name.
    """
    from edgefl.core.atomic import check_writable, write_atomically  # these import numpy and ONNX Runtime
    from edgefl.core.tensors import TensorFile, encode_tensors
    from edgefl.runtime.model import load

    check_writable(outputs)
    answers = load(folder, adapter).run(program, TensorFile(inputs).arrays())
    write_atomically(outputs, encode_tensors(answers))
    for name, array in answers.items():
        click.echo(f"{name}  {array.dtype}  {'x'.join(map(str, array.shape)) or 'scalar'}")
