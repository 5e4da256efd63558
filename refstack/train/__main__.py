"""python -m refstack.train MODEL | compress MODEL | study: checkpoints, with PyTorch."""

import argparse
import sys
from pathlib import Path
from typing import Any

from refstack.errors import RefstackError, UsageError
from refstack.models import MODELS
from refstack.train import METHODS, compress, study, train


def main() -> int:
    """Read the arguments, do what they ask for, and turn a refusal into its exit code."""
    parser = argparse.ArgumentParser(prog="python -m refstack.train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="MODEL | compress | study")
    for model in MODELS:
        dense = _command(commands, model, "train this network from drawn weights")
        _options(dense)
    small = _command(commands, "compress", "compress a trained network while it trains on")
    small.add_argument("model", choices=MODELS)
    small.add_argument("--technique", choices=METHODS, required=True)
    small.add_argument("--level", type=float, help="share that goes; ternary: threshold; int8: none")
    small.add_argument("--method", default="", help="criterion, if not the first")
    small.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="recipe")
    small.add_argument("--start", type=Path, help="checkpoint to start from, instead of the shipped one")
    _options(small)
    every = _command(commands, "study", "make every point of the study that is not there yet")
    every.add_argument("--workers", type=int, default=1, help="processes, which take turns over the GPUs")
    every.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    try:
        return _run(vars(parser.parse_args()))
    except RefstackError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code


def _run(given: dict[str, Any]) -> int:
    command = given.pop("command")
    if command == "study":
        return min(1, study(**given))
    if command != "compress":
        train(command, **given)
        return 0
    pairs = [setting.partition("=") for setting in given.pop("settings")]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise UsageError(f"--set {wrong[0]}: wanted NAME=VALUE")
    compress(**given, settings={name: value for name, _, value in pairs})
    return 0


def _command(commands: Any, name: str, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tar.xz, or the official data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and records")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--holdout", type=int, default=0, help="judge by so many training images of each class instead")


if __name__ == "__main__":
    sys.exit(main())
