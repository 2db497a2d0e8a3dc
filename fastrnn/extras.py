"""Optional packages: imported where they are used, and asked for by name where one is missing."""

from importlib import import_module


def need(package: str, what: str) -> None:
    """Import an optional package for `what`, or say how to get it.

    ModuleNotFoundError, with the package's name, where it is not installed.
    """
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        text = f"{what} needs {package}, which is not installed: pip install {package}"
        raise ModuleNotFoundError(text, name=package) from error
