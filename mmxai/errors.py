"""Every error a user can meet. Each message says what was got, what was expected and what to do."""


class MmxaiError(Exception):
    """Base of all errors raised by mmxai on purpose; the command line prints these without a traceback."""


class StoreError(MmxaiError):
    """Something about an activation store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """No store at that path."""


class StoreExistsError(StoreError, FileExistsError):
    """Something is already at that path."""


class StoreInUseError(StoreError):
    """The operation needs the store to itself, and another process holds it."""


class StoreFormatError(StoreError):
    """The store was written by an incompatible version, or its metadata is damaged."""


class PlanMismatchError(StoreError):
    """The store was made by another plan; the message lists each difference."""


class CorruptPartError(StoreError):
    """Bytes on disk differ from their commit record. `part` and `key` name the place."""

    def __init__(self, message: str, *, part: int, key: str):
        super().__init__(message)
        self.part, self.key = part, key


class DiskFullError(StoreError):
    """The file system has no room; everything committed is safe and a second run resumes."""


class StorageOverflowError(StoreError):
    """A finite activation does not fit the storage dtype (it would become inf)."""


class ModelError(MmxaiError):
    """A model cannot be found, loaded or understood."""


class UnknownSiteError(ModelError, KeyError):
    """A site name or glob matches nothing; the message names the nearest."""

    __str__ = Exception.__str__


class SiteNotFiredError(ModelError):
    """A hook ran a different number of times than its adapter declares."""


class CompiledModelError(ModelError):
    """Hooks on an already compiled module would silently never run, and this torch cannot run it plainly."""


class DataError(MmxaiError):
    """The data set cannot be found or understood."""


class UnreadableSampleError(DataError):
    """One sample cannot be decoded. `key` names it."""

    def __init__(self, message: str, *, key: str):
        super().__init__(message)
        self.key = key


class SelectionError(MmxaiError):
    """A token selection that selects nothing, or contradicts itself."""


class RowSpaceError(MmxaiError):
    """Sites of different row spaces were asked for row by row."""


class SAEFormatError(MmxaiError):
    """A saved sparse autoencoder is damaged, or of another version or width."""


class DictionaryFormatError(MmxaiError):
    """A saved dictionary of `mmxai decompose` is damaged, or of another version or width."""


class LensFormatError(MmxaiError):
    """A saved tuned lens is damaged, or of another version, width or model."""


class CheckpointError(MmxaiError):
    """A training run's checkpoint is damaged, or was made with other settings or data."""


class NonFiniteError(MmxaiError):
    """Activations hold NaN or inf where numbers are needed; the message names a row."""


class BackendError(MmxaiError):
    """A kernel backend asked for by name cannot run here; the message says why."""


class ArgumentError(MmxaiError, ValueError):
    """A public function was called with an unusable value."""
