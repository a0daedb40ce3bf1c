"""Pages about dictionaries: one table of all, and the units of each with their examples."""

from mmxai.report.decompose.pages import DictionaryPages, dictionary_pages

__all__ = ["DictionaryPages", "dictionary_pages"]
