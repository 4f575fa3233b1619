"""Training images that do not fit into memory: they stay in their files and are decoded ahead of the steps that want them."""

import functools
import sys
import threading

import numpy as np

from dynnas_jax.data.readers import Reader, Undecodable, too_many
from dynnas_jax.data.warps import ATTEMPTS, check_box, random_box


class Streamed:
    """Images uint8[n, h, w, c] that stay in files, in place of an array in a `Split`.

    An image that does not decode is named, and the next one takes its place.
    """

    def __init__(self, title: str, reader: Reader, image_id: np.ndarray, *, seed: int, skip_share: float, **options):
        self.shape = (len(image_id), *reader.shape)
        self._title, self._reader, self._image_id, self._skip_share = title, reader, image_id, skip_share
        self._threads, self._cut = rule(**options)
        self._seed, self._bad, self._lock = seed, {}, threading.Lock()

    def __len__(self):
        return len(self._image_id)

    def __getitem__(self, index):
        """The images at a slice or an index array, read one after another and fitted as those of the other splits are."""
        return self.read(np.arange(len(self))[index])[0]

    def read(self, places: np.ndarray):
        """(uint8[k, h, w, c], int64[k]): the images at places[k] of the split, and at which they were found."""
        found = [self._decoded(place, None) for place in places.tolist()]
        images = np.stack([pixels for _, pixels in found]) if found else np.empty((0, *self.shape[1:]), np.uint8)
        return images, np.array([place for place, _ in found], np.int64)

    def batches(self, labels: np.ndarray, batch_size: int, order, steps: range, rows: range):
        """An iterator of (uint8[k, h, w, c], int32[k]), one for each step, decoded ahead by several threads.

        Args:
          labels: int32[n] of the images.
          order: position in the stream -> index of the image there.
          rows: the k places of each batch that are wanted, side by side; all of them, or those of one process.

        What a position holds depends on nothing but the seed: a stream that begins later goes on as the whole one does.

        Raises:
          ValueError: on reading, where more images did not decode than `skip_share` of them.
        """
        import grain  # here, since runs on images in memory do without

        def example(number):
            step, row = divmod(number, len(rows))
            position = (steps.start + step) * batch_size + rows.start + row
            index, pixels = self._decoded(order(position), np.random.default_rng([self._seed, 4, position]))
            return pixels, labels[index]

        ahead = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=max(2 * len(rows), self._threads))
        numbers = grain.MapDataset.range(len(steps) * len(rows))
        try:
            yield from numbers.map(example).to_iter_dataset(ahead).batch(len(rows))
        except ValueError as error:  # grain appends lines of its own
            raise ValueError(str(error).partition("\n")[0]) from error

    def _decoded(self, index, generator):
        """(index, pixels) of an image, or of the first after it that decodes; cropped by the draws of a generator, if any."""
        while True:  # until `_note` has enough of it, at the latest when not one decodes
            cut = None if self._cut is None or generator is None else functools.partial(self._cut, generator)
            try:
                return index, self._reader.one(int(self._image_id[index]), cut)
            except Undecodable as error:
                self._note(index, str(error))
                index = (index + 1) % len(self)

    def _note(self, index, what):
        with self._lock:
            new = index not in self._bad
            self._bad[index] = what
            count, first = len(self._bad), next(iter(self._bad.values()))
        if count > self._skip_share * len(self) or count == len(self):
            raise ValueError(too_many(self._title, count, len(self), self._skip_share, first))
        if new:
            print(f"dynnas: skipped an image that does not decode ({count} so far): {what}", file=sys.stderr)


def rule(*, crop_scale: tuple | None = None, crop_ratio: tuple = (3 / 4, 4 / 3), threads: int = 16):
    """How images are streamed: (threads, cut), where `cut(generator, height, width)` draws a box, or is None.

    Args:
      crop_scale, crop_ratio: a random crop of the whole image, before it is resized to `data.image_size`; as the options of
        these names in `augment.rule`, which see the resized image only. None: the central square, as in the other splits.
      threads: that decode.

    Raises:
      ValueError: for an impossible value.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads={threads!r} in data.stream: give a whole number of at least 1")
    if crop_scale is None:
        return threads, None
    check_box("data.stream", crop_scale, crop_ratio)

    def cut(generator, height, width):
        draw, place = generator.random((2, ATTEMPTS), np.float32), generator.random(2, np.float32)
        return tuple(int(x) for x in random_box(draw, place, height, width, crop_scale, crop_ratio, np))

    return threads, cut
