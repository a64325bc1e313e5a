"""Image files below a folder: subfolders, sorted by name, are classes 0, 1, ..."""

from __future__ import annotations

from pathlib import Path

from slowflow.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def image_files(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """((file, class) of every image, names of the classes); no names when there are no subfolders.

    Raises:
        DataError: no images, or images beside subfolders.
    """
    groups = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if groups and any(p.suffix.lower() in SUFFIXES for p in folder.iterdir()):
        raise DataError(f"{folder} holds images beside its subfolders; put every image into a class, or none")
    found = [
        (file, label)
        for label, group in enumerate(groups or [folder])
        for file in sorted(p for p in group.iterdir() if p.suffix.lower() in SUFFIXES)
    ]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}), neither itself nor in subfolders")
    return found, [group.name for group in groups]
