"""The hot loops. An op is a folder: a public function, its specification (`reference.py`) and its backends.

`mmxai.kernels.crc32c`, `.gather`, `.topk_rows` and so on; those for autoencoders work on `.codes.Codes`.
Every public function takes `backend="auto"` or the name of one; `status()` says which backend serves each op
on this machine, and why the others do not.
"""

from mmxai.kernels._dispatch import OpStatus, status

__all__ = ["OpStatus", "status"]
