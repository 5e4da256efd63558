"""The loader gives exactly the pixels that were written, says which data they are, and refuses everything else."""

import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refstack import datasets
from refstack.datasets import CLASSES, load, load_image, preprocess
from refstack.errors import DataError, ShapeError, UsageError

PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.xz": lzma.compress}


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def pixels(seed: int, shape: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def image_files(root: str = "", each: int = 2) -> dict[str, bytes]:
    """`each` images of every class, in an order that is not the sorted one."""
    names = [f"{root}{label}/{i:04d}.png" for i in range(each) for label in reversed(CLASSES)]
    return {name: encode(pixels(seed)) for seed, name in enumerate(names)}


def batch_files(root: str = "cifar-10-batches-bin/", records: int = 20) -> dict[str, bytes]:
    out = {f"{root}readme.html": b"<html>"}
    for seed, name in enumerate((*datasets.BATCHES["train"], *datasets.BATCHES["test"])):
        table = pixels(seed, (records, 3073))
        table[:, 0] = np.arange(records) % 10
        out[root + name] = table.tobytes()
    return out


def entry(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            archive.addfile(entry(name, size=len(data)), io.BytesIO(data))
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def place(path: Path, files: dict[str, bytes], kind: str = "folder") -> Path:
    """The files as a folder, or as an archive with this suffix."""
    if kind != "folder":
        return write(path.with_name(f"{path.name}.{kind}"), PACK[kind](tar(files)))
    path.mkdir(exist_ok=True)
    for name, data in files.items():
        write(path / name, data)
    return path


@pytest.mark.parametrize("kind", ["folder", *PACK])
@pytest.mark.parametrize("root", ["", "any root/"])
def test_class_folders_exactly(tmp_path: Path, kind: str, root: str) -> None:
    files = image_files(root)
    path = place(tmp_path / "set", files | {root + "README.txt": b"text", root + "cat/.hidden": b"text"}, kind)
    data = load(path)
    names = sorted(name.removeprefix(root) for name in files)
    assert data.names == tuple(names)
    assert len(data) == 20
    wanted = np.stack([np.asarray(Image.open(io.BytesIO(files[root + name]))) for name in names])
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.images, wanted.transpose(0, 3, 1, 2))
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [CLASSES.index(n.split("/")[0]) for n in names]
    assert (data.name, data.source) == ("set", str(path))
    # One identity however it is packed and whatever the folder above is called.
    assert data.sha256 == load(place(tmp_path / "plain", image_files())).sha256


@pytest.mark.parametrize("kind", ["folder", *PACK])
@pytest.mark.parametrize("split", ["train", "test"])
def test_official_batches_exactly(tmp_path: Path, kind: str, split: str) -> None:
    files = batch_files()
    data = load(place(tmp_path / "set", files, kind), split)
    table = b"".join(files["cifar-10-batches-bin/" + name] for name in datasets.BATCHES[split])
    assert len(data) == len(data.names) == len(table) // 3073 == (100 if split == "train" else 20)
    assert data.images.shape == (len(data), 3, 32, 32)
    assert data.images.flags.c_contiguous
    again = b"".join(bytes([label]) + image.tobytes() for label, image in zip(data.labels, data.images, strict=True))
    assert again == table
    assert data.names[-1] == datasets.BATCHES[split][-1] + "[19]"
    assert data.name == f"set-{split}"
    assert data.sha256 == load(place(tmp_path / "inside", batch_files("")), split).sha256


def test_official_name_needs_the_official_count_of_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = batch_files("")
    monkeypatch.setattr(datasets, "PER_CLASS", {"train": 10, "test": 2})
    folder = place(tmp_path / "set", files)
    assert [load(folder, split).name for split in ("train", "test")] == ["cifar10-train", "cifar10-test"]
    place(folder, {"test_batch.bin": b"\1" + files["test_batch.bin"][1:]})  # an airplane becomes an automobile
    assert load(folder, "test").name == "set-test"


def test_identity_follows_every_byte_and_name(tmp_path: Path) -> None:
    files = image_files()
    cat, dog = files["cat/0000.png"], files["dog/0000.png"]
    variants = [
        files,
        files | {"cat/0000.png": dog, "dog/0000.png": cat},
        {name: data for name, data in files.items() if name != "cat/0000.png"},
        files | {"cat/0000.png": encode(np.asarray(Image.open(io.BytesIO(cat))), compress_level=0)},
        {name.replace("cat/0000", "cat/00000"): data for name, data in files.items()},
    ]
    assert len({load(place(tmp_path / str(i), files)).sha256 for i, files in enumerate(variants)}) == len(variants)


def test_jpeg_and_grey_are_read_as_rgb(tmp_path: Path) -> None:
    grey, flat = pixels(1, (32, 32)), np.full((32, 32, 3), (200, 100, 50), np.uint8)
    files = {"cat/a.png": encode(grey), "cat/b.jpg": encode(flat, "JPEG", quality=100)}
    images = load(place(tmp_path / "set", files)).images
    assert np.array_equal(images[0], np.stack([grey] * 3))
    # Flat at quality 100: only Y, Cb, Cr are rounded, by 1/2 each, then 1/2 + 1.772 / 2 + the last 1/2 is below 2.
    assert np.abs(images[1].astype(int) - flat.transpose(2, 0, 1)).max() < 2


def test_split_chooses_among_sets_side_by_side(tmp_path: Path) -> None:
    path = place(tmp_path / "both", image_files("train/", 2) | image_files("val/", 1), "tar")
    assert (len(load(path, "train")), len(load(path, "val")), load(path, "val").name) == (20, 10, "both-val")
    with pytest.raises(DataError, match=r"both.tar': holds several sets \('train', 'val'\), wanted one called 'test'"):
        load(path)


def test_linked_class_folders_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place(tmp_path / "store", image_files())
    (tmp_path / "set").mkdir()
    for label in CLASSES:
        (tmp_path / "set" / label).symlink_to(store / label)
    assert np.array_equal(load(tmp_path / "set").images, load(store).images)
    (store / "a").symlink_to(store)
    (store / "b").symlink_to(store)
    monkeypatch.setattr(datasets, "MAX_FILES", 500)  # and a circle of links ends
    with pytest.raises(DataError, match="holds more than 500 files"):
        load(store)


@pytest.mark.parametrize("name", ["modèle ✓ a b", "new\nline", os.fsdecode(b"not-utf8-\xff")])
def test_any_path_works_and_the_name_is_printable(tmp_path: Path, name: str) -> None:
    for kind in ("folder", "tar"):
        data = load(place(tmp_path / name, {f"cat/{name}.png": encode(pixels(0))}, kind))
        assert len(data) == 1
        assert data.name.isprintable()
        assert data.name.encode()
    assert load_image(write(tmp_path / f"{name}.png", encode(pixels(0)))).shape == (3, 32, 32)


def test_preprocess_is_the_formula() -> None:
    u = np.broadcast_to(np.arange(256, dtype=np.uint8), (2, 3, 4, 256))
    x = preprocess(u)
    assert x.dtype == np.float32
    assert x.shape == u.shape
    assert x.flags.c_contiguous
    eps = 2.0**-24  # largest relative error of one float32 rounding
    constants = np.array([(0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)], np.float32)
    mean, std = constants.astype(np.float64)[:, :, None, None]
    a, b = u / 255, u / 255 - mean
    bound = eps * ((a + np.abs(b)) / std + np.abs(b / std)) * (1 + 2.0**-20)  # one rounding each of /, - and /
    within = np.abs(x - b / std) <= bound
    assert within.size == 2 * 3 * 4 * 256
    assert within.all()
    for fault in (x[:, ::-1], x * np.float32(1 + 2.0**-20), x + np.float32(1 / 255), x * np.float32("nan")):
        assert not (np.abs(fault - b / std) <= bound).all()
    assert preprocess(pixels(0)[None].transpose(0, 3, 1, 2)).flags.c_contiguous
    for bad in (np.zeros((1, 3, 32, 32), np.float32), np.zeros((3, 32, 32), np.uint8), pixels(0)[None]):
        with pytest.raises(ShapeError, match=r"preprocess: got (float32|uint8) \(.*\), wanted uint8 \(n, 3, h, w\)"):
            preprocess(bad)


def test_batches_cover_the_set_once(tmp_path: Path) -> None:
    data = load(place(tmp_path / "set", image_files()))
    assert [len(y) for _, y in data.batches(8)] == [8, 8, 4]
    assert np.array_equal(np.concatenate([x for x, _ in data.batches(8)]), preprocess(data.images))
    assert np.array_equal(np.concatenate([y for _, y in data.batches(8)]), data.labels)
    with pytest.raises(UsageError, match="batch size: got 0, wanted at least 1"):
        next(data.batches(0))
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_subset_takes_classes_in_turn(tmp_path: Path) -> None:
    files = image_files(each=3)
    del files["cat/0002.png"]
    data = load(place(tmp_path / "set", files))
    whole = data.subset(28)
    assert whole.names[:11] == (*(f"{label}/0000.png" for label in CLASSES), "airplane/0001.png")
    for n in range(1, 29):
        part = data.subset(n)
        counts = np.bincount(part.labels, minlength=10)
        assert part.names == whole.names[:n]
        assert np.array_equal(part.images, whole.images[:n])
        assert n > 23 or counts.max() - counts.min() <= 1  # balanced for as long as every class has images left
        assert all(CLASSES[label] == name.split("/")[0] for label, name in zip(part.labels, part.names, strict=True))
        assert all(np.array_equal(part.images[i], data.images[data.names.index(part.names[i])]) for i in range(n))
    assert (data.subset(5).name, data.subset(29)) == ("set-balanced5", data)
    assert len({data.sha256, data.subset(5).sha256, data.subset(6).sha256}) == 3
    for n in (0, 30):
        with pytest.raises(UsageError, match=f"subset of set: got {n} images, wanted 1 to 29"):
            data.subset(n)


PNG = encode(pixels(0))
HUGE = b"IHDR" + (60000).to_bytes(4, "big") * 2 + PNG[24:29]
HUGE_PNG = PNG[:12] + HUGE + zlib.crc32(HUGE).to_bytes(4, "big") + PNG[33:]  # only the header's claim is changed
FOUR_BATCHES = {f"data_batch_{i}.bin": bytes(3073) for i in (1, 2, 4, 5)}
BAD_SETS = {
    "empty": ({}, "holds no images for split 'test'; wanted <class>/<image> files, or the official binary batches"),
    "pickled": ({"cifar-10-batches-py/test_batch": b"\x80\x02"}, "the pickled Python version is not read"),
    "class": ({"catt/a.png": PNG}, "file 'catt/a.png': got class folder 'catt', wanted one of airplane, automobile"),
    "nested": ({"cat/more/a.png": PNG}, "got class folder 'more', wanted one of"),
    "loose": ({"a.png": PNG}, "file 'a.png': got class folder none, wanted one of"),
    "size": ({"cat/a.png": encode(pixels(0, (33, 32, 3)))}, "file 'cat/a.png': got 32 x 33 pixels, wanted 32 x 32"),
    "bomb": ({"cat/a.png": HUGE_PNG}, "file 'cat/a.png': not a whole image .*3600000000 pixels"),
    "text": ({"cat/a.png": b"no image"}, r"not a whole image \(cannot identify image file\), wanted one of PNG, JPEG"),
    "nothing": ({"cat/a.png": b""}, "file 'cat/a.png': not a whole image"),
    "other": ({"cat/notes": b"no image"}, "file 'cat/notes': not a whole image"),
    "eps": ({"cat/a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n"}, r"\(cannot identify image"),
    "16 bit": ({"cat/a.png": encode(pixels(0, (32, 32)).astype(np.uint16) * 256)}, r"more than 8 bits .*mode I;16"),
    "label": ({"test_batch.bin": bytes(3073) + b"\x0a" + bytes(3072)}, "'test_batch.bin': got label 10 in record 1"),
    "length": ({"test_batch.bin": bytes(3072)}, "'test_batch.bin': got 3072 bytes, wanted a multiple of 3073"),
    "no record": ({"test_batch.bin": b""}, "'test_batch.bin': got 0 bytes, wanted a multiple of 3073"),
    "missing batch": (
        FOUR_BATCHES,
        "'data_batch_3.bin': is missing; split 'train' wants data_batch_1.bin, data_batch_2",
    ),
}


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("case", BAD_SETS)
def test_bad_set(tmp_path: Path, case: str, kind: str) -> None:
    path = place(tmp_path / "set", BAD_SETS[case][0], kind)
    with pytest.raises(DataError, match=BAD_SETS[case][1]) as caught:
        load(path, "train" if case == "missing batch" else "test")
    assert str(caught.value).startswith(repr(str(path)))


BAD_MEMBERS = {
    "absolute": (entry("/cat/b.png"), "member '/cat/b.png': leaves the archive, wanted a relative path without '..'"),
    "dots": (entry("cat/../../b.png"), "leaves the archive"),
    "symlink": (entry("cat/b.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'cat/b.png': is a link, device or"),
    "hardlink": (entry("cat/b.png", type=tarfile.LNKTYPE, linkname="cat/0000.png"), "is a link, device or"),
    "fifo": (entry("cat/b.png", type=tarfile.FIFOTYPE), "is a link, device or"),
    "device": (entry("cat/b.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "is a link, device or"),
    "sparse": (entry("b", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.realsize": "1"}), "or sparse file"),
    "large": (entry("cat/b.png", size=1 << 40), f"got {1 << 40} bytes, wanted at most {64 << 20}"),
    "negative": (entry("cat/b.png", size=-512), "got -512 bytes, wanted at most"),
    "negative extension": (entry("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=-512), "not a whole tar"),
    "twice": (entry("./cat/0000.png"), "member './cat/0000.png': is there twice, wanted each path once"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_member(tmp_path: Path, case: str) -> None:
    info, message = BAD_MEMBERS[case]
    good = tar(image_files(each=1))
    assert len(load(write(tmp_path / "good.tar", good))) == 10
    header = info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT)
    end = len(good.rstrip(b"\0")) // 512 * 512 + 512
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "bad.tar", good[:end] + header + bytes(1024)))


@pytest.mark.parametrize("kind", ["folder", *PACK])
def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = place(tmp_path / "set", image_files(each=1), kind)
    assert len(load(path)) == 10
    for name, value, message in (
        ("MAX_FILES", 9, "holds more than 9 files or"),
        ("MAX_BYTES", 20_000, "files or 20000 bytes; give one data set"),
        ("MAX_FILE_BYTES", 3000, r"got \d+ bytes, wanted at most 3000"),
        ("MAX_PIXELS", 1023, "got 32 x 32 pixels, wanted at most 1023 in all"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(datasets, name, value)
            with pytest.raises(DataError, match=message):
                load(path)


@pytest.mark.parametrize("kind", PACK)
def test_archive_cut_or_damaged(tmp_path: Path, kind: str) -> None:
    content = tar({f"cat/{i}.png": PNG for i in range(3)})
    whole = PACK[kind](content)
    last = len(content.rstrip(b"\0")) // 512 * 512 if kind == "tar" else len(whole) - 1  # the last block that counts
    for cut in (*range(0, last, 97), last):
        with pytest.raises(DataError, match=r"cut.tar': not a whole tar, tar.gz or tar.xz archive"):
            load(write(tmp_path / "cut.tar", whole[:cut]))
    assert len(load(write(tmp_path / "cut.tar", whole))) == 3
    second = content.index(b"cat/1.png")
    damaged = content[:second] + b"C" + content[second + 1 :]
    with pytest.raises(DataError, match=f"damaged or cut short at byte {second}"):  # not taken for the end
        load(write(tmp_path / "cut.tar", PACK[kind](damaged)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_images_give_data_errors_only(tmp_path: Path, kind: str) -> None:
    whole = encode(pixels(3), kind)
    assert load_image(write(tmp_path / "whole", whole)).shape == (3, 32, 32)
    rng, refused = np.random.default_rng(0), 0
    for trial in range(150):
        bad = bytearray(whole[: rng.integers(1, len(whole))] if trial % 2 else whole)
        for at in rng.integers(0, min(len(bad), 200), 3):
            bad[at] = rng.integers(0, 256)
        try:
            image = load_image(write(tmp_path / "bad", bytes(bad)))
        except DataError:
            refused += 1
        else:
            assert image.shape == (3, 32, 32)
            assert image.dtype == np.uint8
    assert refused > 40


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    folder = place(tmp_path / "set", image_files(each=1))
    os.mkfifo(folder / "cat" / "x.png")
    for path in (folder / "cat" / "x.png", Path("/dev/zero")):
        for read in (load, load_image):
            with pytest.raises(DataError, match=f"'{path}': neither a file nor a folder; pipes and devices are not"):
                read(path)
    with pytest.raises(DataError, match=r"cat/x.png': neither a file nor a folder"):
        load(folder)
    for path in (tmp_path / "missing", tmp_path / "nul\0", tmp_path / ("long" * 100)):
        with pytest.raises(DataError, match="cannot be read"):
            load(path)
    with pytest.raises(DataError, match="is a folder, wanted a file"):
        load_image(tmp_path)


def test_load_image_cuts_the_centre_and_turns_upright(tmp_path: Path) -> None:
    image, wide, exif = pixels(5), np.zeros((64, 193, 3), np.uint8), Image.Exif()
    wide[:, 64:128] = (10, 200, 30)
    wide[:, 128:] = 255
    flat = np.tile(wide[:32, 64:65], (1, 32, 1))
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    for data, wanted in (
        (encode(image), image),  # untouched
        (encode(image, exif=exif), np.rot90(image, -1)),
        (encode(wide), flat),
        (encode(wide.transpose(1, 0, 2).copy()), flat),
    ):
        got = load_image(write(tmp_path / "a.png", data))
        assert np.array_equal(got, wanted.transpose(2, 0, 1))
        assert got.flags.c_contiguous


def test_import_is_light() -> None:
    heavy = "{'PIL', 'pooch', 'platformdirs', 'requests'}"
    code = f"import sys, refstack.datasets; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["cifar10-lossless-val", "cifar10-jpeg75-test"])
def test_published_sets_are_known_by_content(cifar10: Path, tmp_path: Path, name: str) -> None:
    file, size = {"cifar10-lossless-val": ("val-lossless", 2000), "cifar10-jpeg75-test": ("test", 10000)}[name]
    data = load(write(tmp_path / "renamed.tar", lzma.decompress((cifar10 / f"{file}.tar.xz").read_bytes())))
    assert data.name == name == datasets.PUBLISHED[data.sha256]
    assert (len(data), set(data.labels.tolist())) == (size, set(range(10)))
