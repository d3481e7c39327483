"""The cache of compiled code: what the user wrote and is whole is loaded, and anything else is compiled again."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
from noisestep.accelerated.backends.native import build, cache, check

NAME = "native-0.so"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that is compiled in no time."""
    folder = tmp_path_factory.mktemp("library")
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang", "c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("needs a compiler, and there is none")
    (folder / "answer.c").write_text("int answer(void) { return 42; }\n")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "answer.so"), str(folder / "answer.c")], check=True
    )
    return folder / "answer.so"


class Cache:
    """A folder of libraries, and how often one was compiled."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.library, self.times = folder, library, 0

    @property
    def file(self) -> Path:
        return self.folder / NAME

    def compile_to(self, path: Path) -> None:
        self.times += 1
        shutil.copy(self.library, path)

    def load(self) -> ctypes.CDLL:
        code = cache.load(NAME, self.compile_to)
        assert code.answer() == 42
        return code


@pytest.fixture
def libraries(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("NOISESTEP_CACHE", str(tmp_path / "cache"))
    return Cache(tmp_path / "cache", compiled)


def test_a_library_is_compiled_once_for_the_user_alone(libraries: Cache) -> None:
    for _ in range(3):
        libraries.load()
    assert libraries.times == 1
    assert [path.name for path in libraries.folder.iterdir()] == [NAME]
    assert libraries.folder.stat().st_mode & 0o077 == 0
    assert libraries.file.stat().st_mode & 0o077 == 0


def test_a_library_that_was_cut_short_or_has_a_wrong_bit_is_compiled_again(libraries: Cache) -> None:
    libraries.load()
    whole = libraries.file.read_bytes()
    draw = random.Random(0)
    damaged = [whole[:length] for length in (0, 1, 31, 32, 33, 4096, len(whole) - 32, len(whole) - 1)]
    damaged += [whole + b"\0", whole[-32:]]
    for place in [8 * len(whole) - 1, *(draw.randrange(8 * len(whole)) for _ in range(159))]:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for times, content in enumerate(damaged, start=2):
        libraries.file.write_bytes(content)
        libraries.load()
        assert libraries.times == times
        assert libraries.file.read_bytes() == whole


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can give files to others")


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda file: os.chown(file, 12345, 12345), marks=as_root, id="another's file"),
        pytest.param(lambda file: file.chmod(0o720), id="writable by the group"),
        pytest.param(lambda file: file.chmod(0o702), id="writable by all"),
        pytest.param(lambda file: (file.rename(f"{file}.there"), file.symlink_to(f"{file}.there")), id="a link"),
        pytest.param(lambda file: (file.unlink(), os.mkfifo(file, 0o700)), id="a pipe"),
    ],
)
def test_a_file_that_others_may_have_written_is_not_loaded(libraries: Cache, plant) -> None:
    libraries.load()
    plant(libraries.file)
    libraries.load()
    assert libraries.times == 2
    libraries.load()
    assert libraries.times == 2


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        pytest.param(lambda folder: os.chown(folder, 12345, 12345), "belongs to user 12345", marks=as_root, id="owner"),
        pytest.param(lambda folder: folder.chmod(0o770), r"others can write to it \(mode 770\)", id="group"),
        pytest.param(lambda folder: folder.chmod(0o1777), r"others can write to it \(mode 1777\)", id="all"),
    ],
)
def test_a_folder_that_others_can_write_to_is_not_used_and_the_user_is_told(libraries: Cache, plant, reason) -> None:
    libraries.load()
    before = libraries.file.stat()
    plant(libraries.folder)
    with pytest.warns(cache.NativeCacheRefused, match=reason) as seen:
        libraries.load()
    assert len(seen) == 1
    assert libraries.times == 2
    assert libraries.file.stat() == before


def test_where_nothing_can_be_kept_the_library_is_compiled_for_this_process(
    libraries: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.open, 0

    def refuse(path, flags, *rest, **options):
        nonlocal full
        if flags & os.O_EXCL and (full := full + 1) == 1:
            raise OSError(28, "No space left on device")
        return write(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    libraries.load()
    assert list(libraries.folder.iterdir()) == []
    # a file where the folder should be
    monkeypatch.setenv("NOISESTEP_CACHE", str(libraries.library))
    libraries.load()
    assert libraries.times == 2


def test_processes_that_save_at_once_and_are_killed_leave_a_whole_library(libraries: Cache) -> None:
    libraries.load()
    content, at = libraries.file.read_bytes(), os.open(libraries.folder, os.O_RDONLY)
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            while True:
                cache._is_saved(NAME, content, at)
        children.append(child)
    try:
        for child in children:
            for _ in range(20):
                assert cache._is_sound(NAME, at)
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    finally:
        for child in children:
            with warnings.catch_warnings():
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    left = set(os.listdir(at)) - {NAME}
    assert all(name.startswith(cache._UNFINISHED) for name in left)
    # what is certainly left over goes with the next library
    for name in (*left, f"{cache._UNFINISHED}0"):
        (libraries.folder / name).touch()
        os.utime(libraries.folder / name, (0, 0))
    assert cache._is_saved(NAME, content, at)
    assert os.listdir(at) == [NAME]
    os.close(at)


def test_every_function_of_a_library_is_checked_when_it_is_loaded() -> None:
    functions = build.library()
    if functions is None:
        pytest.skip("native code needs a C++ compiler, and there is none")
    assert check.wrong(functions) is None
    for name in build._STRUCTURES:
        assert check.wrong({**functions, name: lambda *words: 0}) == name
