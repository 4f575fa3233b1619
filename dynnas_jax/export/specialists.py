"""Several exported classifiers in one folder, one of which answers at a time: switched by name on the device.

A copy of this module lies above the export folders of superclasses. There:

    python specialists.py vehicle photo.jpg

    from specialists import Specialists
    nets = Specialists(".")
    print(nets.switch("vehicle").predict("photo_of_the_right_size.png"))
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import numpy as np

if __package__:
    from dynnas_jax.export import metadata, photos, runtime
else:  # lying alone above export folders
    import metadata
    import photos
    import runtime


class Specialists:
    """The classifiers of a folder's subfolders, by their names; each is opened when it is first asked for, and stays open."""

    def __init__(
        self, path: str | Path, precision: str | None = None, threads: int = 1, delegate: str | None = None
    ) -> None:
        """Looks at a folder of export folders.

        Args:
          path: the folder; precision, threads, delegate: see `runtime.DynamicClassifier`.

        Raises: ValueError where no subfolder holds an export.
        """
        self._path, self._options = Path(path), (precision, threads, delegate)
        found = sorted(file.parent.name for file in self._path.glob("*/*") if file.suffix in (".tflite", ".onnx"))
        self.names = tuple(dict.fromkeys(found))
        if not self.names:
            raise ValueError(f"{self._path} has no subfolder with an export; `dynnas specialize` writes them")
        self._opened: dict[str, runtime.DynamicClassifier] = {}
        self.current: str | None = None

    def switch(self, name: str) -> Specialists:
        """Makes the classifier of a name the one that answers; returns this object.

        Raises: ValueError for an unknown name (the nearest is named), or a damaged export; the current one stays.
        """
        if name not in self.names:
            near = difflib.get_close_matches(str(name), self.names, n=1, cutoff=0.0)[0]
            raise ValueError(f"{name!r} is not here, did you mean {near!r}? There are {', '.join(self.names)}")
        if name not in self._opened:
            classifier = runtime.DynamicClassifier(self._path / name, *self._options)
            classifier.warm_up()
            self._opened[name] = classifier
        self.current = name
        return self

    @property
    def classifier(self) -> runtime.DynamicClassifier:
        """The one that answers. Raises ValueError before the first `switch`."""
        if self.current is None:
            raise ValueError(f"no classifier is chosen yet: call switch with one of {', '.join(self.names)}")
        return self._opened[self.current]

    def predict(self, image: np.ndarray | str | Path) -> runtime.Prediction:
        """The current classifier's answer for one image; see `runtime.DynamicClassifier.predict`."""
        return self.classifier.predict(image)


def write(folder: str | Path, modules: tuple[Path, ...]) -> None:
    """Puts this module, and the modules that it needs, above the export folders of `folder`."""
    for module in (Path(__file__), *modules):
        shutil.copyfile(module, Path(folder) / module.name)


def main(arguments: list[str] | None = None) -> None:
    """The command line of a folder of export folders; a mistake of the user's is one plain line and exit code 2."""
    parser = runtime.Parser(
        prog="specialists.py", description="Classifies pictures by one of these networks.", allow_abbrev=False
    )
    parser.add_argument("name", help="of the network: the folder it lies in")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture of any size")
    parser.add_argument("--precision", choices=metadata.PRECISIONS)
    known = parser.parse_args(arguments)
    with runtime.plainly("specialists.py"):
        classifier = Specialists(Path(__file__).parent, known.precision).switch(known.name).classifier
        for path in known.images:
            pixels, _ = photos.fitted(path, classifier.image_shape, classifier.metadata.get("central_share", 1.0))
            answer = classifier.predict(pixels)
            print(f"{path}: {answer.label}, {answer.probability:.1%} ({known.name}, {answer.latency_ms:.2f} ms)")


if __name__ == "__main__":
    main()
