"""The header of a DICOM file, read strictly (PS3.5 section 7): every element must fit, to the end of the file.

Of files of old archives the 128 bytes and the mark before the header may be missing, and its first group too.

Where lengths are damaged GDCM searches for minutes, or asks for gigabytes. So it is only given files that are sound as
far as can be seen here, and headers are read here too, where only the tags that are needed are kept.
"""

import math
import re
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path

from tumorcast.data.readers.files import is_file
from tumorcast.errors import InputError

TAGS = {
    "modality": 0x0008_0060,
    "image_type": 0x0008_0008,
    "description": 0x0008_103E,
    "protocol": 0x0018_1030,
    "agent": 0x0018_0010,
    "sequence": 0x0018_0020,
    "repetition_ms": 0x0018_0080,
    "echo_ms": 0x0018_0081,
    "inversion_ms": 0x0018_0082,
}
DATES = (0x0008_0020, 0x0008_0021, 0x0008_0022)  # of the study, the series, the acquisition
STUDY_UID, SERIES_UID, SERIES_NUMBER = 0x0020_000D, 0x0020_000E, 0x0020_0011
POSITION, ORIENTATION = 0x0020_0032, 0x0020_0037
PHOTOMETRY = 0x0028_0004
ROWS, COLUMNS, FRAMES, SAMPLES, BITS = 0x0028_0010, 0x0028_0011, 0x0028_0008, 0x0028_0002, 0x0028_0100
PIXEL_SPACING, THICKNESS = 0x0028_0030, 0x0018_0050
SLOPE, INTERCEPT = 0x0028_1053, 0x0028_1052
INSTANCE_UID = 0x0008_0018
WANTED = frozenset(
    {
        *(*TAGS.values(), *DATES, STUDY_UID, SERIES_UID, SERIES_NUMBER, POSITION, ORIENTATION),
        *(ROWS, COLUMNS, FRAMES, SAMPLES, BITS, PIXEL_SPACING, THICKNESS),
        *(SLOPE, INTERCEPT, INSTANCE_UID, PHOTOMETRY),
    }
)
PREAMBLE = 128
MAGIC = b"DICM"
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
CLASS, TRANSFER_SYNTAX = 0x0002_0002, 0x0002_0010
MR_IMAGES = tuple(f"1.2.840.10008.5.1.4.1.1.4{end}" for end in ("", ".1", ".3"))  # and no spectra, which have no pixels
AFTER_META = 0x0003_0000
FIRST_TAGS = re.compile(rb"\x02\0[\0-\x10]\0|\x08\0[\0-\x20]\0", re.DOTALL)  # of a file without preamble
MOST_INFLATED = 2**30  # bytes of one image
PIXELS = 0x7FE0_0010
AFTER_ALL = 0x1_0000_0000
ITEM, ITEM_END, SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
UNDEFINED, NO_LENGTH = 0xFFFF_FFFF, b"\0\0\0\0"  # the latter follows the marks of an end
DEEPEST = 16  # sequences within sequences
LONGEST_TEXT = 4096
SHORT_VALUES = re.compile("A[EST]|CS|D[AST]|F[DL]|IS|L[OT]|PN|S[HLST]|TM|U[ILS]")  # types with lengths of 16 bits
LONG_VALUES = re.compile("O[BDFLVW]|S[QV]|U[CNRTV]")  # and of 32
WHOLE_NUMBERS = frozenset({0x0028_0002, 0x0028_0010, 0x0028_0011, 0x0028_0100})  # of 16 bits; others kept are text


@dataclass(frozen=True)
class DicomHeader:
    """What a file says of its image. tags: texts and numbers by tag, as 0x0008103E; blank or absent where not there.

    pixel_bytes: 0 where there are no pixels, None where they are compressed.
    """

    path: Path
    tags: dict[int, str]
    pixel_bytes: int | None

    def text(self, tag: int) -> str:
        """The value of a tag, blank where there is none."""
        return self.tags.get(tag, "")


class _UnsoundError(Exception):
    """The file is not as the standard has it."""


def has_mark(path: Path) -> bool:
    """Whether it is an ordinary file that begins as DICOM does: with its mark, or else with a first tag of it."""
    if not is_file(path):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + len(MAGIC))
    except OSError:
        return False
    return start[PREAMBLE:] == MAGIC or _begins_bare(start)


def _begins_bare(start: bytes) -> bool:
    """Whether these first bytes are an element of group 2 or 8, with its type or a length that can be."""
    if len(start) < 8 or not FIRST_TAGS.match(start):
        return False
    kind = start[4:6].decode("latin-1")
    typed = SHORT_VALUES.fullmatch(kind) or LONG_VALUES.fullmatch(kind)
    return typed is not None or struct.unpack_from("<I", start, 4)[0] <= LONGEST_TEXT


def read_header(path: Path, wanted: frozenset[int]) -> DicomHeader:
    """The wanted tags of a DICOM file. Raises InputError if it is no DICOM file or is damaged."""
    try:
        with path.open("rb") as file:
            return _header(path, _Walk(file, path.stat().st_size), wanted)
    except (_UnsoundError, OSError, zlib.error):
        raise InputError(f"{path}: not a DICOM file, damaged or cut short; copy it again") from None


def _header(path: Path, walk: "_Walk", wanted: frozenset[int]) -> DicomHeader:
    start = walk.peek(PREAMBLE + len(MAGIC))
    bare = start[PREAMBLE:] != MAGIC
    if not bare:
        walk.take(PREAMBLE + len(MAGIC))
    elif not _begins_bare(start):
        raise _UnsoundError
    meta = walk.elements(frozenset({CLASS, TRANSFER_SYNTAX}), stop=AFTER_META)
    syntax = meta.get(TRANSFER_SYNTAX, "")
    if not syntax:
        if not bare or meta:
            raise _UnsoundError
        syntax = EXPLICIT if SHORT_VALUES.fullmatch(start[4:6].decode("latin-1")) else IMPLICIT
    if syntax == DEFLATED:
        walk = walk.inflated()
    walk.explicit, walk.order = syntax != IMPLICIT, ">" if syntax == BIG_ENDIAN else "<"
    tags = walk.elements(wanted, stop=PIXELS)
    pixels = walk.pixels(compressed=syntax not in {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN})
    walk.elements(frozenset(), stop=AFTER_ALL)
    if pixels == 0 and meta.get(CLASS) in MR_IMAGES:
        raise _UnsoundError
    return DicomHeader(path, tags, pixels)


class _Walk:
    """A file read element by element. explicit: whether elements name their type; order: of bytes, as struct has it."""

    def __init__(self, file: BufferedIOBase, size: int) -> None:
        self.explicit = True
        self.order = "<"
        self._file = file
        self._size = size

    def take(self, count: int) -> bytes:
        """The next bytes, all of them."""
        taken = self._file.read(count)
        if len(taken) < count:
            raise _UnsoundError
        return taken

    def peek(self, count: int) -> bytes:
        """The next bytes, as many as there are; they come again."""
        start = self._file.tell()
        ahead = self._file.read(count)
        self._file.seek(start)
        return ahead

    def inflated(self) -> "_Walk":
        """What follows here, which is deflated (RFC 1951)."""
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpacker.decompress(self._file.read(), MOST_INFLATED)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise _UnsoundError
        return _Walk(BytesIO(content), len(content))

    def elements(self, wanted: frozenset[int], *, stop: int) -> dict[int, str]:
        """The wanted values of the elements before tag `stop`, which comes next then, or before the end."""
        values: dict[int, str] = {}
        previous = -1
        while (start := self._file.tell()) < self._size:
            tag = self._tag()
            if tag >= stop:
                self._file.seek(start)
                break
            if tag <= previous:
                raise _UnsoundError
            previous = tag
            kind, length = self._kind_and_length()
            if tag in wanted and length <= LONGEST_TEXT:
                values[tag] = _value(tag, self.take(length), self.order)
            else:
                self._pass_over(kind, length, depth=0)
        return values

    def pixels(self, *, compressed: bool) -> int | None:
        """Bytes of the pixels, if these come next: all of them; None where they are compressed."""
        if self._file.tell() == self._size or self._tag() != PIXELS:
            return 0
        _, length = self._kind_and_length()
        if compressed != (length == UNDEFINED):
            raise _UnsoundError
        if compressed:
            self._fragments()
            return None
        self._skip(length)
        return length

    def _tag(self) -> int:
        group, element = struct.unpack(f"{self.order}HH", self.take(4))
        return int(group << 16 | element)

    def _kind_and_length(self) -> tuple[str, int]:
        if not self.explicit:
            return "", int(struct.unpack(f"{self.order}I", self.take(4))[0])
        kind = self.take(2).decode("latin-1")
        if SHORT_VALUES.fullmatch(kind):
            return kind, int(struct.unpack(f"{self.order}H", self.take(2))[0])
        if not LONG_VALUES.fullmatch(kind):
            raise _UnsoundError
        return kind, int(struct.unpack(f"{self.order}xxI", self.take(6))[0])

    def _skip(self, length: int) -> None:
        end = self._file.tell() + length
        if end > self._size:
            raise _UnsoundError
        self._file.seek(end)

    def _pass_over(self, kind: str, length: int, *, depth: int) -> None:
        if kind == "SQ" or length == UNDEFINED:
            if kind not in {"SQ", "UN", ""} or depth > DEEPEST:
                raise _UnsoundError
            explicit, self.explicit = self.explicit, self.explicit and kind == "SQ"
            self._items(length, depth=depth + 1)
            self.explicit = explicit
        else:
            self._skip(length)

    def _items(self, length: int, *, depth: int) -> None:
        end = self._end(length)
        while self._file.tell() < end:
            tag, item = self._tag(), int(struct.unpack(f"{self.order}I", self.take(4))[0])
            if tag == SEQUENCE_END and length == UNDEFINED and item == 0:
                return
            if tag != ITEM:
                raise _UnsoundError
            self._item(item, depth=depth)
        if length == UNDEFINED or self._file.tell() != end:
            raise _UnsoundError

    def _item(self, length: int, *, depth: int) -> None:
        end, previous = self._end(length), -1
        while self._file.tell() < end:
            tag = self._tag()
            if tag == ITEM_END and length == UNDEFINED:
                if self.take(4) != NO_LENGTH:
                    raise _UnsoundError
                return
            if tag <= previous:
                raise _UnsoundError
            previous = tag
            self._pass_over(*self._kind_and_length(), depth=depth)
        if length == UNDEFINED or self._file.tell() != end:
            raise _UnsoundError

    def _end(self, length: int) -> int:
        end = self._size if length == UNDEFINED else self._file.tell() + length
        if end > self._size:
            raise _UnsoundError
        return end

    def _fragments(self) -> None:
        while (tag := self._tag()) == ITEM:
            self._skip(int(struct.unpack(f"{self.order}I", self.take(4))[0]))
        if tag != SEQUENCE_END or self.take(4) != NO_LENGTH:
            raise _UnsoundError


def _value(tag: int, value: bytes, order: str) -> str:
    if tag not in WHOLE_NUMBERS:
        return value.decode("latin-1").strip(" \0")
    if len(value) != 2:
        raise _UnsoundError
    return str(struct.unpack(f"{order}H", value)[0])


def number(text: str) -> float:
    """The first number of a header's text; NaN where there is none, which no comparison holds of."""
    try:
        return float(text.split("\\", maxsplit=1)[0])
    except ValueError:
        return math.nan
