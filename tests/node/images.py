"""Images for the node: into containerd, since no registry is asked.

What lives here: `load`. What must not: how images are made.
"""

import tempfile
from pathlib import Path

from tests.image.images import Image, write_archive
from tests.node.network import enter, run
from tests.node.place import SOCKET


def load(image: Image) -> None:
    """Put an image where the kubelet finds it."""
    with tempfile.TemporaryDirectory(prefix="perdure-image-") as folder:
        archive = Path(folder) / "image.tar"
        write_archive(image, archive)
        run(*enter("ctr", f"--address={SOCKET}", "--namespace=k8s.io", "images", "import", str(archive)))
