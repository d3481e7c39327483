"""`noisestep verify`: says of every file of a run whether it is whole."""

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from ..errors import DamagedCheckpoint, RunError
from ..training import checkpoint as checkpoints
from ..training import tensor_file
from ..training.checkpoint_files import files_set_aside, steps
from ..training.config import difference
from ..training.log import read_log
from .lease import holder
from .run_folder import RunFolder


def verify_run(run: RunFolder, say: Callable[[str], object]) -> bool:
    """Say a line for each file of a run, and return whether all are whole and there is a checkpoint to go on from.

    A checkpoint is whole if it is what was written, and of this run; a picture if it can be decoded; a text file if its
    last line is complete. A run may train meanwhile: what it is writing at the moment is not whole yet.
    """
    config = run.read_config()
    owner = holder(run)
    if owner is not None:
        say(f"{owner} trains in {run}, or was ended before it could say so")
    good = True
    partial, aside = run.partial_files(), files_set_aside(run.checkpoints)
    for path in sorted(path for path in run.path.rglob("*") if not path.is_dir() and path != run.lock):
        name = path.relative_to(run.path)
        if path in aside:
            say(f"set aside  {name}")
            continue
        try:
            if path in partial:
                raise ValueError("unfinished: a process is writing it, or was ended")
            if path.parent == run.checkpoints:
                found = checkpoints.load(path)
                if other := difference(found.config, config):
                    raise ValueError(f"of another run: {other}")
            elif path == run.features:
                tensor_file.read(path)
            elif path == run.log.csv:
                _require_last_line(path)
                read_log(path)
            else:
                _KINDS.get(path.suffix, _tensorboard if path.parent == run.log.tensorboard else _unknown)(path)
        except FileNotFoundError:
            # removed since it was listed, by the process that trains
            continue
        except (DamagedCheckpoint, RunError) as error:
            reason = str(error).removeprefix(f"{path}: ")
        except OSError as error:
            reason = error.strerror or str(error)
        except (ValueError, SyntaxError, EOFError, zipfile.BadZipFile, struct.error) as error:
            reason = str(error) or type(error).__name__
        else:
            say(f"whole      {name}")
            continue
        good = False
        say(f"NOT WHOLE  {name}: {reason}")
    for folder in run.generated():
        # the last file that is written
        if not folder.settings.exists():
            good = False
            say(f"NOT WHOLE  {folder.path.relative_to(run.path)}: not all of its files are written")
    if not steps(run.checkpoints):
        good = False
        say(f"NOT WHOLE  {run.checkpoints.relative_to(run.path)}: there is no checkpoint")
    return good


def _json(path: Path) -> None:
    if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
        raise ValueError("not a JSON object")


def _picture(path: Path) -> None:
    # decoders do without the end
    if not path.read_bytes().endswith(b"IEND\xaeB`\x82" if path.suffix == ".png" else b";"):
        raise ValueError("its end is missing")
    with Image.open(path) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            image.load()


def _arrays(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(f"{name} in it is damaged")


def _page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("its end is missing")


def _require_last_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        raise ValueError("its last line is incomplete")


def _tensorboard(path: Path) -> None:
    content = path.read_bytes()
    for start, stop, checksum in _records(content):
        if masked_crc32c(content[start:stop]) != checksum:
            raise ValueError(f"the record at byte {start} is damaged")


def _records(content: bytes) -> Iterator[tuple[int, int, int]]:
    """First and last byte of each part of an event file, and its checksum: of the length, and of the event itself."""
    at = 0
    while at < len(content):
        (length, checksum) = struct.unpack_from("<QI", content, at)
        yield at, at + 8, checksum
        (checksum,) = struct.unpack_from("<I", content, at + 12 + length)
        yield at + 12, at + 12 + length, checksum
        at += 16 + length


def _unknown(path: Path) -> None:
    raise ValueError("not a file of a run")


_KINDS: dict[str, Callable[[Path], None]] = {
    ".json": _json,
    ".png": _picture,
    ".gif": _picture,
    ".npz": _arrays,
    ".html": _page,
    ".log": _require_last_line,
}
