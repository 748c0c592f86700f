"""`python -m tests.image FOLDER`: write the archives of all images to a folder and print how to load them."""

import os
import sys
from pathlib import Path

from tests.image import images


def main(arguments: list[str]) -> int:
    """Write the archives; 2 for words that mean nothing."""
    if len(arguments) != 1:
        print("usage: python -m tests.image FOLDER", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("The layers are made as root: run `sudo make images`, or `docker build .`", file=sys.stderr)
        return 1
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (images.perdure, images.postgresql):
        image = make()
        path = folder / f"{image.name.rpartition('/')[2].replace(':', '-')}.tar"
        images.write_archive(image, path)
        print(f"{path}: {image.name} (docker load -i, kind load image-archive, ctr -n k8s.io image import)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
