"""Make an environment for every peer of `refstack bench --peers`: what they require does not go together.

    python tools/peer_environments.py [--folder .peers] [PEER ...]

A peer that cannot be installed is said and left out; its rows then say that it is not installed. What is there already
with the same requirements is kept.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from refstack.peers import FOLDER, PEERS, Peer


def interpreter(peer: Peer) -> str | None:
    """This Python, or the newest one that the peer is built for; None where there is none."""
    if peer.newest_python is None or sys.version_info[:2] <= peer.newest_python:
        return sys.executable
    return shutil.which(f"python{peer.newest}")


def make(peer: Peer, folder: Path) -> str:
    """Install a peer; what became of it, in words."""
    home = folder / peer.name
    stamp, wanted = home / "requires", peer.install
    if stamp.exists() and stamp.read_text() == wanted:
        return "is there"
    python = interpreter(peer)
    if python is None:
        return f"left out: needs Python {peer.newest} or older"
    subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True)
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for what in (peer.requires, ("--no-deps", *peer.bare) if peer.bare else ()):
        done = subprocess.run([*command, *what], stderr=subprocess.PIPE, text=True) if what else None
        if done and done.returncode:
            shutil.rmtree(home)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return f"left out: {(errors or [done.stderr])[-1]}"
    stamp.write_text(wanted)
    return "installed"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", default=list(PEERS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in options.peers:
        print(f"{name}: {make(PEERS[name], options.folder)}", file=sys.stderr, flush=True)
