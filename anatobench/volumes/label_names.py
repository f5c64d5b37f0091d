"""The label names that TotalSegmentator writes into its masks: a Caret XML label table in a NIfTI header extension.

<CaretExtension> ... <LabelTable><Label Key="1" ...><![CDATA[spleen]]></Label> ... </CaretExtension>
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.parsers import expat
from xml.sax.saxutils import escape

MAX_NAMES = 4096
EXTENSION_CODE = 0
"""What TotalSegmentator writes. NIFTI_ECODE_CARET is 30, so the reader goes by the content."""


def parse_label_names(content: bytes) -> dict[int, str] | None:
    """Label to name, or None if the extension is something else or is damaged. Entities are never expanded."""
    if b"CaretExtension" not in content:
        return None
    table = _LabelTable()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = table.refuse_doctype
    parser.StartElementHandler = table.start
    parser.EndElementHandler = table.end
    parser.CharacterDataHandler = table.text
    try:
        parser.Parse(content.rstrip(b"\0 \n"), True)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an encoding that Python does not know
        return None
    return table.names or None


def format_label_names(names: Mapping[int, str]) -> bytes:
    """Return the extension for `names`, readable by TotalSegmentator's `load_multilabel_nifti` and by
    `parse_label_names`."""
    labels = "\n".join(
        f'<Label Key="{label}" Red="1" Green="1" Blue="1" Alpha="1">{escape(name)}</Label>'
        for label, name in names.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>\n'
        f"{labels}\n</LabelTable></VolumeInformation></CaretExtension>"
    ).encode()


class _LabelTable:
    """Collects the labels while expat walks the document."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[str]] = {}
        self._label: int | None = None

    @property
    def names(self) -> dict[int, str]:
        """Label to name, without labels that have none."""
        return {label: "".join(pieces) for label, pieces in self._pieces.items() if pieces}

    def refuse_doctype(self, *_: object) -> None:
        raise ValueError("a label table declares no document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "Label":
            self._label = int(attributes.get("Key", ""))
            if len(self._pieces) >= MAX_NAMES:
                raise ValueError("too many labels")
            self._pieces.setdefault(self._label, [])

    def text(self, text: str) -> None:
        if self._label is not None and text.strip():
            self._pieces[self._label].append(text.strip())

    def end(self, tag: str) -> None:
        if tag == "Label":
            self._label = None
