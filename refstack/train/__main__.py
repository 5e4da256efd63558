"""python -m refstack.train MODEL --data DIR --out DIR: one checkpoint."""

import argparse
import sys
from pathlib import Path

from refstack.errors import RefstackError
from refstack.models import MODELS
from refstack.train import train


def main() -> int:
    """Read the arguments, train, and turn a refusal into its exit code."""
    parser = argparse.ArgumentParser(prog="python -m refstack.train", description=train.__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tar.xz, or the official data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and its manifest")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    try:
        train(**vars(parser.parse_args()))
    except RefstackError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
