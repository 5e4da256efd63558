"""Everything that refstack refuses, as a small tree. Every message says what, where, got, wanted, next.

RefstackError                exit code
  UsageError                 2     an argument makes no sense
  ShapeError                 2     a layer, weight or input does not fit its neighbours
  FormatError                2     a model file or an encoded weight is not what it claims to be
  DataError                  2     a data set or image cannot be read
  ChecksumError              1     a file's content is not the published one
  CheckFailed                1     a kernel's output is outside its bound
  NoKernelError              3     no registered kernel can run a node
  BackendUnavailable         3     a backend lacks something on this machine
  CompileError               3     the C compiler refused a kernel
  ResourceError              3     no memory or no disk space left
"""


class RefstackError(Exception):
    """Base of all refstack errors; `exit_code` is what the command line returns."""

    exit_code = 2


class UsageError(RefstackError):
    """An argument makes no sense."""


class ShapeError(RefstackError):
    """A layer, weight or input does not fit its neighbours."""


class FormatError(RefstackError):
    """A model file or an encoded weight is not what it claims to be."""


class DataError(RefstackError):
    """A data set or image cannot be read."""


class ChecksumError(DataError):
    """A file's content is not the published one."""

    exit_code = 1


class CheckFailed(RefstackError):
    """A kernel's output is outside its bound."""

    exit_code = 1


class NoKernelError(RefstackError):
    """No registered kernel can run a node."""

    exit_code = 3


class BackendUnavailable(RefstackError):
    """A backend lacks something on this machine."""

    exit_code = 3


class CompileError(RefstackError):
    """The C compiler refused a kernel."""

    exit_code = 3


class ResourceError(RefstackError):
    """No memory or no disk space is left."""

    exit_code = 3
