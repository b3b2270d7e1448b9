"""The contracts of plug-ins."""
