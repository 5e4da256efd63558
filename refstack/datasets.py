"""CIFAR-10 as arrays: read it, check it, say exactly which images a figure is of, and scale them for a network.

    x[n, c, h, w] = (u[n, c, h, w] / 255 - MEAN[c]) / STD[c]        u uint8, x float32

A data set is a folder `<class>/<image>` (or an archive of one), or the official binary batches (or their archive).
Files are untrusted: sizes, counts and dimensions are checked before anything is decoded, nothing is unpacked to disk,
and everything that is not as it should be is a DataError that names the file.

Source  A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refstack.errors import ChecksumError, DataError, ShapeError, UsageError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = np.array((0.4914, 0.4822, 0.4465), np.float32)
STD = np.array((0.2470, 0.2435, 0.2616), np.float32)

ARCHIVE, UNPACKED = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
KNOWN_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"
BATCHES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
PER_CLASS = {"train": 5000, "test": 1000}  # images of each class in the official splits
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes

PUBLISHED = {  # Dataset.sha256 -> name
    "35670a5f482509483cc3459ef0f19fba0b22d80004f9ba60028cbce87ec0c190": "cifar10-jpeg75-test",
    "e0ad7de629a0a14f81da39d76d931838d79b278839559b885271992eae777b61": "cifar10-jpeg75-train",
    "198674e8ff321b2348510766f895838c8b7516433c8c5bb53a9fb309a970784d": "cifar10-lossless-val",
}

MAX_FILES = 200_000
MAX_FILE_BYTES = 64 << 20
MAX_BYTES = 512 << 20  # of a whole set; the official archive unpacks to 184 MB
MAX_PIXELS = 1 << 26
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # not EPS, which would start another program

LAYOUT = "wanted <class>/<image> files, or the official binary batches (the pickled Python version is not read)"

Files = dict[str, bytes]  # path inside the set -> encoded bytes
Content = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]  # images, labels, names


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, labels, and what identifies them.

    Args
        name    cifar10-jpeg75-test and the like for sets known by their hash, else made from the file name
        images  uint8 (n, 3, 32, 32)    read-only, red green blue
        labels  int64 (n,)              read-only, index into CLASSES
        sha256  of the encoded files in order: path, size, bytes. Not of the pixels: decoders differ in the last bit.
                The same for an archive and its unpacked folder, whatever the folder above the classes is called
        source  where it was read from
        names   file, or batch[index], of each image
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sha256: str
    source: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.images.setflags(write=False)
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """(preprocessed images, labels) of `size` images at a time, in order; the last batch may be smaller."""
        if size < 1:
            raise UsageError(f"batch size: got {size}, wanted at least 1")
        for i in range(0, len(self), size):
            yield preprocess(self.images[i : i + size]), self.labels[i : i + size]

    def subset(self, n: int) -> "Dataset":
        """The first n images when the classes take turns: the first of each class, the second of each class, ...

        Nothing is drawn at random, and a smaller subset is the beginning of a larger one. All n = len: the set itself.
        """
        if not 1 <= n <= len(self):
            raise UsageError(f"subset of {self.name}: got {n} images, wanted 1 to {len(self)}")
        if n == len(self):
            return self
        turn = np.empty(len(self), np.int64)
        for label in range(len(CLASSES)):
            members = np.flatnonzero(self.labels == label)
            turn[members] = np.arange(members.size)
        order = np.lexsort((self.labels, turn))[:n]
        return replace(
            self,
            name=f"{self.name}-balanced{n}",
            images=self.images[order],
            labels=self.labels[order],
            sha256=hashlib.sha256(f"{self.sha256} {order.tolist()}".encode()).hexdigest(),
            names=tuple(self.names[i] for i in order),
        )


def preprocess(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """x = (u / 255 - MEAN) / STD, what every shipped checkpoint was trained on.

    Args        images  uint8 (n, 3, h, w)
    Returns     float32 (n, 3, h, w)
    Raises      ShapeError  anything but uint8: images already scaled to 0..1 would be scaled twice
    Numerics    three float32 roundings, in the order of the formula
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"preprocess: got {images.dtype} {images.shape}, wanted uint8 (n, 3, h, w)")
    x = images.astype(np.float32, order="C")
    return (x / np.float32(255) - MEAN[:, None, None]) / STD[:, None, None]


def load(path: str | os.PathLike[str], split: str = "test") -> Dataset:
    """Read a data set: a folder, a .tar, .tar.gz or .tar.xz of one, the official archive, or its unpacked folder.

    Args
        split   which one, where `path` holds several: train or test of the official batches, or the name of the
                folder above the class folders. A path with one folder of images is that set, whatever split says
    Returns     Dataset     images sorted by path, so by class first; the official batches in their own order
    Raises      DataError   a file is missing, damaged, too large, of the wrong size or kind, or in an unknown class
    Cost        the encoded files are held in memory until decoded
    """
    path, where = Path(path), repr(str(path))
    found = dict(_folder_files(path, split) if _kind(path) == stat.S_IFDIR else _tar_files(path, split))
    batches = {name: data for name, data in found.items() if name.endswith(".bin")}
    several, files = _one_set(batches or found, where, split)
    name = f"{_stem(path)}-{split}" if batches or several else _stem(path)
    if batches:
        images, labels, names = _read_batches(files, where, split)
        if np.array_equal(np.bincount(labels, minlength=10), [PER_CLASS[split]] * 10):
            name = f"cifar10-{split}"
    else:
        images, labels, names = _read_images(files, where)
    digest = hashlib.sha256()
    for key, data in files.items():
        digest.update(f"{key}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
    sha256 = digest.hexdigest()
    return Dataset(PUBLISHED.get(sha256, name), images, labels, sha256, str(path), names)


def load_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Any picture as a network input: the largest centred square, resized to 32 x 32 by Lanczos unless it is that.

    Returns     uint8 (3, 32, 32)   red green blue; the camera's rotation is applied, transparency dropped
    Raises      DataError           not a readable image, more than MAX_PIXELS pixels, more than 8 bits a channel
    """
    return _decode(_read_file(Path(path), MAX_FILE_BYTES), repr(str(path)))


def data_dir() -> Path:
    """$REFSTACK_DATA_DIR, else the user's data folder for refstack."""
    if named := os.environ.get("REFSTACK_DATA_DIR"):
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("refstack", appauthor=False)


def find() -> Path | None:
    """The official data set in data_dir(), as an archive or unpacked, or None."""
    return next((path for name in (ARCHIVE, UNPACKED) if (path := data_dir() / name).exists()), None)


def fetch(url: str = URL, known_hash: str = KNOWN_HASH, folder: Path | None = None) -> Path:
    """Bring the official archive (170 MB) into data_dir(), unless it is there already, and check it.

    Args
        url         http(s) address, or the path or file:// address of a copy brought by hand
        known_hash  algorithm:hex digest that the archive must have
        folder      instead of data_dir()
    Returns         path of the checked archive; a file that fails the check never stands under this name
    Raises          ChecksumError   the content is not the published one
                    DataError       no network, REFSTACK_OFFLINE is set, or the folder cannot be written
    """
    import pooch

    folder = folder or data_dir()
    target = folder / ARCHIVE
    local = url.removeprefix("file://") if url.startswith("file://") or "://" not in url else None
    by_hand = f"download {URL} elsewhere and put it at {target}"

    def copy(_url: str, output: str, _pooch: Any) -> None:
        Path(output).write_bytes(_read_file(Path(local or ""), MAX_BYTES))

    # Asked for as is: a server's transfer compression would be undone on the way and change the checksum.
    download = pooch.HTTPDownloader(timeout=30, headers={"Accept-Encoding": "identity"})
    try:
        if target.is_file():
            algorithm, _, wanted = known_hash.rpartition(":")
            if pooch.file_hash(str(target), alg=algorithm or "sha256") == wanted:
                return target
            target.replace(target.with_name(f"{ARCHIVE}.bad"))
        if local is None and os.environ.get("REFSTACK_OFFLINE", "0") not in ("", "0"):
            raise DataError(f"{target}: not there, and REFSTACK_OFFLINE forbids the download; unset it, or {by_hand}")
        pooch.retrieve(url, known_hash, ARCHIVE, folder, downloader=download if local is None else copy)
    except OSError as error:
        raise DataError(f"{url}: cannot be fetched to {target} ({error}); {by_hand}") from error
    except ValueError as error:
        raise ChecksumError(f"{url}: wrong content, wanted {known_hash} ({error}); nothing was kept") from error
    return target


def _stem(path: Path) -> str:
    """File name without archive suffixes, fit to be part of a data set name."""
    return re.sub(r"[^\w.+-]+", "-", re.sub(r"\.(tar(\.\w+)?|tgz|txz)$", "", path.resolve().name)) or "images"


def _kind(path: Path) -> int:
    """S_IFDIR or S_IFREG; a missing path, a fifo or a device is refused before it is opened."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r}: cannot be read ({error})") from error
    if kind in (stat.S_IFDIR, stat.S_IFREG):
        return kind
    raise DataError(f"{str(path)!r}: neither a file nor a folder; pipes and devices are not read")


def _read_file(path: Path, limit: int) -> bytes:
    if _kind(path) != stat.S_IFREG:
        raise DataError(f"{str(path)!r}: is a folder, wanted a file")
    try:
        if (size := path.stat().st_size) > limit:
            raise DataError(f"{str(path)!r}: got {size} bytes, wanted at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be read ({error})") from error


def _is_wanted(name: str, split: str) -> bool:
    """Whether a file belongs to a set: hidden files, read-me files and the other split's batches do not."""
    *folders, file = name.split("/")
    if name.startswith(".") or "/." in name:
        return False
    if file.endswith(".bin"):
        return file in BATCHES.get(split, ())
    return Path(file).suffix.lower() in SUFFIXES or folders[-1:] in [[label] for label in CLASSES]


def _folder_files(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """(path inside the folder, bytes) of the set's files."""

    def refuse(error: OSError) -> None:  # os.walk would leave the folder out, and the figure would be of fewer images
        raise DataError(f"{str(error.filename)!r}: cannot be read ({error})") from error

    count = total = 0
    for top, _, names in os.walk(path, onerror=refuse, followlinks=True):
        count += 1 + len(names)  # folders count too, so that a circle of links ends
        _check_totals(path, count, total)
        for name in names:
            key = Path(top, name).relative_to(path).as_posix()
            if _is_wanted(key, split):
                data = _read_file(Path(top, name), MAX_FILE_BYTES)
                total += len(data)
                _check_totals(path, count, total)
                yield key, data


def _tar_files(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """(path inside the archive, bytes) of the set's files. All of it is in memory, so nothing can escape to disk."""
    bad = f"{str(path)!r}: not a whole tar, tar.gz or tar.xz archive"
    seen: set[str] = set()
    try:
        archive = _unpacked(path)
        with tarfile.open(fileobj=archive, mode="r:", encoding="utf-8") as tar:
            for member in tar:
                name, where = str(PurePosixPath(member.name)), f"{str(path)!r}, member {member.name!r}"
                if name.startswith("/") or ".." in name.split("/"):
                    raise DataError(f"{where}: leaves the archive, wanted a relative path without '..'")
                if not (member.isdir() or member.isreg()) or member.issparse():
                    raise DataError(f"{where}: is a link, device or sparse file, wanted regular files and folders")
                if not 0 <= member.size <= MAX_FILE_BYTES:
                    raise DataError(f"{where}: got {member.size} bytes, wanted at most {MAX_FILE_BYTES}")
                if name in seen:
                    raise DataError(f"{where}: is there twice, wanted each path once")
                seen.add(name)
                _check_totals(path, len(seen), 0)
                if (content := tar.extractfile(member)) and _is_wanted(name, split):
                    yield name, content.read()
            # tarfile takes a damaged header for the end; the true end is a block of zeros.
            archive.seek(tar.offset)
            if archive.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{bad} (damaged or cut short at byte {tar.offset}); fetch it again")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, RecursionError) as error:
        raise DataError(f"{bad} ({error}); {LAYOUT}") from error


def _unpacked(path: Path) -> io.BytesIO:
    """The archive without its compression, in memory and of bounded size."""
    out = io.BytesIO()
    with path.open("rb") as raw:
        magic = raw.read(2)
        raw.seek(0)
        unpack: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}
        stream = unpack[magic](raw) if magic in unpack else raw
        while chunk := stream.read(1 << 20):
            out.write(chunk)
            _check_totals(path, 0, out.tell())
    out.seek(0)
    return out


def _check_totals(path: Path, count: int, total: int) -> None:
    if count > MAX_FILES or total > MAX_BYTES:
        raise DataError(f"{str(path)!r}: holds more than {MAX_FILES} files or {MAX_BYTES} bytes; give one data set")


def _one_set(found: Files, where: str, split: str) -> tuple[bool, Files]:
    """Whether there are several sets side by side, and the files of the one asked for, in order.

    Sets side by side are told apart by the folder that their batches or class folders lie in.
    """
    sets: dict[tuple[str, ...], Files] = {}
    for name, data in found.items():
        parts = tuple(name.split("/"))
        depth = 1 if name.endswith(".bin") else 2
        if depth == 2 and not set(parts[-2:-1]) & set(CLASSES):
            got = repr(parts[-2]) if len(parts) > 1 else "none"
            raise DataError(f"{where}, file {name!r}: got class folder {got}, wanted one of {', '.join(CLASSES)}")
        sets.setdefault(parts[:-depth], {})["/".join(parts[-depth:])] = data
    if not sets:
        raise DataError(f"{where}: holds no images for split {split!r}; {LAYOUT}")
    chosen = list(sets) if len(sets) == 1 else [root for root in sets if root[-1:] == (split,)]
    if len(chosen) != 1:
        got = ", ".join(repr("/".join(root)) for root in sorted(sets))
        raise DataError(f"{where}: holds several sets ({got}), wanted one called {split!r}; give the path of one")
    return len(sets) > 1, dict(sorted(sets[chosen[0]].items(), key=lambda item: item[0].split("/")))


def _read_batches(files: Files, source: str, split: str) -> Content:
    """Records of 1 label byte and 3072 colour bytes, as the official archive has them."""
    records, names = [], []
    for batch in BATCHES[split]:
        where = f"{source}, file {batch!r}"
        if batch not in files:
            raise DataError(f"{where}: is missing; split {split!r} wants {', '.join(BATCHES[split])}")
        if not files[batch] or len(files[batch]) % RECORD:
            raise DataError(f"{where}: got {len(files[batch])} bytes, wanted a multiple of {RECORD}; fetch it again")
        record = np.frombuffer(files[batch], np.uint8).reshape(-1, RECORD)
        if (record[:, 0] > 9).any():
            first = int(np.argmax(record[:, 0] > 9))
            raise DataError(f"{where}: got label {record[first, 0]} in record {first}, wanted 0 to 9; fetch it again")
        records.append(record)
        names += [f"{batch}[{i}]" for i in range(len(record))]
    table = np.concatenate(records)
    return table[:, 1:].copy().reshape(-1, 3, 32, 32), table[:, 0].astype(np.int64), tuple(names)


def _read_images(files: Files, source: str) -> Content:
    images = np.empty((len(files), 3, 32, 32), np.uint8)
    for i, (name, data) in enumerate(files.items()):
        images[i] = _decode(data, f"{source}, file {name!r}", (32, 32))
    labels = np.array([CLASSES.index(name.split("/")[0]) for name in files], np.int64)
    return images, labels, tuple(files)


def _decode(data: bytes, where: str, wanted: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(3, 32, 32) of an image, of the wanted size if one is given; the header is judged before a pixel is decoded."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if wanted and image.size != wanted:
            raise DataError(f"{where}: got {image.width} x {image.height} pixels, wanted {wanted[0]} x {wanted[1]}")
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{where}: got {image.width} x {image.height} pixels, wanted at most {MAX_PIXELS} in all")
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{where}: got more than 8 bits a channel (mode {image.mode}), wanted 8; convert it first")
        upright = ImageOps.exif_transpose(image).convert("RGB")
    except DataError:
        raise
    except Exception as error:  # on a damaged file the decoders raise nearly any kind
        reason = str(error).partition(" <")[0]  # Pillow prints the buffer's address after it
        raise DataError(f"{where}: not a whole image ({reason}), wanted one of {', '.join(FORMATS)}") from error
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, top, left + side, top + side))  # first, or the filter reaches beyond the square
    pixels = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS), np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
