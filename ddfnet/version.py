"""The version, where setup.cfg reads it without importing torch."""

__version__ = "0.1.0"
